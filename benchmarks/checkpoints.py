"""Signing checkpoints and proving entries of a log of 10^6 and 10^7 entries.

Entries are made by one INSERT with hashes that follow from nothing: of an entry the tree reads its chain hash only.
`first` makes every tile; `next` is what happens each minute, with 1,000 entries more, cold caches of this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.ground import Figure, Ground, Result, say
from clickledger.ledger import checkpoint_keys, checkpoints, database, log, merkle_tiles, signed_note

SIZES = (10**6, 10**7)
QUICK_SIZES = (600,)
ROUNDS, QUICK_ROUNDS = 20, 1
TARGET_MS = 1_000.0
GROW = """
    INSERT INTO log
    SELECT g, 'noted', date_trunc('milliseconds', clock_timestamp()), 'benchmark', '', '{}', 0, sha256(''::bytea),
           sha256(int8send(g))
    FROM generate_series(%s::bigint, %s::bigint) g"""


def run(ground: Ground) -> Result:
    """Milliseconds of a first and of later checkpoints, of a proof, and of verifying all of them, by size."""
    result = Result()
    with database.connect(ground.fresh_database()) as conn:
        key = signed_note.generate(checkpoint_keys.origin(conn))
        checkpoint_keys.announce(conn, key, "benchmark")
        slowest = 0.0
        for size in QUICK_SIZES if ground.quick else SIZES:
            say(f"checkpoints: {size:,} entries")
            _grow(conn, size)
            first = _milliseconds(lambda: checkpoints.sign(conn, key, "benchmark"))
            rounds = QUICK_ROUNDS if ground.quick else ROUNDS
            later = max(_next(conn, key) for _ in range(rounds))
            proof = _milliseconds(
                lambda at=size // 3: merkle_tiles.Tree(conn).inclusion_proof(at, log.head(conn).position)
            )
            verified = _milliseconds(lambda: _verified(conn))
            slowest = max(slowest, later)
            name = f"{size:,} entries"
            result.figures += [
                Figure(f"{name}, first checkpoint", first, "ms", "every tile is made"),
                Figure(f"{name}, next checkpoint", later, "ms", f"slowest of {rounds}, 1,000 entries each"),
                Figure(f"{name}, inclusion proof", proof, "ms"),
                Figure(f"{name}, checkpoints and tiles verified", verified, "ms", "made again from the log"),
            ]
    target = f"at most {TARGET_MS:.0f} ms"
    result.figures.append(Figure("slowest next checkpoint", slowest, "ms", "", target, slowest <= TARGET_MS))
    result.keys["checkpoint_ms_max"] = round(slowest, 2)
    return result


def _grow(conn: database.Connection, to: int) -> None:
    head = log.head(conn).position
    conn.execute(GROW, (head + 1, to))
    conn.execute("VACUUM ANALYZE log")


def _next(conn: database.Connection, key: signed_note.SigningKey) -> float:
    _grow_by(conn, 1_000)
    return _milliseconds(lambda: checkpoints.sign(conn, key, "benchmark"))


def _grow_by(conn: database.Connection, entries: int) -> None:
    head = log.head(conn).position
    conn.execute(GROW, (head + 1, head + entries))


def _verified(conn: database.Connection) -> None:
    if failures := checkpoints.verify(conn):
        raise AssertionError(f"expected checkpoints that hold, got {failures}")


def _milliseconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000
