"""What 1, 40 and 400 days of partitions cost each kind of statement: time, time to plan, and locks held.

The same clicks a day in each ledger, so that what grows is the number of partitions and nothing else a statement reads:
an append and its look-up (batches of 256 into the newest day), `decision_of`, `why`, the rows of one day by position,
the totals. Locks are what the transaction holds after the statement, of any kind and relation, fast path included; the
default lock table has room for max_locks_per_transaction (64) a connection. Times are of warm repetitions, the median.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from unittest import mock

import numpy as np
from psycopg import sql

from benchmarks.ground import Figure, Ground, Result, quantile, say
from benchmarks.models import ACTOR
from benchmarks.traffic import GENERATION_MS, Traffic, uuid7
from clickledger.ledger import append, authority, billing, database, departure, log, partitions, provenance, retention
from clickledger.ledger.records import Batch

DAYS = (1, 40, 400)
CLICKS_A_DAY = 256
DAY_MS = 86_400_000
LOCKS_DEFAULT = 64  # max_locks_per_transaction
GIVES_BACK = "totals"  # reads week by week in savepoints: at its end it holds no more than the parents
COUNT_LOCKS = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'"
SELECT_AS_OF_NOW = "SELECT verdict, count(*), sum(cost_micros) FROM authoritative_decisions GROUP BY verdict"
SELECT_KNOWN = "SELECT click_id FROM clicks WHERE click_id = ANY (%s)"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    days: Sequence[int]
    repetitions: int
    heavy: int  # repetitions of what reads everything
    detached_clicks: int


FULL, QUICK = Plan(DAYS, 200, 5, 256_000), Plan((1, 3), 3, 1, 512)


@dataclass(frozen=True)
class Cost:
    """Median milliseconds of a call, and relation locks held at its end; None where they were given back before."""

    ms: float
    locks: int | None


class Ledger:
    """A ledger of so many days with clicks in each."""

    def __init__(self, conn: database.Connection, days: int) -> None:
        self.conn, self.days = conn, days
        first = (datetime.fromtimestamp(GENERATION_MS / 1000, UTC) - timedelta(days=days - 1)).date()
        self.dates = [first + timedelta(days=n) for n in range(days)]
        self._traffic = Traffic()
        self.attach_ms: list[float] = []
        self.batches = [self._append(day) for day in self.dates]
        conn.execute("ANALYZE")

    def batch(self, day: date, count: int = CLICKS_A_DAY) -> Batch:
        """New clicks spread over a day."""
        batch = self._traffic.batch(count)
        start = (day - date(1970, 1, 1)).days * DAY_MS
        at = np.sort(np.random.default_rng(start // DAY_MS + len(batch)).integers(0, DAY_MS, count))
        ids = [uuid7(start + int(ms), click_id[6:]) for ms, click_id in zip(at, batch.click_id, strict=True)]
        batch.click_id[:] = ids  # type: ignore[index]  # a list, made by the traffic
        return batch

    def _append(self, day: date) -> Batch:
        began = time.perf_counter()
        partitions.ensure(self.conn, [(day - date(1970, 1, 1)).days])
        self.attach_ms.append((time.perf_counter() - began) * 1000)
        batch = self.batch(day)
        append.append(self.conn, batch, actor=ACTOR)
        return batch


def run(ground: Ground) -> Result:
    """Milliseconds and locks of each kind of statement by number of days."""
    plan = QUICK if ground.quick else FULL
    result = Result()
    for days in plan.days:
        with database.connect(ground.fresh_database()) as conn:
            say(f"partitions: {days} days")
            ledger = Ledger(conn, days)
            _measure(ledger, plan, result)
    with database.connect(ground.fresh_database()) as conn:
        _detach(conn, plan, result)
    return result


def _detach(conn: database.Connection, plan: Plan, result: Result) -> None:
    """A day with many clicks leaves: every row compared with its leaf, what is gone written down, three detaches."""
    say(f"partitions: detaching a day of {plan.detached_clicks:,} clicks")
    traffic = Traffic()
    for batch in traffic.batches(plan.detached_clicks // CLICKS_A_DAY, CLICKS_A_DAY):
        append.append(conn, batch, actor=ACTOR)
    day = partitions.date_of(GENERATION_MS // DAY_MS)
    billing.close_period(conn, f"{day:%Y-%m}", ACTOR)
    began = time.perf_counter()
    left = retention.detach(conn, day, ACTOR, "measured")
    seconds = time.perf_counter() - began
    note = f"{left.clicks / seconds:,.0f} clicks/s: verified, written down, detached"
    result.figures.append(Figure(f"detaching a day of {left.clicks:,} clicks", seconds * 1000, "ms", note))
    result.keys["partitions_detach_clicks_per_s"] = round(left.clicks / seconds)


def _measure(ledger: Ledger, plan: Plan, result: Result) -> None:
    attach = quantile(ledger.attach_ms[-min(40, ledger.days) :], 0.5)
    _note(result, ledger, "attach", "attaching one day more", Cost(attach, None))
    for key, what, repetitions, call in _calls(ledger, plan):
        locks = None if key == GIVES_BACK else _locks(ledger.conn, partial(call, 2 + repetitions))
        _note(result, ledger, key, what, Cost(_median_ms(repetitions, call), locks))
    for key, what, statement in _statements(ledger):
        planned = _planning_ms(ledger.conn, statement, 20 if plan is FULL else 2)
        _note(result, ledger, f"plan_{key}", f"planning {what}", Cost(planned, None))


def _calls(ledger: Ledger, plan: Plan) -> list[tuple[str, str, int, Callable[[int], object]]]:
    conn, last = ledger.conn, ledger.dates[-1]
    fresh = [ledger.batch(last) for _ in range(2 * plan.repetitions + 2)]
    ids = [uuid.UUID(bytes=batch.click_id[n % CLICKS_A_DAY]) for n, batch in enumerate(ledger.batches * 400)]
    day_ids = [[uuid.UUID(bytes=i) for i in batch.click_id] for batch in ledger.batches]
    head = log.head(conn).position
    pieces = authority.in_force(conn)
    rows = authority.rows_between(pieces, head, head + 1)
    of_day = f"SELECT count(*) FROM ({rows}) r WHERE {departure.condition(last)}"
    return [
        ("append", "append of 256", plan.repetitions, lambda n: append.append(conn, fresh[n], actor=ACTOR)),
        ("repeat", "append of 256 known clicks", plan.repetitions,
         lambda n: append.append(conn, ledger.batches[-1], actor=ACTOR)),
        ("lookup", "256 ids by = ANY alone", plan.repetitions,
         lambda n: conn.execute(SELECT_KNOWN, (day_ids[n % ledger.days],)).fetchall()),
        ("decision_of", "decision_of", plan.repetitions,
         lambda n: conn.execute("SELECT * FROM decision_of(%s)", (ids[n],)).fetchall()),
        ("why", "why", plan.repetitions, lambda n: provenance.why(conn, ids[n])),
        ("positions", "rows of one entry by literal positions", plan.repetitions,
         lambda n: conn.execute(f"SELECT count(*) FROM ({rows}) r".encode()).fetchall()),
        ("day", "the same, and literal click ids", plan.repetitions,
         lambda n: conn.execute(of_day.encode()).fetchall()),
        ("view", "totals by the view", plan.heavy, lambda n: conn.execute(SELECT_AS_OF_NOW).fetchall()),
        ("totals", "billing.totals", plan.heavy, lambda n: billing.totals(conn)),
    ]  # fmt: skip


def _statements(ledger: Ledger) -> list[tuple[str, str, str]]:
    """Read statements whose planning is timed by EXPLAIN (SUMMARY), with their literals."""
    head = log.head(ledger.conn).position
    click = uuid.UUID(bytes=ledger.batches[-1].click_id[0])
    rows = authority.rows_between(authority.in_force(ledger.conn), head, head + 1)
    return [
        ("lookup", "one id", f"SELECT * FROM decisions WHERE click_id = '{click}'"),
        ("positions", "rows of one entry by literal positions", rows),
        ("day", "the same, and literal click ids",
         f"SELECT * FROM ({rows}) r WHERE {departure.condition(ledger.dates[-1])}"),
        ("view", "totals by the view", SELECT_AS_OF_NOW),
    ]  # fmt: skip


def _median_ms(repetitions: int, call: Callable[[int], object]) -> float:
    call(0)
    call(1 if repetitions > 1 else 0)
    seconds = []
    for number in range(repetitions):
        began = time.perf_counter()
        call(2 + number)
        seconds.append(time.perf_counter() - began)
    return 1000 * quantile(seconds, 0.5)


def _locks(conn: database.Connection, call: Callable[[], object]) -> int:
    """Relation locks held at the end of a call; a snapshot it takes is this transaction, so that they can be seen."""
    with mock.patch.object(database, "snapshot", nullcontext), conn.transaction(force_rollback=True):
        call()
        row = conn.execute(COUNT_LOCKS).fetchone()
    return int(row[0]) if row else 0


def _planning_ms(conn: database.Connection, statement: str, repetitions: int) -> float:
    explain = sql.SQL("EXPLAIN (SUMMARY, FORMAT json) ") + sql.SQL(statement)  # type: ignore[arg-type]  # ours
    times = [conn.execute(explain).fetchone() for _ in range(repetitions)]
    return quantile([float(row[0][0]["Planning Time"]) for row in times if row], 0.5)


def _note(result: Result, ledger: Ledger, key: str, what: str, cost: Cost) -> None:
    note = "" if cost.locks is None else f"{cost.locks} relation locks (room for {LOCKS_DEFAULT} by default)"
    result.figures.append(Figure(f"{what}, {ledger.days} days", cost.ms, "ms", note))
    result.keys[f"partitions_{key}_ms_{ledger.days}_days"] = round(cost.ms, 3)
    if cost.locks is not None:
        result.keys[f"partitions_{key}_locks_{ledger.days}_days"] = cost.locks
