"""When the daily loop runs, and that it runs once; and the judgement of its candidates after their time in shadow.

Invariants:
- one process at a time is at it: the lock and all it writes are on one connection, so whoever loses the lock can write
  nothing more;
- a day has one run. Beat only wakes: whether one is due, or one that was cut short is to go on, the ledger says.

What trains and judges loads torch, so it is imported where something is to be trained or judged: most wakings find
nothing.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

from clickledger import errors
from clickledger.ledger import aliases, database, deployments, log
from clickledger.ledger.aliases import Pair
from clickledger.recovery import steps
from clickledger.scoring import daily_runs, shadowing
from clickledger.scoring.daily_runs import Run
from clickledger.scoring.findings import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from clickledger.scoring.daily import OnStep, Plan

LOCK = "daily training"


def plan_of(day: date, at: time | None, now: datetime) -> Plan:
    """The run of a day: as of the time of day it is scheduled for, or of now where that has not come or is None.

    Raises InvalidInput for a day that has not begun.
    """
    from clickledger.scoring import daily  # noqa: PLC0415 - loads torch

    scheduled = datetime.combine(day, at, UTC) if at else now
    if datetime.combine(day, time(0), UTC) > now:
        raise errors.InvalidInput(f"as of {day}: expected a day that has begun, it is {now:%Y-%m-%d} UTC")
    return daily.Plan(day, math.floor(min(scheduled, now).timestamp() * 1000))


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
    from clickledger.scoring import daily  # noqa: PLC0415 - loads torch

    with steps.alone(conn, LOCK) as mine:
        if not mine:
            raise errors.Conflict(f"run of {plan.day}: another process is at a daily run; ask again when it is done")
        return daily.run(conn, plan, actor=actor, reason=reason, on_step=on_step, again=again)


def wake(conn: database.Connection, at: time, *, actor: str) -> Run | None:
    """Do or go on with the run that is due; None when none is, or somebody is at it. Raises as `daily.run` does."""
    with steps.alone(conn, LOCK) as mine:
        plan = due(conn, at, datetime.now(UTC)) if mine else None
        if plan is None:
            return None
        from clickledger.scoring import daily  # noqa: PLC0415 - loads torch

        return daily.run(conn, plan, actor=actor, reason=f"scheduled for {plan.day}")


def judge_candidates(
    conn: database.Connection, shadow_hours: float, *, actor: str, limits: Limits = DEFAULT_LIMITS
) -> list[log.Entry]:
    """Judge the behaviour of each candidate that was in shadow for so long; the new judgements.

    One that passes stays, until somebody promotes it or newer ones take its place. One that is refused leaves, as does
    one that cannot be judged; the entry says why. Whoever was killed in between is made up for.
    """
    made = []
    with steps.alone(conn, LOCK) as mine:
        for pair, due_at in _due_candidates(conn, shadow_hours) if mine else []:
            verdict = _judgement(conn, pair, due_at)
            if verdict is None:
                verdict = _judge(conn, pair, actor, limits)
                made += [verdict] if verdict else []
            if verdict is not None and verdict.kind == "guardrail_refused":
                shadowing.leave(conn, pair[0], actor=actor, reason=f"refused by guardrails, entry {verdict.position}")
    return made


def _due_candidates(conn: database.Connection, shadow_hours: float) -> list[tuple[Pair, datetime]]:
    """The candidates that are to be judged, or were, and since when."""
    entries, now = log.read(conn, kinds=aliases.KINDS), datetime.now(UTC)
    pairs = aliases.of(deployments.current(conn).routing)["candidate"]
    entered = [(pair, aliases.since(entries, "candidate", pair)) for pair in pairs]
    due_at = [(pair, change.recorded_at + timedelta(hours=shadow_hours)) for pair, change in entered if change]
    return [(pair, at) for pair, at in due_at if at <= now]


def _judgement(conn: database.Connection, pair: Pair, since: datetime) -> log.Entry | None:
    """The newest judgement of a pair's behaviour since then."""
    from clickledger.scoring import behaviour  # noqa: PLC0415 - loads torch

    entries = log.read(conn, kinds=behaviour.JUDGEMENTS)
    own = [entry for entry in entries if entry.recorded_at >= since and behaviour.is_of(entry, pair)]
    return own[-1] if own else None


def _judge(conn: database.Connection, pair: Pair, actor: str, limits: Limits) -> log.Entry | None:
    from clickledger.scoring import behaviour  # noqa: PLC0415 - loads torch

    reason = "its time in shadow is over"
    try:
        judged = behaviour.judge(conn, *pair, actor=actor, reason=reason, limits=limits)
    except errors.Unavailable:
        raise
    except errors.ClickledgerError as error:  # it would be no better in a minute
        shadowing.leave(conn, pair[0], actor=actor, reason=f"it cannot be judged: {error}")
        return None
    return log.entry(conn, judged.position)
