"""Publishing and reverting a run of 10^4 to 10^7 corrected decisions, up to 10^6 every one a flip and an adjustment.

The clicks are appended through `ledger.append`, the run is done by `recovery.working`, as Celery workers do it, staged
and compared: nothing about it is special. But the ledger of 10^7 is filled by SQL (`benchmarks.filled`), and its run
flips every tenth decision. Sparse runs, as large as they may be, are published over one another. Each
time is that of the whole call, from asking for the log's lock until the commit was answered, the first of each size
included. Alone, and once beside an appender in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event

from benchmarks.corrections import Mistaken
from benchmarks.filled import Filled
from benchmarks.ground import Figure, Ground, Result, say
from benchmarks.models import ACTOR
from benchmarks.traffic import Traffic
from clickledger.ledger import append, comparison, database, publication, runs, sparse
from clickledger.recovery import working

ROUNDS = {10**4: 10, 10**5: 4, 10**6: 2}  # by size; each compares anew, which takes far longer than publishing
QUICK_ROUNDS = {600: 1}
FILLED, QUICK_FILLED = 10_240_000, 5_120  # decisions of the run that is filled by SQL
SPARSE_ROUNDS = 10  # each leaves two overrides a click behind
TARGET_MS = 50.0


@dataclass
class Times:
    """Milliseconds of each publication and each revert."""

    publishing: list[float] = field(default_factory=list)
    reverting: list[float] = field(default_factory=list)

    def add(self, other: Times) -> None:
        self.publishing += other.publishing
        self.reverting += other.reverting


def run(ground: Ground) -> Result:
    """Milliseconds of publish and revert by size, alone and beside a live appender."""
    result = Result()
    url = ground.fresh_database()
    all_alone = Times()
    with database.connect(url) as conn:
        mistaken = Mistaken(conn)
        for size, rounds in (QUICK_ROUNDS if ground.quick else ROUNDS).items():
            run_id = _staged(conn, mistaken, size)
            alone, beside = Times(), Times()
            for _ in range(rounds):
                _publish_and_revert(conn, run_id, size, alone)
            with _appender(url, mistaken.epoch):
                _publish_and_revert(conn, run_id, size, beside)
            all_alone.add(alone)
            _note(result, size, alone, beside)
        all_alone.add(_sparse(conn, result, 1 if ground.quick else SPARSE_ROUNDS))
    all_alone.add(_filled(ground, result))
    reverting = max(all_alone.reverting)
    slowest = max(reverting, *all_alone.publishing)
    target = f"at most {TARGET_MS:.0f} ms"
    result.figures.append(Figure("slowest of all, alone", slowest, "ms", "", target, slowest <= TARGET_MS))
    result.keys["publish_ms_max"] = round(slowest, 2)
    result.keys["revert_ms_max"] = round(reverting, 2)
    return result


def _filled(ground: Ground, result: Result) -> Times:
    """Each publish and revert of one run over a whole ledger of ten million decisions."""
    size, times = QUICK_FILLED if ground.quick else FILLED, Times()
    with database.connect(ground.fresh_database()) as conn:
        say(f"publish: filling a ledger with {size:,} decisions")
        ledger = Filled(conn, size, 2)
        run_id, _ = ledger.replayed(ledger.lo, ledger.hi)
        for _ in range(2):
            _publish_and_revert(conn, run_id, None, times)
    for what, measured in (("publishing", times.publishing), ("reverting", times.reverting)):
        figure = Figure(f"{what} {size:,} corrected decisions", statistics.median(measured), "ms", _spread(measured))
        result.figures.append(figure)
    return times


def _spread(measured: list[float]) -> str:
    return f"median of {len(measured)}; slowest {max(measured):.1f} ms"


def _sparse(conn: database.Connection, result: Result, rounds: int) -> Times:
    """Each publish and revert of a sparse run of all the clicks it may have, over another one."""
    newest = "SELECT click_id FROM decisions ORDER BY click_id DESC LIMIT %s"
    clicks = [row[0].bytes for row in conn.execute(newest, (sparse.CLICKS_MAX,))]
    times = Times()
    for _ in range(rounds):
        for verdict in ("undecided", "invalid"):
            stated = [sparse.Correction(click, verdict, "measured") for click in clicks]
            run_id = sparse.plan(conn, stated, actor=ACTOR, reason="measured").run_id
            _publish_and_revert(conn, run_id, None, times)
            publication.publish(conn, run_id, comparison.compare(conn, run_id, ACTOR).digest, ACTOR, "measured")
    for what, measured in (("publishing", times.publishing), ("reverting", times.reverting)):
        figure = Figure(
            f"{what} {len(clicks):,} sparse corrections", statistics.median(measured), "ms", _spread(measured)
        )
        result.figures.append(figure)
    return times


def _note(result: Result, size: int, alone: Times, beside: Times) -> None:
    for what, times, other in (
        ("publishing", alone.publishing, beside.publishing),
        ("reverting", alone.reverting, beside.reverting),
    ):
        note = f"{_spread(times)}; beside a busy appender {max(other):.1f} ms"
        result.figures.append(Figure(f"{what} {size:,} corrected decisions", statistics.median(times), "ms", note))


def _staged(conn: database.Connection, mistaken: Mistaken, size: int) -> int:
    """A staged run over `size` clicks."""
    lo, hi = mistaken.append(size)
    say(f"publish: replaying {size:,} clicks")
    stable = mistaken.stable
    run = runs.plan(
        conn, lo, hi, model_version=stable.model, calibration_version=stable.calibration, actor=ACTOR, reason="measured"
    )
    working.work(conn, run.run_id, working.Worker("benchmark", 600.0), seconds=3600.0)
    runs.stage(conn, run.run_id, ACTOR)
    return run.run_id


def _publish_and_revert(conn: database.Connection, run_id: int, size: int | None, times: Times) -> None:
    """Once; `size` is how many flips there must be, None for any number."""
    say(f"publish: comparing run {run_id}")
    compared = comparison.compare(conn, run_id, ACTOR)  # what was published since makes an older comparison stale
    if size is not None and compared.summary["flips"] != size:
        raise RuntimeError(f"expected {size} flips, got {compared.summary['flips']}")
    began = time.perf_counter()
    publication.publish(conn, run_id, compared.digest, ACTOR, "measured")
    published = time.perf_counter()
    publication.revert(conn, run_id, ACTOR, "measured")
    times.publishing.append((published - began) * 1000)
    times.reverting.append((time.perf_counter() - published) * 1000)


@contextmanager
def _appender(url: str, epoch: int) -> Iterator[None]:
    """Appends batches of 256 as fast as it can while the block lasts, from a process of its own."""
    context = multiprocessing.get_context("spawn")
    appending, enough = context.Event(), context.Event()
    process = context.Process(target=_append_until, args=(url, epoch, appending, enough), daemon=True)
    process.start()
    try:
        if not appending.wait(60):
            raise RuntimeError("the appender did not begin")
        yield
    finally:
        enough.set()
        process.join(60)


def _append_until(url: str, epoch: int, appending: Event, enough: Event) -> None:
    traffic = Traffic(deployment_epoch=epoch, lane=9)
    with database.connect(url) as conn:
        while not enough.is_set():
            append.append(conn, traffic.batch(256), actor=ACTOR)
            appending.set()
