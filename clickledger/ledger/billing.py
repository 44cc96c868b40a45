"""What billing reads: one feed of charges, adjustments and reversals in one order; totals; closing of periods."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from clickledger import errors
from clickledger.ledger import database, departed, log, reading

FIELDS = (
    "position", "line", "entry_kind", "click_id", "advertiser_id", "campaign_id", "currency", "amount_micros",
    "write_off_micros", "from_verdict", "to_verdict", "original_period", "posting_period", "run_id",
)  # fmt: skip
SELECT_LINES = """
    SELECT position, line, entry_kind, click_id, advertiser_id, campaign_id, currency, amount_micros, write_off_micros,
           from_verdict::text, to_verdict::text, original_period, posting_period, run_id
    FROM billing_entries"""
# What is left of the entry a cursor stands in, then what follows. The lines of a publication are numbered from 0 on
# without a gap, so those a page has room for are a range of its index: else each page would sort all of a large one.
# Small numbers travel as smallint: sums of them need the cast.
SELECT_REST = f"""{SELECT_LINES}
    WHERE position = %(position)s AND line > %(line)s
      AND (entry_kind = 'charge' OR line <= %(line)s::bigint + %(limit)s)
    ORDER BY line LIMIT %(limit)s"""
SELECT_FOLLOWING = f"""{SELECT_LINES}
    WHERE position > %(position)s AND position <= %(end)s AND (entry_kind = 'charge' OR line < %(limit)s)
    ORDER BY position, line LIMIT %(limit)s"""
END_OF_ENTRY = 1 << 62  # instead of a line: beyond all of them
SELECT_LINES_OF_CLICK = f"{SELECT_LINES} WHERE click_id = %s ORDER BY position, line"
# The last position of a page: entries after the cursor's own for `limit` lines, so that it reads a bounded range.
SELECT_PAGE_END = """
    SELECT max(position) FROM (
        SELECT l.position, sum(l.row_count) OVER (ORDER BY l.position) - l.row_count AS rows_before
        FROM log l WHERE l.position > %(position)s ORDER BY l.position LIMIT %(limit)s::bigint + 1) page
    WHERE rows_before <= %(limit)s"""
SELECT_THIS_MONTH = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM')"
SELECT_FEED_TOTALS = """
    SELECT currency, sum(amount_micros)::bigint, sum(write_off_micros)::bigint
    FROM billing_entries WHERE position <= %s GROUP BY currency"""


SELECT_CLOSED = """
    SELECT p.period, p.closed_position, l.recorded_at, l.actor, l.reason
    FROM billing_periods p JOIN log l ON l.position = p.closed_position ORDER BY p.period"""


class Closed(NamedTuple):
    """A closed period (YYYY-MM): the position of its entry, when, by whom, why."""

    period: str
    position: int
    recorded_at: datetime
    actor: str
    reason: str


class Cursor(NamedTuple):
    """Where a reader stands: after `line` of the entry at `position`, whose chain hash it saw."""

    position: int = 0
    line: int = -1
    chain_hash: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Lines of the feed and the cursor after them; `at_head` when nothing more is there yet."""

    entries: list[dict[str, Any]]
    cursor: Cursor
    at_head: bool


def read(conn: database.Connection, cursor: Cursor = Cursor(), limit: int = 1_000) -> Page:  # noqa: B008  # immutable
    """The next lines after a cursor, in (position, line) order. Raises Refused where charges left with detached days.

    A page may hold fewer than `limit` lines before the head. Raises InvalidInput for a page of no lines, Conflict when
    the log no longer holds the entry the cursor saw, as after a failover that lost commits.
    """
    if limit < 1:
        raise errors.InvalidInput(f"limit: expected at least 1 line a page, got {limit}")
    with departed.snapshot(conn):  # a day that leaves between two statements would take its charges from the page
        return _page(conn, cursor, limit)


def _page(conn: database.Connection, cursor: Cursor, limit: int) -> Page:
    _check(conn, cursor)
    head = log.head(conn).position
    at = {"position": cursor.position, "line": cursor.line, "limit": limit}
    row = conn.execute(SELECT_PAGE_END, at).fetchone()
    end = row[0] if row and row[0] is not None else head
    departed.require_readable(conn, cursor.position, cursor.line + 1, end)
    lines = conn.execute(SELECT_REST, at).fetchall() if cursor.position > 0 and cursor.line < END_OF_ENTRY else []
    if room := limit - len(lines):
        lines += conn.execute(SELECT_FOLLOWING, at | {"end": end, "limit": room}).fetchall()
    entries = [dict(zip(FIELDS, line, strict=True)) for line in lines]
    if len(entries) == limit:
        position, line = entries[-1]["position"], entries[-1]["line"]
    else:
        position, line = max(end, cursor.position), END_OF_ENTRY  # all of the entry at `end` was read
    next_cursor = Cursor(position, line, log.entry(conn, position).chain_hash.hex())
    return Page(entries, next_cursor, at_head=len(entries) < limit and end == head)


def _check(conn: database.Connection, cursor: Cursor) -> None:
    if cursor.position == 0:
        return
    row = conn.execute("SELECT chain_hash FROM log WHERE position = %s", (cursor.position,)).fetchone()
    found = bytes(row[0]).hex() if row else "no entry"
    if found != cursor.chain_hash:
        raise errors.Conflict(f"position {cursor.position}: expected chain hash {cursor.chain_hash}, got {found}")


def totals(conn: database.Connection, as_of: int | None = None) -> list[reading.Totals]:
    """Authoritative totals by currency, now or as of a log position, detached days included.

    Raises InvalidInput for a position not written yet, Refused for one at which only detached rows could say.
    """
    return reading.totals(conn, as_of)


def feed_totals(conn: database.Connection, as_of: int | None = None) -> dict[str, tuple[int, int]]:
    """Sums of all lines of the feed up to a position, by currency: (posted, written off), micros.

    Raises as `totals` does. It opens every day, as the view does.
    """
    position = reading.position_of(conn, as_of)
    with departed.snapshot(conn):
        rows = conn.execute(SELECT_FEED_TOTALS, (position,)).fetchall()
        found = {currency: (int(posted), int(written_off)) for currency, posted, written_off in rows}
        for gone in departed.totals(conn, position):
            posted, written_off = found.get(gone.currency, (0, 0))
            found[gone.currency] = (posted + gone.charged_micros, written_off)
    return dict(sorted(found.items()))


def feed_total(conn: database.Connection, as_of: int | None = None) -> tuple[int, int]:
    """`feed_totals` of a ledger of one currency, or as a checksum over all: (posted, written off), micros."""
    sums = feed_totals(conn, as_of).values()
    return sum(posted for posted, _ in sums), sum(written_off for _, written_off in sums)


def close_period(conn: database.Connection, period: str, actor: str, reason: str = "") -> int:
    """Close a period (YYYY-MM): its charges change no more, corrections become adjustments. The entry's position.

    Raises InvalidInput for what is no month, Refused for one that is not over (UTC, by the server's clock): what comes
    too late for a closed period posts to the month it is recorded in. Raises Conflict when it is closed already.
    """
    if not re.fullmatch(r"[0-9]{4}-(0[1-9]|1[0-2])", period):
        raise errors.InvalidInput(f"period: expected YYYY-MM, got {period!r}")
    with log.writing(conn) as writer:
        [(this_month,)] = writer.execute(SELECT_THIS_MONTH)
        if period >= this_month:
            raise errors.Refused(f"period {period}: expected a month that is over, it is {this_month} now")
        if found := writer.execute("SELECT closed_position FROM billing_periods WHERE period = %s", (period,)):
            raise errors.Conflict(f"period {period} was closed at position {found[0][0]}")
        entry = writer.record("period_closed", {"period": period}, actor, reason)
        writer.execute("INSERT INTO billing_periods VALUES (%s, %s)", (period, entry.position))
        return entry.position


def closed_periods(conn: database.Connection) -> list[Closed]:
    """All closed periods, oldest first."""
    return [Closed(*row) for row in conn.execute(SELECT_CLOSED)]


def lines_of(conn: database.Connection, click_id: uuid.UUID) -> list[dict[str, Any]]:
    """Everything billing was told of one click, in order."""
    return [dict(zip(FIELDS, row, strict=True)) for row in conn.execute(SELECT_LINES_OF_CLICK, (click_id,))]
