"""When the daily loop runs, and that it runs once.

Invariants:
- one process at a time is at it: the lock and all it writes are on one connection, so whoever loses the lock can write
  nothing more;
- a day has one run. Beat only wakes: whether one is due, or one that was cut short is to go on, the ledger says.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta

from clickledger import errors
from clickledger.ledger import database, log
from clickledger.recovery import steps
from clickledger.scoring import daily, daily_runs
from clickledger.scoring.daily import OnStep, Plan
from clickledger.scoring.daily_runs import Run

LOCK = "daily training"


def plan_of(day: date, at: time | None, now: datetime) -> Plan:
    """The run of a day: as of the time of day it is scheduled for, or of now where that has not come or is None.

    Raises InvalidInput for a day that has not begun.
    """
    scheduled = datetime.combine(day, at, UTC) if at else now
    if datetime.combine(day, time(0), UTC) > now:
        raise errors.InvalidInput(f"as of {day}: expected a day that has begun, it is {now:%Y-%m-%d} UTC")
    return Plan(day, math.floor(min(scheduled, now).timestamp() * 1000))


def due(conn: database.Connection, at: time, now: datetime) -> Plan | None:
    """The newest scheduled run that has not ended; None when there is none, or the ledger is younger."""
    today = datetime.combine(now.date(), at, UTC)
    newest = today if today <= now else today - timedelta(days=1)
    if log.entry(conn, 1).recorded_at > newest:
        return None
    found = daily_runs.of_day(conn, newest.date())
    return None if found and found.result else plan_of(newest.date(), at, now)


def run(
    conn: database.Connection,
    plan: Plan,
    *,
    actor: str,
    reason: str,
    on_step: OnStep = lambda _step, _done: None,
    again: bool = False,
) -> Run:
    """`daily.run`, by nobody else at the same time. Raises Conflict when another process is at it."""
    with steps.alone(conn, LOCK) as mine:
        if not mine:
            raise errors.Conflict(f"run of {plan.day}: another process is at a daily run; ask again when it is done")
        return daily.run(conn, plan, actor=actor, reason=reason, on_step=on_step, again=again)


def wake(conn: database.Connection, at: time, *, actor: str) -> Run | None:
    """Do or go on with the run that is due; None when none is, or somebody is at it. Raises as `daily.run` does."""
    with steps.alone(conn, LOCK) as mine:
        plan = due(conn, at, datetime.now(UTC)) if mine else None
        return daily.run(conn, plan, actor=actor, reason=f"scheduled for {plan.day}") if plan else None
