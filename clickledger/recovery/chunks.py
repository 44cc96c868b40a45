"""Chunks of a run: PostgreSQL owns the work, whoever does it.

Invariants:
- a chunk is worked on under a lease by the holder of its token; when the lease expires the token is taken back too;
- the rows of a chunk and its state `done` are committed together, and only by the holder of the token in force: however
  often a chunk is executed, it takes effect once;
- a chunk is tried `ATTEMPTS_MAX` times, then set aside with its last error for somebody to look at.

    todo -> leased -> done
     ^        |
     +--------+-> quarantined -> todo (by hand)
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from typing import NamedTuple

from clickledger import errors
from clickledger.ledger import database, delayed, run_features, runs
from clickledger.recovery import redecide

logger = logging.getLogger(__name__)

ATTEMPTS_MAX = 5
ERROR_CHARACTERS_MAX = 500

CLAIM = """
    UPDATE replay_chunks
    SET status = 'leased', lease_until = clock_timestamp() + make_interval(secs => %(lease)s), token = %(token)s,
        worker = %(worker)s, attempts = attempts + 1
    WHERE (run_id, chunk_no) = (
        SELECT c.run_id, c.chunk_no FROM replay_chunks c JOIN replay_runs r USING (run_id)
        WHERE c.run_id = %(run)s AND c.status = 'todo' AND r.status = 'planned' AND r.paused_position IS NULL
        ORDER BY c.chunk_no LIMIT 1 FOR UPDATE OF c SKIP LOCKED)
    RETURNING chunk_no, lower(positions), upper(positions), row_count, attempts"""
FINISH = """
    UPDATE replay_chunks SET status = 'done', lease_until = NULL, content_digest = %s, features_digest = %s
    WHERE run_id = %s AND chunk_no = %s AND token = %s AND status = 'leased'"""
# Kept under its lease, which then expires: the next attempt comes after a pause.
NOTE_FAILURE = """
    UPDATE replay_chunks
    SET last_error = %(error)s, token = NULL,
        status = CASE WHEN attempts >= %(most)s THEN 'quarantined' ELSE status END,
        lease_until = CASE WHEN attempts >= %(most)s THEN NULL ELSE lease_until END
    WHERE run_id = %(run)s AND chunk_no = %(chunk)s AND token = %(token)s AND status = 'leased'"""
RETURN_EXPIRED = """
    UPDATE replay_chunks c
    SET status = CASE WHEN attempts >= %(most)s THEN 'quarantined' ELSE 'todo' END, lease_until = NULL, token = NULL,
        last_error = CASE WHEN token IS NULL THEN last_error
                          ELSE format('worker %%s fell silent in attempt %%s', worker, attempts) END
    FROM (SELECT run_id, chunk_no FROM replay_chunks
          WHERE status = 'leased' AND lease_until < clock_timestamp() {of_run} FOR UPDATE SKIP LOCKED) expired
    WHERE (c.run_id, c.chunk_no) = (expired.run_id, expired.chunk_no)
    RETURNING c.run_id, c.chunk_no, c.status"""
RETURN_EXPIRED_OF_ALL = RETURN_EXPIRED.format(of_run="")
RETURN_EXPIRED_OF_RUN = RETURN_EXPIRED.format(of_run="AND run_id = %(run)s")
# What a lease covered may still be under way: without its token it comes to nothing.
RELEASE = """
    UPDATE replay_chunks SET status = 'todo', attempts = 0, lease_until = NULL, token = NULL
    WHERE run_id = %s AND (status = 'quarantined' OR (%s AND status = 'leased'))"""


@dataclass(frozen=True, slots=True)
class Lease:
    """One chunk, [lo, hi) of a run's positions with `row_count` clicks, held under a token."""

    run_id: int
    chunk_no: int
    lo: int
    hi: int
    row_count: int
    attempts: int
    token: uuid.UUID


class LostLease(errors.Conflict):
    """Another worker holds the chunk by now, or has done it, or its run was given up.

    What was computed is thrown away.
    """


class Returned(NamedTuple):
    """A chunk whose lease had expired and what became of it: 'todo' or 'quarantined'."""

    run_id: int
    chunk_no: int
    status: str


def claim(conn: database.Connection, run_id: int, worker: str, lease_seconds: float) -> Lease | None:
    """Lease the next chunk of a run that is to do; None when there is none, or the run is paused or no longer planned.

    Leases of the run that are over are taken back first: a busy worker takes a dead one's chunk over as soon as it may,
    even where the task that sweeps waits behind many messages.
    """
    _take_back(conn, RETURN_EXPIRED_OF_RUN, run_id)
    token = uuid.uuid4()
    wanted = {"lease": lease_seconds, "token": token, "worker": worker, "run": run_id}
    row = conn.execute(CLAIM, wanted).fetchone()
    if row is None:
        return None
    chunk_no, lo, hi, row_count, attempts = row
    return Lease(run_id, chunk_no, lo, hi, row_count, attempts, token)


def execute(conn: database.Connection, run: runs.Run, lease: Lease, judges: redecide.Judges) -> int:
    """Decide the clicks of a leased chunk again and finish it; how many there were.

    Raises LostLease when the lease is no longer ours or the run was given up, InvariantBroken when the range does not
    hold its clicks.
    """
    rows = redecide.rows(conn, run, lease.lo, lease.hi, judges)
    if (found := len(rows.decisions)) != lease.row_count:
        raise errors.InvariantBroken(
            f"run {lease.run_id}, chunk {lease.chunk_no}: expected {lease.row_count} clicks, got {found}"
        )
    features_digest = run_features.digest(rows.features) if run.mode == runs.RECOMPUTE else None
    write(conn, lease, rows, features_digest)
    return found


def write(conn: database.Connection, lease: Lease, rows: redecide.Rows, features_digest: bytes | None = None) -> None:
    """Write a chunk's canonical rows, in (log_position, line) order, and its state in one transaction."""
    digest = delayed.digest(rows.decisions)
    with conn.transaction():
        # First of all: whoever lost the token learns it before a row of it goes out, and another executor waits here.
        finished = conn.execute(FINISH, (digest, features_digest, lease.run_id, lease.chunk_no, lease.token))
        if finished.rowcount != 1:
            raise LostLease(f"run {lease.run_id}, chunk {lease.chunk_no}: expected token {lease.token} in force")
        try:
            delayed.copy(conn, rows.decisions)
            run_features.copy(conn, rows.features)
        except errors.Conflict as refusal:  # a run that was given up takes no row
            raise LostLease(f"chunk {lease.chunk_no}: {refusal}") from refusal


def note_failure(conn: database.Connection, lease: Lease, error: Exception) -> None:
    """Keep why an attempt failed. The chunk waits until its lease is over, or is quarantined after the last attempt."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_CHARACTERS_MAX]
    noted = {"error": text, "most": ATTEMPTS_MAX, "run": lease.run_id, "chunk": lease.chunk_no, "token": lease.token}
    conn.execute(NOTE_FAILURE, noted)


def sweep(conn: database.Connection) -> list[Returned]:
    """Take back every lease that has expired."""
    return _take_back(conn, RETURN_EXPIRED_OF_ALL)


def _take_back(conn: database.Connection, query: str, run_id: int | None = None) -> list[Returned]:
    returned = [Returned(*row) for row in conn.execute(query.encode(), {"most": ATTEMPTS_MAX, "run": run_id})]
    for one in returned:
        logger.warning("run %d chunk %d: its lease expired, it is %s now", *one)
    return returned


def release(conn: database.Connection, run_id: int, *, leased: bool = False) -> int:
    """Give quarantined chunks their attempts back, with `leased` also those that somebody holds; how many.

    Raises NotFound, or Refused when nothing of the run is left to do.
    """
    if (status := runs.get(conn, run_id).status) != "planned":
        raise errors.Refused(f"run {run_id} is {status}: nothing of it is left to do")
    return conn.execute(RELEASE, (run_id, leased)).rowcount
