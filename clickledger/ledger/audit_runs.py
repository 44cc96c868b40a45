"""Replay runs: their chunks tile their range, and every delayed decision is the one that was staged.

Invariants:
- a row of `delayed_decisions` belongs to a chunk that is done, whose digest is over its rows in (position, line) order;
- the chunks of a staged run give the digest that its `replay_staged` entry recorded.

What a chunk says of the work on it (lease, token, worker, attempts, last error) is no history and not verified.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from clickledger.ledger import canonical, copied_rows, database, departed, log, sparse

ROWS_PER_TASK = 65_536
FAILURES_MAX = 20
SELECT_RUNS = """
    SELECT r.run_id, lower(r.positions), upper(r.positions), r.status, r.content_digest,
           (SELECT l.payload FROM log l WHERE l.position = r.run_id AND l.kind = 'replay_planned')
    FROM replay_runs r ORDER BY r.run_id"""
SELECT_CHUNKS = """
    SELECT chunk_no, lower(positions), upper(positions), row_count, status, content_digest
    FROM replay_chunks WHERE run_id = %s ORDER BY chunk_no, lower(positions)"""
SELECT_ROW_COUNT = """
    SELECT coalesce(sum(row_count), 0)::bigint FROM log
    WHERE position >= %s AND position < %s AND kind = 'clicks_decided'"""
# The index (run_id, log_position) alone answers it.
COUNT_ROWS = "SELECT run_id, count(*) FROM delayed_decisions GROUP BY run_id ORDER BY run_id"
SELECT_STRAY = """
    SELECT d.log_position, d.click_id FROM delayed_decisions d
    WHERE d.run_id = %s AND NOT EXISTS (
        SELECT FROM replay_chunks c WHERE c.run_id = d.run_id AND c.status = 'done' AND d.log_position <@ c.positions)
    LIMIT 1"""
SELECT_UNOWNED_CHUNK = """
    SELECT DISTINCT c.run_id FROM replay_chunks c
    WHERE NOT EXISTS (SELECT FROM replay_runs r WHERE r.run_id = c.run_id) LIMIT 20"""
SELECT_ROWS = f"""
    SELECT {", ".join(canonical.DELAYED_COLUMNS)} FROM delayed_decisions
    WHERE run_id = {{run_id}} AND log_position >= {{lo}} AND log_position < {{hi}}"""
SELECT_STATED = f"""
    SELECT {", ".join(sparse.CORRECTION_COLUMNS)} FROM delayed_decisions WHERE run_id = {{run_id}} ORDER BY click_id"""

# A copied row begins with (run_id, log_position, line), each behind its length.
_POSITION, _LINE, _ORDER = slice(18, 26), slice(30, 34), slice(14, 34)


class Chunk(NamedTuple):
    """A chunk that is done: log positions [lo, hi) of a run, and what finishing it recorded."""

    number: int
    lo: int
    hi: int
    row_count: int
    digest: bytes


@dataclass
class Delayed:
    """How many delayed decisions a task hashed, and what is wrong with them."""

    rows: int
    failures: list[str] = field(default_factory=list)


def parts(conn: database.Connection) -> Iterator[tuple[int, list[Chunk]]]:
    """The done chunks of every run, in groups of about `ROWS_PER_TASK` rows that have no chunk between them."""
    for (run_id,) in conn.execute("SELECT run_id FROM replay_runs ORDER BY run_id").fetchall():
        group: list[Chunk] = []
        for chunk in _done(conn, run_id):
            if group and chunk.lo != group[-1].hi:  # a chunk between them may get its rows before these are read
                yield run_id, group
                group = []
            group.append(chunk)
            if sum(c.row_count for c in group) >= ROWS_PER_TASK:
                yield run_id, group
                group = []
        if group:
            yield run_id, group


def _done(conn: database.Connection, run_id: int) -> list[Chunk]:
    rows = conn.execute(SELECT_CHUNKS, (run_id,)).fetchall()
    return [
        Chunk(n, lo, hi, count, bytes(digest))
        for n, lo, hi, count, status, digest in rows
        if status == "done" and digest
    ]


def verify_chunks(conn: database.Connection, run_id: int, chunks: list[Chunk]) -> Delayed:
    """The rows of some chunks of a run against the digests of the chunks."""
    chunks = sorted(chunks, key=lambda chunk: chunk.lo)
    query = SELECT_ROWS.format(run_id=run_id, lo=chunks[0].lo, hi=max(chunk.hi for chunk in chunks))
    rows = sorted(copied_rows.stream(conn, query), key=lambda row: row[_ORDER])
    result = Delayed(len(rows))
    leaves = dict.fromkeys(range(len(chunks)), b"")
    starts = [chunk.lo for chunk in chunks]
    gone = departed.missing_delayed(conn, run_id, chunks[0].lo, max(chunk.hi for chunk in chunks))
    for number, group in groupby(rows, key=lambda row: bisect_right(starts, _position(row)) - 1):
        there = list(group)
        leaves[number] = canonical.leaves(canonical.DELAYED_DECISION_DOMAIN, (row[2:] for row in there))
        if gone:
            leaves[number] = _with_gone(
                there, leaves[number], [leaf for leaf in gone if _chunk(starts, leaf) == number]
            )
    for number in {_chunk(starts, leaf) for leaf in gone} if gone else ():
        leaves[number] = leaves[number] or _with_gone(
            [], b"", [leaf for leaf in gone if _chunk(starts, leaf) == number]
        )
    for number, chunk in enumerate(chunks):
        name = f"run {run_id}, chunk {chunk.number}"
        if (found := len(leaves[number]) // canonical.LEAF_BYTES) != chunk.row_count:
            result.failures.append(f"{name}: expected {chunk.row_count} decisions, got {found}")
        elif canonical.content_digest(leaves[number]) != chunk.digest:
            result.failures.append(f"{name}: its decisions are not the ones that were staged")
    return result


def _chunk(starts: list[int], leaf: departed.Leaf) -> int:
    return bisect_right(starts, leaf.log_position) - 1


def _with_gone(rows: list[bytes], leaves: bytes, gone: list[departed.Leaf]) -> bytes:
    """Leaves in (log position, line) order: of the rows there are, and as recorded of those that left with a day."""
    size = canonical.LEAF_BYTES
    there = [
        departed.Leaf(_position(row), int.from_bytes(row[_LINE], signed=True), leaves[n * size : (n + 1) * size])
        for n, row in enumerate(rows)
    ]
    return b"".join(leaf.leaf for leaf in sorted(there + gone))


def _position(row: bytes) -> int:
    return int.from_bytes(row[_POSITION], signed=True)


def verify(conn: database.Connection) -> list[str]:
    """The chunks of every run against its entry and the log, and rows that no chunk accounts for."""
    failures = []
    counts = dict(conn.execute(COUNT_ROWS).fetchall())
    for run_id, lo, hi, status, digest, payload in conn.execute(SELECT_RUNS).fetchall():
        chunks = conn.execute(SELECT_CHUNKS, (run_id,)).fetchall()
        failures += [f"run {run_id}: {problem}" for problem in _tiling(conn, chunks, lo, hi, payload)]
        done = [Chunk(n, first, end, count, bytes(d)) for n, first, end, count, s, d in chunks if s == "done" and d]
        if any((chunk[4] == "done") != (chunk[5] is not None) for chunk in chunks):
            failures.append(f"run {run_id}: expected a digest of each chunk that is done, and of no other")
        if digest is not None and canonical.run_digest([c[1:] for c in done]) != bytes(digest):
            failures.append(f"run {run_id}: its chunks do not give the digest recorded when it was staged")
        gone = len(departed.missing_delayed(conn, run_id, 0, log.NO_LIMIT)) if departed.has_rows_of(conn, run_id) else 0
        if not gone:  # else what is left of it is proved by what was staged, leaf by leaf
            failures += [f"run {run_id}: {problem}" for problem in _corrections(conn, run_id, payload)]
        if status == "staged" and len(done) != len(chunks):
            failures.append(f"run {run_id}: it is staged, but {len(chunks) - len(done)} of its chunks are not done")
        expected, found = sum(chunk.row_count for chunk in done), counts.pop(run_id, 0) + gone
        if found != expected:
            failures.append(f"run {run_id}: expected {expected} decisions in all, got {found}{_stray(conn, run_id)}")
    failures += [f"run {run_id}: {n} decisions of a run that was never planned" for run_id, n in counts.items()]
    failures += [f"run {row[0]}: a chunk of a run that was never planned" for row in conn.execute(SELECT_UNOWNED_CHUNK)]
    return failures


def _tiling(
    conn: database.Connection, chunks: list[tuple[Any, ...]], lo: int, hi: int, payload: str | None
) -> Iterator[str]:
    """What is wrong with the cut of a run's range [lo, hi) into chunks."""
    said = json.loads(payload) if payload else {}
    planned, sparse_run = said.get("chunks"), "corrections_digest" in said
    if planned is not None and planned != len(chunks):
        yield f"expected {planned} chunks, got {len(chunks)}"
    expected = lo
    for number, (chunk_no, first, end, row_count, _, _) in enumerate(chunks):
        if chunk_no != number:
            yield f"expected chunk {number}, got chunk {chunk_no}"
        if first != expected:
            yield f"chunk {chunk_no}: expected it from position {expected} on, got {first}"
        if not sparse_run and (logged := _logged(conn, first, end)) != row_count:
            least = logged - sum(map(len, departed.missing_lines(conn, first, end).values()))
            if not least <= row_count < logged:  # planned after a day had left, it has only what was left
                yield f"chunk {chunk_no}: the log says {logged} clicks, got {row_count}"
        expected = end
    if chunks and expected != hi:
        yield f"expected chunks up to position {hi}, got {expected}"


def _logged(conn: database.Connection, lo: int, hi: int) -> int:
    row = conn.execute(SELECT_ROW_COUNT, (lo, hi)).fetchone()
    return int(row[0]) if row else 0


def _corrections(conn: database.Connection, run_id: int, payload: str | None) -> Iterator[str]:
    """Decisions of a sparse run against what its plan was asked for."""
    expected = json.loads(payload).get("corrections_digest") if payload else None
    if expected is not None:
        rows = copied_rows.stream(conn, SELECT_STATED.format(run_id=run_id))
        leaves = canonical.leaves(sparse.CORRECTION_DOMAIN, (row[copied_rows.FIELD_COUNT_BYTES :] for row in rows))
        if canonical.content_digest(leaves).hex() != expected:
            yield "its decisions are not the corrections that were planned"


def _stray(conn: database.Connection, run_id: int) -> str:
    row = conn.execute(SELECT_STRAY, (run_id,)).fetchone()
    return f": click {row[1]} at position {row[0]} lies in no chunk that is done" if row else ""
