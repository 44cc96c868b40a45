"""What is gone with detached days: which lines of which entries, and the money they stood for.

Invariants:
- a row counts as gone while its day is recorded as detached and its table's partition is out of sight, so what is said
  here and what is left always add up, also between the steps of a detach;
- nothing here is believed by itself: `departure.digest_of` must give the digest in the day's log entry.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any, NamedTuple

from psycopg.pq import TransactionStatus
from psycopg.types.multirange import Multirange

from clickledger import errors
from clickledger.ledger import database, partitions

LIVE = 0  # run id of live decisions

# Lines of batch entries of [lo, hi) whose click or decision is gone.
SELECT_MISSING = """
    SELECT r.log_position, range_agg(r.lines) FROM departed_rows r
    WHERE r.run_id = 0 AND r.log_position >= %(lo)s AND r.log_position < %(hi)s
      AND r.departure IN (SELECT departure FROM gone_partitions WHERE parent IN ('clicks', 'decisions')
                          AND first_position < %(hi)s AND last_position >= %(lo)s)
    GROUP BY r.log_position"""
SELECT_RECORDED = """
    SELECT r.log_position, range_agg(r.lines) FROM departed_rows r JOIN detached_days d USING (departure)
    WHERE r.run_id = 0 AND r.log_position >= %(lo)s AND r.log_position < %(hi)s GROUP BY r.log_position"""
SELECT_MISSING_DELAYED = """
    SELECT r.log_position, r.lines, r.leaves FROM departed_rows r
    WHERE r.run_id = %(run)s AND r.log_position >= %(lo)s AND r.log_position < %(hi)s
      AND r.departure IN (SELECT departure FROM gone_partitions WHERE parent = 'delayed_decisions')"""
SELECT_SPARSE_CLICKS = """
    SELECT r.run_id, unnest(r.click_ids), r.log_position FROM departed_rows r
    WHERE r.run_id = ANY (%s)
      AND r.departure IN (SELECT departure FROM gone_partitions WHERE parent = 'delayed_decisions')"""
SELECT_COUNTS = """
    SELECT parent, sum(CASE WHEN parent = 'delayed_decisions' THEN delayed ELSE clicks END)::bigint
    FROM gone_partitions GROUP BY parent"""
SELECT_MONEY = "SELECT advertiser_id, campaign_id, currency, told, billed FROM departed_money ORDER BY 1, 2, 3"
SELECT_SUMS_OF_DAY = """
    SELECT advertiser_id, campaign_id, currency, sum(charged_micros)::bigint, sum(billed_micros)::bigint
    FROM departed_totals JOIN detached_days USING (departure) WHERE day = %s GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""
SELECT_TOTALS = """
    SELECT t.currency, sum(t.clicks)::bigint, sum(t.valid)::bigint, sum(t.invalid)::bigint, sum(t.undecided)::bigint,
           sum(t.billed_micros)::bigint, sum(t.undecided_micros)::bigint, sum(t.charged_micros)::bigint
    FROM departed_totals t JOIN gone_partitions g ON g.departure = t.departure AND g.parent = t.source
    WHERE g.settled_position <= %s GROUP BY t.currency ORDER BY t.currency"""
# The same of every day whose live decisions are gone, its delayed ones included, attached still or not.
SELECT_TOTALS_OF_DAYS = """
    SELECT t.currency, sum(t.clicks)::bigint, sum(t.valid)::bigint, sum(t.invalid)::bigint, sum(t.undecided)::bigint,
           sum(t.billed_micros)::bigint, sum(t.undecided_micros)::bigint, sum(t.charged_micros)::bigint
    FROM departed_totals t JOIN gone_partitions g ON g.departure = t.departure AND g.parent = 'decisions'
    WHERE g.settled_position <= %s GROUP BY t.currency ORDER BY t.currency"""
SELECT_WITHOUT_DECISIONS = """
    SELECT g.day FROM gone_partitions g WHERE g.parent = 'clicks'
      AND NOT EXISTS (SELECT FROM gone_partitions d WHERE d.day = g.day AND d.parent = 'decisions')"""
SELECT_DAYS = "SELECT day FROM gone_partitions WHERE parent = 'decisions' ORDER BY day"
SELECT_UNSETTLED = """
    SELECT day, position, first_position, settled_position FROM gone_partitions
    WHERE first_position <= %(at)s AND settled_position > %(at)s ORDER BY day LIMIT 1"""
SELECT_UNREADABLE = """
    SELECT day, position, last_position FROM gone_partitions
    WHERE parent = 'decisions' AND first_position <= %(hi)s AND last_position >= %(lo)s
      AND EXISTS (SELECT 1 FROM departed_rows r WHERE r.departure = gone_partitions.departure AND r.run_id = 0
                  AND r.log_position >= %(lo)s AND r.log_position <= %(hi)s
                  AND (r.log_position > %(lo)s OR upper(r.lines) > %(line)s))
    ORDER BY last_position DESC LIMIT 1"""
SELECT_DAY = "SELECT position, dropped_position FROM detached_days WHERE day = %s"
SELECT_HALFWAY = """
    SELECT d.day, d.position, t.parent FROM detached_days d CROSS JOIN unnest(%s::text[]) t (parent)
    WHERE NOT EXISTS (SELECT 1 FROM gone_partitions g WHERE g.day = d.day AND g.parent = t.parent)
    ORDER BY d.day, t.parent"""
# Days that an entry says are gone while their clicks or decisions are read still, with lines of [lo, hi).
SELECT_HALFWAY_WITHIN = """
    SELECT d.day FROM detached_days d
    WHERE (SELECT count(*) FROM gone_partitions g WHERE g.day = d.day AND g.parent IN ('clicks', 'decisions')) < 2
      AND EXISTS (SELECT FROM departed_rows r WHERE r.departure = d.departure AND r.run_id = 0
                    AND r.log_position >= %s AND r.log_position < %s)
    ORDER BY d.day LIMIT 1"""
SELECT_ROWS_OF_RUN = """
    SELECT d.day, d.position FROM departed_rows r JOIN detached_days d USING (departure) WHERE r.run_id = %s LIMIT 1"""
ADVISORY_LOCK = "hashtextextended('clickledger retention', 0)"


class Money(NamedTuple):
    """Micros that the feed's gone charges told, and that gone authoritative decisions billed."""

    advertiser_id: str
    campaign_id: str
    currency: str
    told: int
    billed: int


class Leaf(NamedTuple):
    """The 32-byte leaf of a delayed decision that is gone, by what orders it in its chunk."""

    log_position: int
    line: int
    leaf: bytes


class Totals(NamedTuple):
    """Sums over clicks that are gone in one currency; money in micros."""

    currency: str
    clicks: int
    valid: int
    invalid: int
    undecided: int
    billed_micros: int
    undecided_micros: int
    charged_micros: int


@contextmanager
def standing_still(conn: database.Connection) -> Iterator[None]:
    """No day is detached while the block lasts; waits for one under way. For whoever reads in several statements."""
    conn.execute(f"SELECT pg_advisory_lock_shared({ADVISORY_LOCK})".encode())
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute(f"SELECT pg_advisory_unlock_shared({ADVISORY_LOCK})".encode())


@contextmanager
def snapshot(conn: database.Connection) -> Iterator[None]:
    """`database.snapshot` that a detach cannot divide: it locks (ACCESS SHARE) the tables before it is taken.

    Within a transaction of the caller's it is that one's moment.
    """
    if conn.info.transaction_status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN):  # unknown: closed
        yield
        return
    with database.snapshot(conn):
        # ONLY: a detach waits for whoever holds the parent; its partitions would be hundreds of locks more
        conn.execute("LOCK TABLE ONLY decisions, ONLY delayed_decisions IN ACCESS SHARE MODE")
        yield


def missing_lines(conn: database.Connection, lo: int, hi: int) -> dict[int, set[int]]:
    """Lines of the batch entries at positions [lo, hi) whose rows are gone, by position; whole entries are absent.

    The leaves of these lines are still in `leaves`.
    """
    return {position: _lines(lines) for position, lines in conn.execute(SELECT_MISSING, {"lo": lo, "hi": hi})}


def missing_delayed(conn: database.Connection, run_id: int, lo: int, hi: int) -> list[Leaf]:
    """Leaves of a run's delayed decisions over positions [lo, hi) that are gone, in (log_position, line) order.

    Merged with the leaves of those that are left, they must give the digest that was staged: so they prove themselves.
    """
    found = []
    for position, lines, leaves in conn.execute(SELECT_MISSING_DELAYED, {"run": run_id, "lo": lo, "hi": hi}):
        stored = bytes(leaves)
        found += [
            Leaf(position, line, stored[32 * number : 32 * number + 32])
            for number, line in enumerate(sorted(_lines(lines)))
        ]
    return sorted(found)


def sparse_clicks(conn: database.Connection, run_ids: Sequence[int]) -> list[tuple[int, uuid.UUID, int]]:
    """The clicks of sparse runs whose decisions are gone: run id, click id, log position of the click's own entry."""
    return conn.execute(SELECT_SPARSE_CLICKS, (list(run_ids),)).fetchall()


def has_rows_of(conn: database.Connection, run_id: int) -> bool:
    """Whether delayed decisions of a run left with a detached day."""
    return conn.execute(SELECT_ROWS_OF_RUN, (run_id,)).fetchone() is not None


def detached_counts(conn: database.Connection) -> dict[str, int]:
    """How many rows of `clicks`, `decisions` and `delayed_decisions` are gone."""
    return dict.fromkeys(partitions.PARENTS, 0) | dict(conn.execute(SELECT_COUNTS).fetchall())


def detached_money(conn: database.Connection) -> list[Money]:
    """What gone charges told and gone decisions billed: the view departed_money."""
    return [Money(*row) for row in conn.execute(SELECT_MONEY)]


def sums_of(conn: database.Connection, day: date) -> list[Money]:
    """What left with a detached day by advertiser, campaign and currency: balances to open with."""
    return [Money(*row) for row in conn.execute(SELECT_SUMS_OF_DAY, (day,))]


def totals(conn: database.Connection, as_of: int) -> list[Totals]:
    """Sums over gone clicks as of a log position, by currency. Raises Refused where they are not known any more.

    A day's sums were kept as they stood when it was detached: they hold from its settled position on, and before its
    first position there is nothing of it to sum. In between, only its rows could say.
    """
    return _settled(conn, SELECT_TOTALS, as_of)


def totals_of_days(conn: database.Connection, as_of: int) -> list[Totals]:
    """Sums over all clicks of the days of `days`, for readers who leave whole days out. Raises as `totals` does."""
    return _settled(conn, SELECT_TOTALS_OF_DAYS, as_of)


def days(conn: database.Connection) -> list[date]:
    """The days whose live decisions are gone, in order."""
    return [row[0] for row in conn.execute(SELECT_DAYS)]


def left_without_decisions(conn: database.Connection) -> list[date]:
    """Detached days whose clicks are gone and whose live decisions are attached still: a detach is halfway."""
    return [row[0] for row in conn.execute(SELECT_WITHOUT_DECISIONS)]


def _settled(conn: database.Connection, query: str, as_of: int) -> list[Totals]:
    if row := conn.execute(SELECT_UNSETTLED, {"at": as_of}).fetchone():
        day, position, first, settled = row
        raise errors.Refused(
            f"as of {as_of}: expected a position below {first} or from {settled} on, since the clicks of {day} were "
            f"detached at position {position}"
        )
    return [Totals(*row) for row in conn.execute(query, (as_of,))]


def require_readable(conn: database.Connection, lo: int, line: int, hi: int) -> None:
    """Raises Refused when lines are gone from `line` of the entry at `lo` to the end of the one at `hi`.

    A feed that left their charges out would mislead whoever sums it.
    """
    if row := conn.execute(SELECT_UNREADABLE, {"lo": lo, "line": line, "hi": hi}).fetchone():
        day, position, last = row
        raise errors.Refused(
            f"entries {lo} to {hi} held clicks of {day}, detached at position {position}: read on from after position "
            f"{last}, with the sums of `clickledger retention show {day}` as opening balances"
        )


def where_is(conn: database.Connection, click_id: uuid.UUID) -> str | None:
    """In words, that the day of a click was detached; None when it was not."""
    day = _date_of(click_id)
    row = conn.execute(SELECT_DAY, (day,)).fetchone() if day else None
    if row is None:
        return None
    dropped = f" and dropped at position {row[1]}" if row[1] else ""
    return f"click {click_id} was of {day}, detached at position {row[0]}{dropped} under retention"


def halfway(conn: database.Connection) -> list[str]:
    """Days recorded as detached of which something is attached still, in words."""
    rows = conn.execute(SELECT_HALFWAY, (list(partitions.PARENTS),)).fetchall()
    return [
        f"{day}: detached at position {position}, but {partitions.name_of(parent, day)} is attached still: "
        f"complete it by clickledger retention detach {day}"
        for day, position, parent in rows
    ]


def without(conn: database.Connection, batches: Iterable[tuple[int, int]], lo: int, hi: int) -> list[tuple[int, int]]:
    """(position, row_count) of batch entries of [lo, hi) less the lines of detached days; none that are empty then."""
    gone = {position: len(_lines(lines)) for position, lines in conn.execute(SELECT_RECORDED, {"lo": lo, "hi": hi})}
    left = ((position, rows - gone.get(position, 0)) for position, rows in batches)
    return [(position, rows) for position, rows in left if rows]


def require_whole_run(execute: database.Execute, run_id: int, so: str) -> None:
    """Raises Refused, with the consequence `so`, when decisions of a run are gone: what it decides is settled.

    `execute` runs a statement and answers its rows. It takes look-ups in indexes only, so the log lock may be held.
    """
    if found := execute(SELECT_ROWS_OF_RUN, (run_id,)):
        day, position = found[0]
        raise errors.Refused(f"run {run_id} decided clicks of {day}, which was detached at position {position}: {so}")


def require_none_halfway(conn: database.Connection, lo: int, hi: int) -> None:
    """Raises Refused while a day with lines of positions [lo, hi) is detached in part: counted as gone, read still."""
    if (row := conn.execute(SELECT_HALFWAY_WITHIN, (lo, hi)).fetchone()) is not None:
        raise errors.Refused(f"{row[0]} is detached in part: complete it by clickledger retention detach {row[0]}")


def _lines(lines: Multirange[Any]) -> set[int]:
    return {line for part in lines for line in range(int(part.lower or 0), int(part.upper or 0))}


def _date_of(click_id: uuid.UUID) -> date | None:
    day = partitions.day_of(click_id.bytes)
    return partitions.date_of(day) if day <= partitions.LAST_DAY else None
