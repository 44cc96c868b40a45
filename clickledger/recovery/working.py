"""Working on a run: chunk after chunk, until none is left or the time is over."""

from __future__ import annotations

import logging
import time

from clickledger import errors
from clickledger.ledger import database, runs
from clickledger.recovery import chunks, redecide

logger = logging.getLogger(__name__)


def work(conn: database.Connection, run_id: int, worker: str, lease_seconds: float, seconds: float) -> int:
    """Do chunks of a run, beginning none after `seconds`; the clicks decided.

    A chunk that fails is noted and left for later; the next one follows. Raises Unavailable when the database is gone:
    the lease then expires and somebody else takes over.
    """
    until = time.monotonic() + seconds
    run = runs.get(conn, run_id)
    judge = None
    decided = 0
    while time.monotonic() < until and (lease := chunks.claim(conn, run_id, worker, lease_seconds)):
        try:
            judge = judge or redecide.judge_of(conn, run.model_version, run.calibration_version)
            decided += chunks.execute(conn, run, lease, judge)
        except chunks.LostLease as lost:
            logger.warning("%s; its work is thrown away", lost)
        except errors.Unavailable:
            raise
        except Exception as error:
            logger.exception("run %d chunk %d failed in attempt %d", run_id, lease.chunk_no, lease.attempts)
            chunks.note_failure(conn, lease, error)
    return decided
