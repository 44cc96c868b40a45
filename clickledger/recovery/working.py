"""Working on a run: chunk after chunk, until none is left or the time is over."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from clickledger import errors
from clickledger.ledger import database, runs
from clickledger.recovery import chunks, leases, redecide
from clickledger.recovery.throttle import Throttle

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
    """Who works, and how: with `database_url` leases are renewed, with `throttle` live traffic goes first."""

    name: str
    lease_seconds: float
    database_url: str | None = None
    throttle: Throttle | None = None


def work(conn: database.Connection, run_id: int, worker: Worker, seconds: float) -> int:
    """Do chunks of a run, beginning none after `seconds`; the clicks decided.

    A chunk that fails is noted and left for later; the next one follows. A run that is paused or abandoned meanwhile
    gives out no more. Raises Unavailable when the database is gone: the lease then expires and somebody else takes
    over.
    """
    until = time.monotonic() + seconds
    run = runs.get(conn, run_id)
    judges = redecide.Judges(conn)
    decided = 0
    while time.monotonic() < until:
        if worker.throttle is not None:
            worker.throttle.give_way(until)
        lease = chunks.claim(conn, run_id, worker.name, worker.lease_seconds)
        if lease is None:
            break
        decided += _do(conn, run, lease, judges, worker)
    return decided


def _do(conn: database.Connection, run: runs.Run, lease: chunks.Lease, judges: redecide.Judges, worker: Worker) -> int:
    try:
        with leases.kept(worker.database_url, lease, worker.lease_seconds):
            return chunks.execute(conn, run, lease, judges)
    except chunks.LostLease as lost:
        logger.warning("%s; its work is thrown away", lost)
    except errors.Unavailable:
        raise
    except Exception as error:
        logger.exception("run %d chunk %d failed in attempt %d", run.run_id, lease.chunk_no, lease.attempts)
        chunks.note_failure(conn, lease, error)
    return 0
