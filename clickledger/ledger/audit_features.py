"""The snapshots that recompute runs decided on: each chunk's are those it was done with, and staging pinned them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from clickledger.ledger import canonical, copied_rows, database, run_features

SELECT_RUNS = """
    SELECT r.run_id, r.mode, (SELECT l.payload FROM log l WHERE l.position = r.staged_position)
    FROM replay_runs r WHERE r.mode = 'recompute'
       OR EXISTS (SELECT FROM replay_chunks c WHERE c.run_id = r.run_id AND c.features_digest IS NOT NULL)
    ORDER BY r.run_id"""
SELECT_CHUNKS = """
    SELECT chunk_no, lower(positions), upper(positions), row_count, status, features_digest
    FROM replay_chunks WHERE run_id = %s ORDER BY chunk_no"""
SELECT_ROWS = f"""
    SELECT {", ".join(run_features.COLUMNS)} FROM run_features
    WHERE run_id = {{run_id}} AND log_position >= {{lo}} AND log_position < {{hi}} ORDER BY log_position, line"""
SELECT_UNOWNED = """
    SELECT f.run_id, count(*) FROM run_features f WHERE NOT EXISTS (
        SELECT FROM replay_chunks c WHERE c.run_id = f.run_id AND c.status = 'done'
                                      AND c.features_digest IS NOT NULL AND f.log_position <@ c.positions)
    GROUP BY f.run_id ORDER BY f.run_id"""


def verify(conn: database.Connection) -> list[str]:
    """What is wrong with recounted snapshots, a line each."""
    failures = []
    for run_id, mode, staged in conn.execute(SELECT_RUNS).fetchall():
        chunks = conn.execute(SELECT_CHUNKS, (run_id,)).fetchall()
        failures += [f"run {run_id}: {problem}" for problem in _of_chunks(conn, run_id, mode, chunks)]
        recorded = json.loads(staged).get("features_digest") if staged else None
        if staged and recorded != _digest(chunks):
            failures.append(f"run {run_id}: its recounted snapshots are not those recorded when it was staged")
    unowned = conn.execute(SELECT_UNOWNED).fetchall()
    return failures + [f"run {run_id}: {n} recounted snapshots of no chunk that is done" for run_id, n in unowned]


def _of_chunks(conn: database.Connection, run_id: int, mode: str, chunks: list[tuple[Any, ...]]) -> Iterator[str]:
    for number, lo, hi, _, status, digest in chunks:
        if (digest is not None) != (status == "done" and mode == "recompute"):
            yield f"chunk {number}: expected a digest of its snapshots if it is done and recomputed, and else none"
        elif digest is not None:
            query = SELECT_ROWS.format(run_id=run_id, lo=lo, hi=hi)
            rows = (row[copied_rows.FIELD_COUNT_BYTES :] for row in copied_rows.stream(conn, query))
            if run_features.digest(rows) != bytes(digest):
                yield f"chunk {number}: its recounted snapshots are not those it was done with"


def _digest(chunks: list[tuple[Any, ...]]) -> str:
    done = [(lo, hi, count, bytes(digest)) for _, lo, hi, count, _, digest in chunks if digest is not None]
    return canonical.run_digest(done).hex()
