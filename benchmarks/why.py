"""`clickledger why`, and single look-ups, of random clicks: flat from 1 million clicks to 50 million.

Two ledgers are filled by SQL (`benchmarks.filled`), with narrow clicks, a tenth of each re-decided by a published run;
the large one has fifty days where the small one has one, so as many clicks a day. The clicks asked for are random in
both, and nothing is read beforehand but what the first tenth of them, which does not count, has read: with 50 million
clicks most pages come from the disk or its cache. Both are asked in turn; then their databases are dropped.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from benchmarks.filled import DAY_MS, Filled
from benchmarks.ground import Figure, Ground, Result, quantile, say
from clickledger.ledger import database, provenance, reading

TARGET = 1.5
SELECT_CLICK_AFTER = "SELECT click_id FROM decisions WHERE click_id >= %s AND click_id < %s ORDER BY click_id LIMIT 1"
SETTINGS = "SET synchronous_commit = off; SET maintenance_work_mem = '256MB'"  # while filling


@dataclass(frozen=True)
class Plan:
    """Clicks and days of both ledgers, and how many clicks are asked for in each."""

    small: tuple[int, int]
    large: tuple[int, int]
    asked: int


FULL = Plan((1_024_000, 1), (51_200_000, 50), 2_000)
QUICK = Plan((5_120, 1), (15_360, 3), 20)


def run(ground: Ground) -> Result:
    """p50 and p99 of `why` and of `decision_of` in both ledgers, and the ratio of the p99."""
    return measure(ground, QUICK if ground.quick else FULL)


def measure(ground: Ground, plan: Plan) -> Result:
    """The same, of sizes of one's own."""
    with _ledger(ground, *plan.small, plan.asked) as small, _ledger(ground, *plan.large, plan.asked) as large:
        result = Result()
        ways: dict[str, Callable[[database.Connection, uuid.UUID], object]] = {
            "why": provenance.why,
            "decision_of": reading.decision_of,
        }
        for name, ask in ways.items():
            say(f"why: asking {name}")
            times = _ask(ask, small, large)
            counted = [found[len(found) // 10 :] for found in times]
            _note(result, name, counted, plan)
    return result


def _note(result: Result, name: str, times: list[list[float]], plan: Plan) -> None:
    for found, (clicks, _) in zip(times, (plan.small, plan.large), strict=True):
        note = f"p50 {1000 * quantile(found, 0.5):.2f} ms"
        result.figures.append(Figure(f"{name}, p99 of {clicks:,} clicks", 1000 * quantile(found, 0.99), "ms", note))
    ratio = quantile(times[1], 0.99) / quantile(times[0], 0.99)
    what = f"{name}, p99 of the large ledger / of the small"
    result.figures.append(Figure(what, ratio, "x", "", f"at most {TARGET:g}", ratio <= TARGET))
    result.keys[f"{name}_p99_50m_vs_1m"] = round(ratio, 3)


Asked = tuple[database.Connection, list[uuid.UUID]]


def _ask(ask: Callable[[database.Connection, uuid.UUID], object], small: Asked, large: Asked) -> list[list[float]]:
    """Seconds of each call, in the small and in the large ledger."""
    times: list[list[float]] = [[], []]
    for ids in zip(small[1], large[1], strict=True):
        for number, (conn, click_id) in enumerate(zip((small[0], large[0]), ids, strict=True)):
            started = time.perf_counter()
            ask(conn, click_id)
            times[number].append(time.perf_counter() - started)
    return times


@contextmanager
def _ledger(ground: Ground, clicks: int, days: int, asked: int) -> Iterator[Asked]:
    """A filled ledger with the clicks to ask for; dropped afterwards."""
    say(f"why: filling a ledger with {clicks:,} clicks")
    url = ground.fresh_database()
    with database.connect(url) as conn:
        conn.execute(SETTINGS)
        filled = Filled(conn, clicks, days, with_clicks=True)
        lo = filled.lo + (filled.hi - filled.lo) // 2
        filled.published(lo, lo + max(1, min((filled.hi - filled.lo) // 10, 400)))
        conn.execute("ANALYZE")
        ids = _sample(conn, filled, asked)
        yield conn, ids
        name = conn.info.dbname
    with psycopg.connect(ground.servers.database_url, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _sample(conn: database.Connection, filled: Filled, count: int) -> list[uuid.UUID]:
    """Clicks at random moments of all days."""
    rng = random.Random(1)
    found = []
    while len(found) < count:
        at_ms = filled.start_ms + rng.randrange(filled.days * DAY_MS)
        day_ends = (at_ms // DAY_MS + 1) * DAY_MS
        bounds = (reading.smallest_click_id(at_ms), reading.smallest_click_id(day_ends))
        found += [row[0] for row in conn.execute(SELECT_CLICK_AFTER, bounds, prepare=False)]
    return found
