"""Runs the daily loop in processes that are killed: python killed_daily.py DATABASE_URL DAY AS_OF_MS.

Each child is forked before anything was computed, goes on with the run, and is killed by SIGKILL: every second one as
soon as it has committed an entry, the others while their entry is in the transaction. Prints what each was killed at,
and ends when a child finds nothing left to do.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from datetime import date
from typing import Any

import torch
from psycopg.pq import TransactionStatus

from clickledger.ledger import database, log
from clickledger.scoring import daily
from clickledger.scoring.daily_runs import Step


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_if_committed(conn: database.Connection) -> None:
    """Called at the end of each transaction that wrote an entry; a registration's lies within another one."""
    if conn.pgconn.transaction_status == TransactionStatus.IDLE:
        _die()


def _die_if_trained(step: Step, done: bool) -> None:
    if done and step is Step.TRAIN:
        _die()


def _dying_after(record: Callable[..., log.Entry]) -> Callable[..., log.Entry]:
    """Record an entry and die before its transaction commits."""

    def recorded(*words: Any, **named: Any) -> log.Entry:
        record(*words, **named)
        _die()
        raise AssertionError("expected to be dead")

    return recorded


def child(url: str, plan: daily.Plan, committed: bool) -> None:
    """Go on with the run until the next entry, then die."""
    with database.connect(url) as conn:
        if committed:
            database.require_confirmed = _die_if_committed
            daily.run(conn, plan, actor="tests", reason="daily", on_step=_die_if_trained)
        else:
            log.Writer.record = _dying_after(log.Writer.record)  # type: ignore[method-assign]
            daily.run(conn, plan, actor="tests", reason="daily")


def main(url: str, day: str, as_of_ms: str) -> None:
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # seconds of imports, which no child need repeat
    plan = daily.Plan(date.fromisoformat(day), int(as_of_ms))
    for number in range(40):
        pid = os.fork()
        if not pid:
            child(url, plan, committed=bool(number % 2))
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(ended, flush=True)
        if ended != -signal.SIGKILL:
            sys.exit(ended)


if __name__ == "__main__":
    main(*sys.argv[1:])
