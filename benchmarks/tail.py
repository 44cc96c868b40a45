"""The slow end of an append: its p99.9 beside that of the least a durable fact can cost, one row and its commit.

Both work on one connection in turns, one append of 16 clicks, one INSERT of one narrow row, so that a checkpoint, a new
WAL segment or a busy machine meets both alike.
"""

from __future__ import annotations

import time

from benchmarks.ground import Figure, Ground, Result, quantile, say
from benchmarks.models import ACTOR
from benchmarks.traffic import Traffic
from clickledger.ledger import append, database

TARGET = 3.0
ROWS = 16
INSERT = "INSERT INTO bare VALUES (%s, 'one row')"


def run(ground: Ground) -> Result:
    """`append_p999_vs_commit`: how many times a bare commit's p99.9 an append's is."""
    turns, block = (20, 10) if ground.quick else (20_000, 500)
    appended, committed, result = [], [], Result()
    with database.connect(ground.fresh_database()) as conn:
        conn.execute("CREATE TABLE bare (number bigint PRIMARY KEY, what text NOT NULL)")
        traffic = Traffic(lane=16)
        append.append(conn, traffic.batch(ROWS), actor=ACTOR)
        for start in range(0, turns, block):
            say(f"tail: {start:,} of {turns:,} turns")
            for number, batch in enumerate(list(traffic.batches(block, ROWS)), start):
                began = time.perf_counter()
                append.append(conn, batch, actor=ACTOR)
                between = time.perf_counter()
                conn.execute(INSERT, (number,), prepare=True)
                committed.append(time.perf_counter() - between)
                appended.append(between - began)
    ratio = quantile(appended, 0.999) / quantile(committed, 0.999)
    for name, seconds in ((f"append of {ROWS}", appended), ("a bare row's commit", committed)):
        note = f"p50 {1000 * quantile(seconds, 0.5):.2f} ms, p99 {1000 * quantile(seconds, 0.99):.2f} ms"
        result.figures.append(Figure(f"{name}, p99.9", 1000 * quantile(seconds, 0.999), "ms", note))
    target = f"at most {TARGET:.0f}"
    result.figures.append(Figure("append of 16 / bare commit, p99.9", ratio, "", "", target, ratio <= TARGET))
    result.keys["append_p999_vs_commit"] = round(ratio, 3)
    return result
