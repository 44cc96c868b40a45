"""The rows of one click against the log: the leaf of its batch, and the digests of the chunks that re-decided it.

That the entries themselves are what they were is for `audit`, or for a bundle under a signed checkpoint.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from clickledger import errors
from clickledger.ledger import authority, canonical, database, departed
from clickledger.ledger.authority_map import UNKNOWN, ClickIds

SELECT_PLACE = """
    SELECT d.log_position, d.line, l.leaves, e.content_digest
    FROM decisions d LEFT JOIN leaves l ON l.position = d.log_position LEFT JOIN log e ON e.position = d.log_position
    WHERE d.click_id = %s"""
SELECT_CHUNKS = """
    SELECT r.run_id, k.chunk_no, lower(k.positions), upper(k.positions), k.content_digest,
           r.click_id_min, r.click_id_max
    FROM replay_runs r LEFT JOIN replay_chunks k ON k.run_id = r.run_id AND k.positions @> %(at)s::bigint
    WHERE r.status = 'staged' AND r.run_id = ANY (ARRAY(
        SELECT d.run_id FROM delayed_decisions d WHERE d.click_id = %(id)s))
    ORDER BY r.run_id"""
CHUNK_ROWS = f"""
    SELECT log_position, line, {", ".join(canonical.DELAYED_COLUMNS)} FROM delayed_decisions
    WHERE run_id = {{run_id}} AND log_position >= {{lo}} AND log_position < {{hi}}{{within}}
    ORDER BY log_position, line"""
OF_CLICK = "SELECT {columns} FROM {table} WHERE click_id = %s"


def faults(conn: database.Connection, click_id: uuid.UUID) -> list[str]:
    """What of a click is not as it was appended or staged, a line each; empty when all of it is.

    Raises NotFound. Reads a chunk for each staged run that decided the click.
    """
    with departed.snapshot(conn):
        place = conn.execute(SELECT_PLACE, (click_id,), prepare=False).fetchone()
        if place is None:
            raise errors.NotFound(departed.where_is(conn, click_id) or f"no click {click_id}")
        return [*_of_batch(conn, click_id, *place), *_of_runs(conn, click_id, place[0])]


def _of_batch(
    conn: database.Connection, click_id: uuid.UUID, position: int, line: int, leaves: bytes | None, digest: bytes | None
) -> Iterator[str]:
    if leaves is None or digest is None:
        yield f"entry {position}: {'its leaves are' if leaves is None else 'it is'} missing"
        return
    row = b"".join(
        copied(conn, OF_CLICK.format(columns=", ".join(columns), table=table), (click_id,))[0][2:]
        for table, columns in (("clicks", canonical.CLICK_COLUMNS), ("decisions", canonical.DECISION_COLUMNS))
    )
    size = canonical.LEAF_BYTES
    if canonical.leaves(canonical.DECIDED_CLICK_DOMAIN, [row]) != leaves[line * size : (line + 1) * size]:
        yield f"entry {position}: the row at line {line} is not the one that was appended"
    if canonical.content_digest(leaves) != digest:
        yield f"entry {position}: its leaves are not the ones that were appended"


def _of_runs(conn: database.Connection, click_id: uuid.UUID, position: int) -> Iterator[str]:
    for run_id, number, lo, hi, digest, *bounds in conn.execute(SELECT_CHUNKS, {"at": position, "id": click_id}):
        if number is None:
            yield f"run {run_id}: none of its chunks covers entry {position}"
        elif canonical.content_digest(leaves_of_chunk(conn, run_id, lo, hi, ClickIds(*bounds))) != digest:
            yield f"run {run_id}, chunk {number}: its decisions are not the ones that were staged"


def leaves_of_chunk(conn: database.Connection, run_id: int, lo: int, hi: int, click_ids: ClickIds = UNKNOWN) -> bytes:
    """The leaves of a run's decisions over [lo, hi) in order; of those that left with a day, as they were kept.

    `click_ids`, which must hold all of the run's, keeps other days from being opened.
    """
    within = authority.within(click_ids)
    rows = copied(conn, CHUNK_ROWS.format(run_id=int(run_id), lo=int(lo), hi=int(hi), within=within))
    # A tuple is its field count, then (log_position, line), which are no part of the canonical row.
    leaves = canonical.leaves(canonical.DELAYED_DECISION_DOMAIN, (row[22:] for row in rows))
    if not (gone := departed.missing_delayed(conn, run_id, lo, hi)):
        return leaves
    keys = [(int.from_bytes(row[6:14]), int.from_bytes(row[18:22])) for row in rows]
    size = canonical.LEAF_BYTES
    there = [departed.Leaf(*key, leaves[n * size : (n + 1) * size]) for n, key in enumerate(keys)]
    return b"".join(leaf.leaf for leaf in sorted(there + gone))


def copied(conn: database.Connection, query: str, parameters: tuple[Any, ...] = ()) -> list[bytes]:
    """Tuples of a binary COPY: int16 field count, then each field behind its length."""
    with conn.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)".encode(), parameters) as out:
        rows = [bytes(data) for data in out]
    rows[0] = rows[0][19:]  # the header comes with the first row
    return [row for row in rows if len(row) > 2]  # the trailer is a field count of -1
