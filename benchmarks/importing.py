"""Imports of history against raw COPY: the same rows, the same server, taking turns in one run.

Raw COPY is that of `benchmarks.append`: one stream a table, one commit a turn, its bytes ready made. An import's time
is all of it: encoding, hashing, the lock, both COPYs, leaves, entry and a commit for each batch. Then a live appender
of small batches works beside an import: how long it waits for the log is what an import's batch size costs others.
"""

from __future__ import annotations

import statistics
import threading
import time

from benchmarks import append as appends
from benchmarks.ground import Figure, Ground, Result, quantile, say
from benchmarks.models import ACTOR
from benchmarks.traffic import Traffic
from clickledger.ledger import append, database, importing
from clickledger.ledger.records import Batch

TARGET = 0.70
LIVE_ROWS = 16


def run(ground: Ground) -> Result:
    """The ratio `import_vs_copy`, and live appends beside an import."""
    rounds, batches = (1, 2) if ground.quick else (10, 24)
    result = Result()
    url = ground.fresh_database()
    with database.connect(url) as conn:
        _against_copy(conn, rounds, batches, result)
        _beside(conn, url, batches, result)
    return result


def _against_copy(conn: database.Connection, rounds: int, batches: int, result: Result) -> None:
    traffic = Traffic(lane=7)
    append.append(conn, traffic.batch(256), actor=ACTOR)
    appends.make_twins(conn)
    ours, raw = [], []
    for number in range(rounds):
        say(f"importing: round {number + 1} of {rounds}")
        history = list(traffic.batches(batches, importing.BATCH_ROWS))
        started = time.perf_counter()
        positions = [done.position or 0 for done in importing.import_batches(conn, history, actor=ACTOR)]
        ours.append(importing.BATCH_ROWS * batches / (time.perf_counter() - started))
        raw.append(importing.BATCH_ROWS * batches / appends.copy_turn(conn, positions, len(positions)))
    ratios = [a / b for a, b in zip(ours, raw, strict=True)]
    ratio = statistics.median(ratios)
    note = f"rounds {min(ratios):.2f} to {max(ratios):.2f}"
    result.figures += [
        Figure(f"import, batches of {importing.BATCH_ROWS:,}", statistics.median(ours), "clicks/s"),
        Figure("raw COPY of the same rows, one stream", statistics.median(raw), "clicks/s"),
        Figure("import / raw COPY stream", ratio, "", note, f"at least {TARGET:.2f}", ratio >= TARGET),
    ]
    result.keys |= {"import_vs_copy": round(ratio, 4), "import_clicks_per_s": round(statistics.median(ours))}


def _beside(conn: database.Connection, url: str, batches: int, result: Result) -> None:
    """Latencies of a live appender alone, then beside an import, on a connection of its own."""
    live = list(Traffic(lane=8).batches(210 + 100 * batches, LIVE_ROWS))
    history = list(Traffic(lane=9).batches(batches, importing.BATCH_ROWS))
    done = threading.Event()

    def import_all() -> None:
        with database.connect(url) as mine:
            try:
                for _ in importing.import_batches(mine, history, actor=ACTOR):
                    pass
            finally:
                done.set()

    alone = [_seconds(conn, live.pop()) for _ in range(200)]
    importer = threading.Thread(target=import_all)
    importer.start()
    beside = []
    while live and not done.is_set():
        beside.append(_seconds(conn, live.pop()))
    importer.join()
    for name, seconds in (("alone", alone), ("beside an import", beside)):
        p50, p99 = 1000 * quantile(seconds, 0.5), 1000 * quantile(seconds, 0.99)
        note = f"p50 {p50:.1f} ms, {len(seconds)} appends"
        result.figures.append(Figure(f"live append of {LIVE_ROWS}, p99, {name}", p99, "ms", note))
    result.keys["append_p99_beside_import_ms"] = round(1000 * quantile(beside, 0.99), 2)


def _seconds(conn: database.Connection, batch: Batch) -> float:
    started = time.perf_counter()
    append.append(conn, batch, actor=ACTOR)
    return time.perf_counter() - started
