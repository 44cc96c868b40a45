"""Reading many authoritative decisions, or one: totals, rows and `decision_of`, now or as of any log position.

Invariants:
- everything one call reads belongs to one moment: one REPEATABLE READ transaction, or one statement;
- a reader holds locks on a week of day partitions at most, however many there are: it reads week by week, each in a
  savepoint that it rolls back, which gives the week's locks back and keeps the snapshot;
- no day goes missing meanwhile: it keeps the parents locked, so that a partition cannot be detached under it.

Totals are the live decisions' sums and the signed flips of every publication in force. That is exact: the lines of a
publication say what changed from the authority it was laid upon, no other one came in between, and only a topmost one
is reverted. Of a day that retention detached, neither is summed but what it stood for when it left.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from clickledger import errors
from clickledger.ledger import authority, database, departed, literal_ranges, log
from clickledger.ledger.authority_map import SPARSE, Publication
from clickledger.ledger.literal_ranges import Span

COLUMNS = (
    "click_id", "log_position", "line", "advertiser_id", "campaign_id", "cost_micros", "currency", "slice",
    "deployment_epoch", "model_version", "calibration_version", "score", "threshold", "verdict", "reason", "carried",
    "run_id",
)  # fmt: skip
DAYS_AT_ONCE = 7  # of partitions: with their indexes and parents below 64 locks, PostgreSQL's default for a transaction
FETCH_ROWS = 10_000
SELECT_PARTITIONS = """
    SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'decisions'::regclass"""
PARTITION_BOUNDS = re.compile(r"FOR VALUES FROM \((MINVALUE|'[0-9a-f-]{36}')\) TO \(('[0-9a-f-]{36}')\)")
SMALLEST = uuid.UUID(int=0)
DAY_MS = 86_400_000
VERDICTS = ("valid", "invalid", "undecided")
BILLED = ("verdict", "cost_micros")
LOCK_PARENTS = "LOCK TABLE ONLY decisions, ONLY delayed_decisions IN ACCESS SHARE MODE"
# Estimates of what passes the literals are low, since the planner takes a search in an array for one rare value:
# it would start parallel workers or compile for rows that one process hands on faster, and nest loops over them.
SERIAL = "SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off; SET LOCAL enable_nestloop = off"
SELECT_LIVE_SUMS = """
    SELECT currency, verdict::text, count(*), sum(cost_micros)::bigint FROM decisions WHERE true{condition}
    GROUP BY currency, verdict"""
# A line has no price of its own: it is the amount where the click was or becomes valid, and else its decision's, below.
SELECT_FLIP_SUMS = """
    SELECT a.currency, a.from_verdict::text, a.to_verdict::text, count(*),
           sum(abs(a.amount_micros + a.write_off_micros))::bigint
    FROM publications p JOIN comparisons c USING (comparison_id) JOIN adjustments a USING (adjustment_set)
    WHERE {in_force} GROUP BY 1, 2, 3"""
SELECT_UNPRICED_FLIP_SUMS = """
    SELECT a.currency, a.from_verdict::text, a.to_verdict::text, sum(d.cost_micros)::bigint
    FROM publications p JOIN comparisons c USING (comparison_id) JOIN adjustments a USING (adjustment_set)
    JOIN decisions d ON d.click_id = a.click_id
    WHERE {in_force} AND a.from_verdict <> 'valid' AND a.to_verdict <> 'valid'{of_week}
    GROUP BY 1, 2, 3"""
IN_FORCE = "p.position <= {position:d} AND (p.reverted_position IS NULL OR p.reverted_position > {position:d})"
SELECT_NEWEST = "SELECT click_time_ms(click_id) FROM decisions WHERE true{bounds} ORDER BY click_id DESC LIMIT 1"
DECISION_OF = "SELECT * FROM decision_of(%s)"
DECISION_OF_AS_OF = "SELECT * FROM decision_of(%s, %s)"


@dataclass(frozen=True, slots=True)
class Totals:
    """Authoritative clicks by verdict and billed money in one currency."""

    currency: str
    clicks: int
    valid: int
    invalid: int
    undecided: int
    billed_micros: int
    undecided_micros: int


def position_of(conn: database.Connection, as_of: int | None) -> int:
    """The position that `as_of` means: None is the newest entry. Raises InvalidInput for one not written yet.

    What is said of a position still to come would change later: refused, so that nobody writes it down.
    """
    head = log.head(conn).position
    if as_of is not None and as_of > head:
        raise errors.InvalidInput(f"as of: expected a position up to the newest entry, {head}, got {as_of}")
    return head if as_of is None else as_of


def totals(conn: database.Connection, as_of: int | None = None) -> list[Totals]:
    """Authoritative totals by currency, in its order, now or as of a log position; detached days included.

    Raises as `rows` does, and Refused for a position at which only detached rows could say.
    """
    sums = Sums()
    with _moment(conn):
        position = position_of(conn, as_of)
        for gone in departed.totals_of_days(conn, position):
            sums.add_gone(gone)
        in_force = IN_FORCE.format(position=position) + _outside(departed.days(conn))
        unpriced = False
        for currency, before, after, clicks, cost in conn.execute(SELECT_FLIP_SUMS.format(in_force=in_force).encode()):
            sums.flip(currency, before, after, clicks, cost)
            unpriced = unpriced or "valid" not in (before, after)
        known = "" if as_of is None else f" AND log_position <= {position:d}"
        for week in _weeks(conn, Span()):
            with conn.transaction(force_rollback=True):
                of_week = literal_ranges.of_click_ids(week)
                for row in conn.execute(SELECT_LIVE_SUMS.format(condition=of_week + known).encode()):
                    sums.add(*row)
                if unpriced:
                    both = literal_ranges.of_click_ids(week, "a.click_id") + literal_ranges.of_click_ids(
                        week, "d.click_id"
                    )
                    query = SELECT_UNPRICED_FLIP_SUMS.format(in_force=in_force, of_week=both)
                    for currency, before, after, cost in conn.execute(query.encode()):
                        sums.flip(currency, before, after, 0, cost)
    return sums.totals()


class Sums:
    """Clicks and their cost by currency and verdict, to which live decisions and flips are added."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, list[int]]] = {}

    def add(self, currency: str, verdict: str, clicks: int, cost_micros: int) -> None:
        """Count clicks under a verdict; negative numbers take them away."""
        of_currency = self._found.setdefault(currency, {name: [0, 0] for name in VERDICTS})
        of_currency[verdict][0] += clicks
        of_currency[verdict][1] += cost_micros

    def add_gone(self, gone: departed.Totals) -> None:
        """Count clicks that are gone; the cost of the invalid ones was not kept and is not asked for."""
        self.add(gone.currency, "valid", gone.valid, gone.billed_micros)
        self.add(gone.currency, "invalid", gone.invalid, 0)
        self.add(gone.currency, "undecided", gone.undecided, gone.undecided_micros)

    def flip(self, currency: str, before: str, after: str, clicks: int, cost_micros: int) -> None:
        """Move clicks from one verdict to another."""
        self.add(currency, before, -clicks, -cost_micros)
        self.add(currency, after, clicks, cost_micros)

    def totals(self) -> list[Totals]:
        """What came together, by currency."""
        return [self._of(currency, found) for currency, found in sorted(self._found.items())]

    @staticmethod
    def _of(currency: str, found: dict[str, list[int]]) -> Totals:
        valid, invalid, undecided = (found[verdict][0] for verdict in VERDICTS)
        if min(valid, invalid, undecided) < 0:
            raise errors.InvariantBroken(f"totals in {currency}: expected no negative count, got {found}")
        clicks = valid + invalid + undecided
        return Totals(currency, clicks, valid, invalid, undecided, found["valid"][1], found["undecided"][1])


def _outside(days: Sequence[date]) -> str:
    """SQL that leaves out adjustment lines of these days."""
    spans: list[Span] = []
    for span in map(day, days):
        # They leave the oldest first, so all of them are one span as a rule: a comparison a line, however many left.
        if spans and spans[-1].last == span.first:
            spans[-1] = replace(spans[-1], last=span.last)
        else:
            spans.append(span)
    return "".join(f" AND NOT (a.click_id >= '{span.first}' AND a.click_id < '{span.last}')" for span in spans)


def billed_by(conn: database.Connection, fields: Sequence[str], as_of: int | None = None) -> dict[tuple[Any, ...], int]:
    """What valid authoritative decisions cost, micros by the values of `fields` (of COLUMNS), days that left apart.

    Summed from the decisions themselves, as `rows` reads them. Raises as `rows` does.
    """
    sums: dict[tuple[Any, ...], int] = {}
    grouped = ", ".join(fields)
    for query in statements(conn, Span(), (*fields, *BILLED), as_of):
        valid = f"SELECT {grouped}, cost_micros FROM ({query}) d WHERE verdict = 'valid'"
        summed = f"SELECT {grouped}, sum(cost_micros)::bigint FROM ({valid}) v GROUP BY {grouped}"
        for *values, micros in conn.execute(summed.encode()):
            sums[tuple(values)] = sums.get(tuple(values), 0) + micros
    return sums


def rows(
    conn: database.Connection,
    span: Span = Span(),  # noqa: B008 - immutable
    fields: Sequence[str] = COLUMNS,
    as_of: int | None = None,
) -> Iterator[tuple[Any, ...]]:
    """The authoritative decision of every click of a span, as tuples of `fields` (of COLUMNS), streamed.

    Weeks of event time come in order, rows within a week in none. `run_id` is None where the live decision stands. The
    connection is the iterator's own until it is exhausted or closed. Raises InvalidInput for an unknown field, for a
    position not written yet, or inside of a transaction that is not REPEATABLE READ.
    """
    for number, query in enumerate(statements(conn, span, fields, as_of)):
        with conn.cursor(f"authoritative_rows_{number}", binary=True) as cursor:
            cursor.itersize = FETCH_ROWS
            yield from cursor.execute(query.encode())


def copy_out(
    conn: database.Connection,
    write: Callable[[bytes | bytearray | memoryview], Any],
    span: Span = Span(),  # noqa: B008 - immutable
    fields: Sequence[str] = COLUMNS,
    as_of: int | None = None,
) -> None:
    """The same rows in PostgreSQL's COPY text format (tabs, \\N for NULL), handed to `write` as they come.

    Two to three times as fast as `rows`, since nothing is decoded. Raises as `rows` does.
    """
    for query in statements(conn, span, fields, as_of):
        with conn.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT".encode()) as copy:
            for part in copy:
                write(part)


def decision_of(conn: database.Connection, click_id: uuid.UUID, as_of: int | None = None) -> dict[str, Any] | None:
    """The authoritative decision of one click by column (COLUMNS), now or as of a log position; None: no such click."""
    with conn.cursor(row_factory=dict_row) as cursor:
        if as_of is None:
            return cursor.execute(DECISION_OF, (click_id,)).fetchone()
        return cursor.execute(DECISION_OF_AS_OF, (click_id, position_of(conn, as_of))).fetchone()


def newest_click_ms(conn: database.Connection) -> int | None:
    """Event time of the newest click, Unix milliseconds; None without one. Locks one day partition at a time."""
    for first, last in sorted(_days(conn), reverse=True):
        bounds = literal_ranges.of_click_ids(Span(first=first, last=last))
        if row := conn.execute(SELECT_NEWEST.format(bounds=bounds).encode()).fetchone():
            return int(row[0])
    return None


def day(of: date) -> Span:
    """The span of one UTC day of event times."""
    start_ms = int(datetime(of.year, of.month, of.day, tzinfo=UTC).timestamp()) * 1000
    return Span(first=smallest_click_id(start_ms), last=smallest_click_id(start_ms + DAY_MS))


def smallest_click_id(at_ms: int) -> uuid.UUID:
    """What no click id of that time, Unix milliseconds, or later is smaller than."""
    return uuid.UUID(bytes=at_ms.to_bytes(6) + bytes(10))


def statements(conn: database.Connection, span: Span, fields: Sequence[str], as_of: int | None) -> Iterator[str]:
    """SQL of the rows of each week in turn, to be run before the next is asked for: it is its savepoint's.

    Whoever sums them by fields of their own puts it into a statement. Raises as `rows` does.
    """
    live, delayed = _select_lists(fields)
    with _moment(conn):
        conn.execute(SERIAL)
        position = position_of(conn, as_of)
        with conn.transaction(force_rollback=True):  # gives the locks of what it reads back
            deciding = _authority(conn, as_of)
        if as_of is not None:
            ends = position + 1 if span.hi is None else min(span.hi, position + 1)
            span = replace(span, hi=ends)
        for week in _weeks(conn, span):
            if query := literal_ranges.select(deciding, week, live, delayed):
                with conn.transaction(force_rollback=True):
                    yield query


def _select_lists(fields: Sequence[str]) -> tuple[str, str]:
    """The select lists of live and of delayed decisions. Raises InvalidInput."""
    if unknown := [name for name in fields if name not in COLUMNS] or not fields:
        raise errors.InvalidInput(f"fields: expected some of {', '.join(COLUMNS)}, got {unknown if fields else 'none'}")
    # an enum's binary form has no type that a client knows
    delayed = ["verdict::text" if name == "verdict" else name for name in fields]
    live = ["NULL::bigint AS run_id" if name == "run_id" else name for name in delayed]
    return ", ".join(live), ", ".join(delayed)


def _authority(conn: database.Connection, as_of: int | None) -> literal_ranges.Authority:
    """What decides now, or as of a position; nothing as of position 0."""
    pieces = [] if as_of == 0 else authority.in_force(conn, as_of)
    sparse = [p.run_id for p in authority.publications(conn) if p.kind == SPARSE and _stands(p, as_of)]
    return literal_ranges.Authority(pieces, sparse, as_of)


def _stands(publication: Publication, as_of: int | None) -> bool:
    if as_of is None:
        return publication.reverted is None
    return publication.position <= as_of and (publication.reverted is None or publication.reverted > as_of)


def _weeks(conn: database.Connection, span: Span) -> Iterator[Span]:
    """The span, cut at the bounds of the day partitions that it touches, so many a time; a short one as it is."""
    if span.first is not None and span.last is not None and _length_ms(span.first, span.last) < DAYS_AT_ONCE * DAY_MS:
        yield span  # at most so many days, whatever there are; looking at them all would take longer than reading one
        return
    days = sorted(_days(conn), key=lambda bounds: bounds[0])
    touched = [(first, last) for first, last in days if _touches(span, first, last)]
    cuts = [bounds[0] for bounds in touched[DAYS_AT_ONCE::DAYS_AT_ONCE]]
    # no bounds where no other day lies beyond: they would be compared with every row
    for first, last in zip([span.first, *cuts], [*cuts, span.last], strict=True):
        yield replace(span, first=first, last=last)


def _length_ms(first: uuid.UUID, last: uuid.UUID) -> int:
    """From the start of the first id's day to the last id, milliseconds of event time."""
    start_ms = (first.int >> 80) // DAY_MS * DAY_MS
    return (last.int >> 80) - start_ms


def _touches(span: Span, first: uuid.UUID, last: uuid.UUID) -> bool:
    return (span.last is None or first < span.last) and (span.first is None or span.first < last)


def _days(conn: database.Connection) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """The bounds of every partition: click ids [first, last)."""
    found = []
    for (text,) in conn.execute(SELECT_PARTITIONS):
        if (bounds := PARTITION_BOUNDS.fullmatch(text)) is None:
            raise errors.InvariantBroken(f"decisions: expected partitions by a range of click ids, got {text}")
        first, last = (bound.strip("'") for bound in bounds.groups())
        found.append((SMALLEST if first == "MINVALUE" else uuid.UUID(first), uuid.UUID(last)))
    return found


@contextmanager
def _moment(conn: database.Connection) -> Iterator[None]:
    """A REPEATABLE READ transaction of its own, or a part of the caller's; nothing set or locked in it outlives it."""
    if conn.info.transaction_status == TransactionStatus.IDLE:
        with database.snapshot(conn):
            conn.execute(LOCK_PARENTS)
            yield
        return
    row = conn.execute("SHOW transaction_isolation").fetchone()
    if row is None or row[0] == "read committed":
        raise errors.InvalidInput(f"reading: expected a REPEATABLE READ transaction or none, got {row}")
    with conn.transaction(force_rollback=True):
        conn.execute(LOCK_PARENTS)
        yield
