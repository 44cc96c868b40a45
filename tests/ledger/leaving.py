"""A small ledger of two days for the tests of retention, and what they ask of it."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
import replays
from batches import batch, clicks

from clickledger import errors
from clickledger.ledger import (
    append,
    audit,
    billing,
    database,
    retention,
)

DAY, NEXT = date(2024, 3, 10), date(2024, 3, 11)
FIRST, SECOND = clicks(6), clicks(4, "2024-03-11", start=10)
MIXED = clicks(2, start=30, verdict="undecided") + clicks(2, "2024-03-11", start=40, campaign_id="camp-2")


def live_two_days(conn: database.Connection) -> None:
    """Two days over three entries, the middle one with lines of both, and a published run over the first two."""
    for rows in (FIRST, MIXED, SECOND):
        append.append(conn, batch(rows), actor="tests")
    replays.published(conn, 2, 4, {row.click_id: "invalid" for row in FIRST[:3] + MIXED[2:3]})
    billing.close_period(conn, "2024-03", "tests")


def detach(conn: database.Connection, day: date = DAY) -> retention.Detached:
    return retention.detach(conn, day, "tests", "older than 13 months")


def refusal(conn: database.Connection, day: date = DAY) -> str:
    with pytest.raises(errors.Refused) as refused:
        detach(conn, day)
    return str(refused.value)


def failures(conn: database.Connection) -> dict[str, list[str]]:
    return {name: lines for name, lines in audit.verify(conn).failures.items() if lines}


def authoritative(conn: database.Connection) -> set[tuple[Any, ...]]:
    return set(conn.execute("SELECT click_id, verdict::text, run_id FROM authoritative_decisions"))
