"""Day partitions of clicks and decisions, created ahead of the rows that need them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import psycopg

from clickledger import errors
from clickledger.ledger import database

DAY_MS = 86_400_000
GENESIS_DAY = 14_610  # 2010-01-01: clicks before it share the `undated` partition
LAST_DAY = 2_932_896  # 9999-12-31
LOCK_ATTEMPTS = 20


def day_of(click_id: bytes) -> int:
    """Days since 1970 of a UUIDv7 click id's time."""
    return int.from_bytes(click_id[:6]) // DAY_MS


def ensure(conn: database.Connection, days: Iterable[int]) -> int:
    """Create the partitions of the given days (since 1970) where missing; how many days were new.

    Days before genesis need none. Raises InvalidInput for a day that no calendar has.
    """
    wanted = sorted({day for day in days if day >= GENESIS_DAY})
    if wanted and wanted[-1] > LAST_DAY:
        raise errors.InvalidInput(f"click id: expected a time before the year 10000, got day {wanted[-1]} since 1970")
    return sum(_ensure_day(conn, day) for day in wanted)


def ensure_ahead(conn: database.Connection, days_ahead: int = 3) -> int:
    """Create today's partitions and those of the days to come."""
    today = int(datetime.now(UTC).timestamp()) // 86_400
    return ensure(conn, range(today, today + days_ahead + 1))


def _ensure_day(conn: database.Connection, day: int) -> bool:
    date = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date()
    for attempt in range(LOCK_ATTEMPTS):
        try:
            with conn.transaction():
                conn.execute("SET LOCAL lock_timeout = '500ms'")
                row = conn.execute("SELECT ensure_day(%s)", (date,)).fetchone()
                return bool(row and row[0])
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            time.sleep(0.05 * (attempt + 1))
    raise errors.Unavailable(f"no partition for {date}: expected its lock within {LOCK_ATTEMPTS} attempts")
