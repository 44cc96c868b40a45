"""All ways to read agree, at every position of any history; and a reader's locks, snapshot and refusals."""

from __future__ import annotations

import contextlib
import datetime
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import clones
import hypothesis
import psycopg
import pytest
from batches import Row, at, batch, click_id, clicks
from hypothesis import HealthCheck
from hypothesis import strategies as st
from replays import publish, published, staged

from clickledger import errors
from clickledger.ledger import append, billing, database, literal_ranges, log, partitions, publication, reading, sparse
from clickledger.ledger.literal_ranges import Span
from clickledger.ledger.sparse import Correction

DAYS = ("1999-12-31", "2024-01-31", "2024-02-01", "2024-02-29")  # the first lies in the partition without a day
VIEW = f"SELECT {', '.join(reading.COLUMNS)} FROM authoritative_decisions_as_of(%s)"
PLACE = {name: number for number, name in enumerate(reading.COLUMNS)}

NUMBER = st.integers(0, 1_000)
STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 6), NUMBER),
    st.tuples(st.just("publish"), NUMBER, st.integers(1, 5)),
    st.tuples(st.just("publish"), NUMBER, st.integers(1, 5)),
    st.tuples(st.just("correct"), NUMBER, st.integers(1, 5)),
    st.tuples(st.just("revert"), NUMBER, NUMBER),
)


class History:
    """A ledger that grows by steps."""

    def __init__(self, conn: database.Connection) -> None:
        self.conn = conn
        self.clicks = 0
        self.runs: list[int] = []

    def append(self, count: int, seed: int) -> None:
        rows = [self._row(self.clicks + n, seed + n) for n in range(count)]
        self.clicks += count
        append.append(self.conn, batch(rows), actor="tests")

    @staticmethod
    def _row(number: int, seed: int) -> Row:
        verdict = reading.VERDICTS[seed % 3]
        currency = "EUR" if seed % 5 else "USD"
        click = click_id(at(DAYS[seed % 4], number), number)
        return Row(click, verdict, cost_micros=100 + number, currency=currency)

    def publish(self, start: int, width: int) -> None:
        head = log.head(self.conn).position
        lo = 1 + start % head
        span = (lo, min(lo + width, head + 1))
        found = [row[0].bytes for row in reading.rows(self.conn, Span(*span), ["click_id"])]
        flipped = {click: reading.VERDICTS[(start + n) % 3] for n, click in enumerate(sorted(found))}
        with contextlib.suppress(errors.Refused):  # a range without clicks
            self.runs.append(published(self.conn, *span, flipped))

    def correct(self, start: int, count: int) -> None:
        found = sorted(row[0].bytes for row in reading.rows(self.conn, fields=["click_id"]))
        stated = [
            Correction(found[(start + n) % len(found)], reading.VERDICTS[(start + n) % 3], "stated", 1.0, 2.0)
            for n in range(count)
        ]
        run_id = sparse.plan(self.conn, stated, actor="tests", reason="test").run_id
        publish(self.conn, run_id)
        self.runs.append(run_id)

    def revert(self, number: int, _: int) -> None:
        if self.runs:
            with contextlib.suppress(errors.Refused):  # beneath another
                publication.revert(self.conn, self.runs[number % len(self.runs)], "tests", "test")


def totals_of(rows: set[tuple[Any, ...]]) -> list[reading.Totals]:
    counts: Counter[tuple[str, str]] = Counter()
    money: Counter[tuple[str, str]] = Counter()
    for row in rows:
        key = (row[PLACE["currency"]], row[PLACE["verdict"]])
        counts[key] += 1
        money[key] += row[PLACE["cost_micros"]]
    of = {name: [counts[name, verdict] for verdict in reading.VERDICTS] for name in {name for name, _ in counts}}
    return [
        reading.Totals(name, sum(n), *n, money[name, "valid"], money[name, "undecided"])
        for name, n in sorted(of.items())
    ]


def everything_agrees_as_of(conn: database.Connection, position: int | None) -> None:
    view = conn.execute(VIEW, (log.head(conn).position if position is None else position,)).fetchall()
    expected = set(view)
    assert len(expected) == len(view)
    assert sorted(reading.rows(conn, as_of=position)) == sorted(expected)
    assert [t for t in reading.totals(conn, position) if t.clicks] == totals_of(expected)
    billed: Counter[tuple[str, str]] = Counter()
    for row in (row for row in expected if row[PLACE["verdict"]] == "valid"):
        billed[row[PLACE["campaign_id"]], row[PLACE["currency"]]] += row[PLACE["cost_micros"]]
    assert reading.billed_by(conn, ["campaign_id", "currency"], position) == billed
    one_by_one = [reading.decision_of(conn, row[0], position) for row in reading.rows(conn, fields=["click_id"])]
    assert sorted(tuple(one[name] for name in reading.COLUMNS) for one in one_by_one if one) == sorted(expected)
    day = reading.day(datetime.date.fromisoformat(DAYS[1]))
    of_day = {row for row in expected if day.first and day.last and day.first <= row[0] < day.last}
    assert sorted(reading.rows(conn, day, as_of=position)) == sorted(of_day)
    for span in (Span(3, 9), Span(lo=5)):
        within = {row for row in expected if span.lo <= row[1] and (span.hi is None or row[1] < span.hi)}
        assert sorted(reading.rows(conn, span, as_of=position)) == sorted(within)


@pytest.fixture(scope="module")
def databases(servers: Any, template_database: str) -> Iterator[Callable[[], str]]:
    with clones.Clones(servers.database_url, template_database) as made:
        with database.connect(made.prepared) as conn:
            partitions.ensure(conn, {int(at(day) // partitions.DAY_MS) for day in DAYS})
        yield made.another


@pytest.mark.parametrize("few_pieces", [0, 8])
def test_totals_rows_single_clicks_and_the_view_agree_as_of_every_position(
    databases: Callable[[], str], few_pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(literal_ranges, "FEW_PIECES", few_pieces)

    @hypothesis.settings(
        max_examples=8, deadline=None, phases=[hypothesis.Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @hypothesis.given(st.lists(STEP, min_size=3, max_size=7))
    def holds(steps: list[tuple[str, int, int]]) -> None:
        with contextlib.closing(database.connect(databases())) as conn:
            conn.execute("SET synchronous_commit = off")
            history = History(conn)
            history.append(4, 0)
            history.append(3, 1)
            for name, *arguments in steps:
                getattr(history, name)(*arguments)
            now = conn.execute(f"SELECT {', '.join(reading.COLUMNS)} FROM authoritative_decisions").fetchall()
            assert sorted(now) == sorted(reading.rows(conn))
            everything_agrees_as_of(conn, None)
            for position in range(log.head(conn).position + 1):
                everything_agrees_as_of(conn, position)

    holds()


@pytest.fixture
def forty_days(conn: database.Connection) -> database.Connection:
    """A click on each of 40 days, one run over all of them in force."""
    for day in range(40):
        append.append(conn, batch([Row(click_id(at("2024-01-01") + day * partitions.DAY_MS, day))]), actor="tests")
    head = log.head(conn).position
    published(conn, 2, head + 1, {})
    return conn


def locks_of(reader: database.Connection, observer: database.Connection) -> int:
    query = "SELECT count(*) FROM pg_locks WHERE pid = %s"
    row = observer.execute(query, (reader.info.backend_pid,)).fetchone()
    assert row
    return int(row[0])


def test_a_reader_of_all_days_never_holds_the_locks_of_more_than_a_week(
    forty_days: database.Connection, connect: Callable[[], database.Connection]
) -> None:
    reader, days = connect(), 0
    for _ in reading.rows(reader):
        days += 1
        assert 0 < locks_of(reader, forty_days) < 64
    assert days == 40
    assert locks_of(reader, forty_days) == 0


def test_copying_out_never_holds_the_locks_of_more_than_a_week(
    forty_days: database.Connection, connect: Callable[[], database.Connection]
) -> None:
    reader = connect()
    lines: list[bytes] = []

    def write(part: bytes | bytearray | memoryview) -> None:
        lines.extend(bytes(part).splitlines())
        assert locks_of(reader, forty_days) < 64

    reading.copy_out(reader, write, fields=["click_id", "run_id"])
    assert {uuid.UUID(line.split(b"\t")[0].decode()) for line in lines} == {
        row[0] for row in reading.rows(reader, fields=["click_id"])
    }


def test_totals_are_summed_week_by_week(forty_days: database.Connection) -> None:
    with database.snapshot(forty_days):
        [found] = reading.totals(forty_days)
        assert locks_of(forty_days, forty_days) < 64
    assert (found.clicks, found.valid) == (40, 40)


def test_one_click_is_found_with_few_locks(forty_days: database.Connection) -> None:
    click = uuid.UUID(bytes=click_id(at("2024-01-01"), 0))
    for _ in range(12):  # often enough for a plan to be kept
        with forty_days.transaction():
            assert reading.decision_of(forty_days, click)
            assert locks_of(forty_days, forty_days) < 64


def test_a_day_cannot_be_detached_from_under_a_reader(
    forty_days: database.Connection, connect: Callable[[], database.Connection]
) -> None:
    reader = connect()
    found = reading.rows(reader)
    next(found)
    forty_days.execute("SET lock_timeout = '50ms'")
    with pytest.raises(errors.Unavailable, match="could not do it now"):
        forty_days.execute("ALTER TABLE decisions DETACH PARTITION decisions_20240209")
    assert len(list(found)) == 39
    forty_days.execute("ALTER TABLE decisions DETACH PARTITION decisions_20240209")


def test_what_is_appended_or_published_meanwhile_is_not_read(
    forty_days: database.Connection, connect: Callable[[], database.Connection]
) -> None:
    found = reading.rows(connect(), fields=["verdict", "run_id"])
    seen = [next(found)]
    append.append(forty_days, batch(clicks(1, "2024-02-09", start=99)), actor="tests")
    head = log.head(forty_days).position
    last = uuid.UUID(bytes=click_id(at("2024-01-01") + 39 * partitions.DAY_MS, 39))
    run = staged(forty_days, 2, head, {last.bytes: "invalid"})
    publish(forty_days, run)
    seen += list(found)
    assert {verdict for verdict, _ in seen} == {"valid"}
    assert len(seen) == 40
    assert run not in {by for _, by in seen}


def test_a_reader_given_up_leaves_the_connection_free(forty_days: database.Connection) -> None:
    found = reading.rows(forty_days)
    next(found)
    found.close()
    assert forty_days.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert len(list(reading.rows(forty_days))) == 40


def test_reading_joins_the_callers_repeatable_read_transaction(
    forty_days: database.Connection, connect: Callable[[], database.Connection]
) -> None:
    reader = connect()
    with database.snapshot(reader):
        reader.execute("SELECT count(*) FROM log")
        append.append(forty_days, batch(clicks(1, "2024-02-09", start=99)), actor="tests")
        assert len(list(reading.rows(reader))) == 40
        assert reading.totals(reader)[0].clicks == 40
    assert len(list(reading.rows(reader))) == 41


def test_reading_in_a_read_committed_transaction_is_refused(conn: database.Connection) -> None:
    with conn.transaction(), pytest.raises(errors.InvalidInput, match="REPEATABLE READ"):
        reading.totals(conn)


def test_a_position_to_come_is_refused(conn: database.Connection) -> None:
    with pytest.raises(errors.InvalidInput, match="up to the newest entry, 1, got 2"):
        list(reading.rows(conn, as_of=2))
    with pytest.raises(errors.InvalidInput, match="up to the newest entry, 1, got 2"):
        reading.decision_of(conn, uuid.uuid4(), as_of=2)


def test_unknown_fields_are_refused(conn: database.Connection) -> None:
    with pytest.raises(errors.InvalidInput, match="got \\['price'\\]"):
        list(reading.rows(conn, fields=["price"]))
    with pytest.raises(errors.InvalidInput, match="got none"):
        list(reading.rows(conn, fields=[]))


def test_an_unknown_click_has_no_decision(conn: database.Connection) -> None:
    assert reading.decision_of(conn, uuid.uuid4()) is None
    assert billing.totals(conn) == []


def test_a_span_from_within_a_day_finds_the_clicks_of_its_first_and_last_day(forty_days: database.Connection) -> None:
    start = at("2024-01-03") - 1
    span = Span(first=reading.smallest_click_id(start), last=reading.smallest_click_id(start + 6 * partitions.DAY_MS))
    assert len(list(reading.rows(forty_days, span))) == 6
