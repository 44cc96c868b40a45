"""A small ledger whose data every guardrail lets pass, as of now: ten even days of clicks, and what they led to."""

from __future__ import annotations

import time
import uuid

from decided_traffic import DAY_MS, STABLE_LIMIT, Traffic, deploy, register

from clickledger.ledger import database, outcomes

CLICKS = 2_100
DAYS = 10
BUYING = "SELECT click_id FROM decisions WHERE verdict = 'valid' ORDER BY click_id"


def fill(conn: database.Connection, clicks: int = CLICKS, outcome_lag_ms: int = 0) -> int:
    """Deploy a stable model and another before it in shadow, append clicks and their purchases; the end, Unix ms.

    Every 13th click that is no robot's led to a purchase a minute later, of an account that buys once; none of the last
    `outcome_lag_ms` is known.
    """
    end_ms = time.time_ns() // 1_000_000
    stable, live = register(conn, STABLE_LIMIT), register(conn, STABLE_LIMIT + 1)
    deploy(conn, live, stable)
    gap_ms = DAYS * DAY_MS // clicks
    traffic = Traffic(conn, users=clicks, gap_ms=gap_ms, start_ms=end_ms - clicks * gap_ms - 120_000)
    for _ in range(3):
        traffic.append(clicks // 3)
    valid = [row[0] for row in conn.execute(BUYING)]
    bought = [outcomes.Outcome(each.bytes, "purchase", _time_ms(each) + 60_000, 1_000) for each in valid[::13]]
    bought = [each for each in bought if each.occurred_at_ms <= end_ms - outcome_lag_ms]
    outcomes.append(conn, bought, "tests")
    return end_ms


def _time_ms(click: uuid.UUID) -> int:
    return int.from_bytes(click.bytes[:6])
