"""Publishing and reverting over a thousand earlier publications that lie scattered over the log.

Each time is that of the whole call, from asking for the log's lock until the commit was answered.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

from benchmarks.filled import BATCH_CLICKS, Filled
from benchmarks.ground import Figure, Ground, Result, say
from benchmarks.models import ACTOR
from benchmarks.publish import TARGET_MS
from clickledger.ledger import database, log, publication

EARLIER, QUICK_EARLIER = 1_000, 5
TIMED = 10
RUN_ENTRIES, STRIDE = 2, 3  # entries of each run, and from the begin of one to that of the next


def run(ground: Ground) -> Result:
    """The slowest publication or revert, and the median."""
    earlier, times = QUICK_EARLIER if ground.quick else EARLIER, list[float]()
    with database.connect(ground.fresh_database()) as conn:
        filled = Filled(conn, BATCH_CLICKS * STRIDE * (earlier + TIMED), 1)
        say(f"publications: {earlier:,} of them")
        starts = [filled.lo + STRIDE * number for number in range(earlier + TIMED)]
        for lo in starts[:earlier]:
            filled.published(lo, lo + RUN_ENTRIES)
        for lo in starts[earlier:]:
            run_id, digest = filled.replayed(lo, lo + RUN_ENTRIES)
            times.append(_ms(partial(publication.publish, conn, run_id, digest, ACTOR, "measured")))
            times.append(_ms(partial(publication.revert, conn, run_id, ACTOR, "measured")))
        head = log.head(conn).position
    note = f"median {statistics.median(times):.1f} ms of {len(times)}; log of {head:,} entries"
    what, target = f"publishing or reverting over {earlier:,} publications, slowest", f"at most {TARGET_MS:.0f} ms"
    figure = Figure(what, max(times), "ms", note, target, max(times) <= TARGET_MS)
    return Result([figure], {"publish_ms_max_1000": round(max(times), 2)})


def _ms(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000
