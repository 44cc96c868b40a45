"""Billing reads every line exactly once, in one order, from a log that is still the one it began with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from batches import at, batch, click_id, clicks
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from replays import published, staged

from clickledger import errors
from clickledger.ledger import append, billing, comparison, database, deployments, log, outcomes, publication

Connect = Callable[[], database.Connection]


@pytest.fixture
def busy(conn: database.Connection) -> database.Connection:
    """A feed with charges, entries without any, adjustments of one position over many lines, reversals."""
    append.append(conn, batch(clicks(7)), actor="tests")
    append.append(conn, batch(clicks(3, start=20, verdict="invalid")), actor="tests")
    outcomes.append(conn, [outcomes.Outcome(click_id(at("2024-03-10"), 0), "purchase", 1, 5)], "tests")
    append.append(conn, batch(clicks(4, start=30)), actor="tests")
    flipped = {row.click_id: "invalid" for row in clicks(40)}
    first = published(conn, 2, 6, flipped)
    append.append(conn, batch(clicks(2, start=40)), actor="tests")
    publication.revert(conn, first, "tests", "")
    published(conn, 2, 6, {row.click_id: "valid" for row in clicks(40)})
    billing.close_period(conn, "2024-03", "tests")
    return conn


def identity(entry: dict[str, Any]) -> tuple[int, int]:
    return entry["position"], entry["line"]


def everything(conn: database.Connection) -> list[tuple[int, int]]:
    rows = conn.execute("SELECT position, line FROM billing_entries ORDER BY position, line").fetchall()
    assert len(rows) == len(set(rows))
    return [(position, line) for position, line in rows]


@hypothesis.settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_pages_of_any_size_yield_each_line_exactly_once(busy: database.Connection, limits: list[int]) -> None:
    cursor, seen, pages = billing.Cursor(), [], 0
    while True:
        page = billing.read(busy, cursor, limits[pages % len(limits)])
        assert len(page.entries) <= limits[pages % len(limits)]
        cursor, pages = page.cursor, pages + 1
        seen += [identity(entry) for entry in page.entries]
        if page.at_head:
            break
    assert seen == everything(busy)


def test_reader_at_the_head_gets_only_what_is_new(busy: database.Connection) -> None:
    head = billing.read(busy, limit=1_000)
    assert head.at_head
    assert billing.read(busy, head.cursor).entries == []
    append.append(busy, batch(clicks(2, start=60)), actor="tests")
    later = billing.read(busy, head.cursor)
    assert [entry["entry_kind"] for entry in later.entries] == ["charge", "charge"]
    assert later.at_head


def test_page_that_ends_within_a_publication_goes_on_within_it(busy: database.Connection) -> None:
    whole = billing.read(busy, limit=1_000).entries
    inside = next(i for i, entry in enumerate(whole) if entry["entry_kind"] == "adjustment") + 2
    cursor, seen = billing.Cursor(), 0
    while seen < inside:
        page = billing.read(busy, cursor, 1)
        cursor, seen = page.cursor, seen + len(page.entries)
    assert (cursor.position, cursor.line) == (whole[inside]["position"], whole[inside]["line"] - 1)
    assert billing.read(busy, cursor).entries == whole[inside:]


def test_page_within_a_large_publication_reads_no_more_of_it_than_the_page(conn: database.Connection) -> None:
    rows = clicks(3_000)
    append.append(conn, batch(rows), actor="tests")
    run_id = published(conn, 2, 3, {row.click_id: "invalid" for row in rows})
    publication.revert(conn, run_id, "tests", "")
    conn.execute("SET enable_seqscan = off")  # as for a table that is large beside a page
    whole, seen, cursor = billing.read(conn, limit=10_000).entries, 0, billing.Cursor()
    assert len(whole) == 9_000
    while not (page := read_and_count(conn, cursor))[0].at_head:
        assert page[0].entries == whole[seen : seen + 100]
        assert page[1] <= 300, f"{page[1]} lines read from {cursor}"
        cursor, seen = page[0].cursor, seen + 100
    assert seen == 9_000


@pytest.mark.parametrize("line", [31_768, 32_767, 32_768, (1 << 31) - 1, 1 << 31])
def test_cursor_deep_within_an_entry_is_read_like_any_other(busy: database.Connection, line: int) -> None:
    position = next(e["position"] for e in billing.read(busy, limit=1_000).entries if e["entry_kind"] == "adjustment")
    cursor = billing.Cursor(position, line, log.entry(busy, position).chain_hash.hex())
    assert all(entry["position"] > position for entry in billing.read(busy, cursor, 1_000).entries)
    assert billing.read(busy, cursor, 32_767).at_head


def read_and_count(conn: database.Connection, cursor: billing.Cursor) -> tuple[billing.Page, int]:
    """A page of 100 lines, and how many rows of `adjustments` it took."""
    count = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'adjustments'"
    with database.snapshot(conn):
        [(before,)] = conn.execute(count).fetchall()  # of earlier transactions, not handed in yet
        page = billing.read(conn, cursor, 100)
        [(after,)] = conn.execute(count).fetchall()
    return page, after - before


def test_cursor_is_refused_when_its_entry_was_replaced(busy: database.Connection) -> None:
    cursor = billing.read(busy, limit=3).cursor
    with pytest.raises(errors.Conflict, match=f"position {cursor.position}: expected chain hash {'ab' * 32}"):
        billing.read(busy, cursor._replace(chain_hash="ab" * 32))


def test_cursor_is_refused_when_the_log_ends_before_it(busy: database.Connection) -> None:
    cursor = billing.read(busy, limit=1_000).cursor
    with pytest.raises(errors.Conflict, match="got no entry"):
        billing.read(busy, cursor._replace(position=cursor.position + 1))


def test_cursor_of_another_ledger_is_refused(busy: database.Connection) -> None:
    """After a failover that lost commits, positions are given again: here the same clicks under another chain."""
    cursor = billing.read(busy, limit=3).cursor
    with busy.transaction():
        busy.execute("SET LOCAL session_replication_role = replica")
        busy.execute("DELETE FROM log WHERE position >= %s", (cursor.position,))
        busy.execute("SELECT write_entry('clicks_decided', 'another', '', '{}', 7, sha256(''))")
    with pytest.raises(errors.Conflict, match="expected chain hash"):
        billing.read(busy, cursor)


@pytest.mark.parametrize("limit", [0, -1])
def test_page_of_no_lines_is_refused(busy: database.Connection, limit: int) -> None:
    with pytest.raises(errors.InvalidInput, match="limit"):
        billing.read(busy, limit=limit)


def test_feed_never_changes_behind_a_reader(conn: database.Connection) -> None:
    append.append(conn, batch(clicks(3)), actor="tests")
    told: list[dict[str, Any]] = []
    run_id = staged(conn, 2, 3, {row.click_id: "invalid" for row in clicks(3)})
    for step in ("compare", "publish", "close", "revert"):
        if step == "compare":
            digest = comparison.compare(conn, run_id, "tests").digest
        elif step == "publish":
            publication.publish(conn, run_id, digest, "tests", "")
        elif step == "close":
            billing.close_period(conn, "2024-03", "tests")
        else:
            publication.revert(conn, run_id, "tests", "")
        now = billing.read(conn, limit=1_000).entries
        assert now[: len(told)] == told
        told = now
    assert [entry["entry_kind"] for entry in told] == ["charge"] * 3 + ["adjustment"] * 3 + ["reversal"] * 3


def test_lines_of_one_click_tell_its_story(busy: database.Connection) -> None:
    click = clicks(1)[0].uuid
    found = [(e["entry_kind"], e["amount_micros"]) for e in billing.lines_of(busy, click)]
    assert found == [("charge", 1_000), ("adjustment", -1_000), ("reversal", 1_000)]
    assert {e["original_period"] for e in billing.lines_of(busy, click)} == {"2024-03"}


def test_totals_as_of_a_position_are_those_of_that_moment(busy: database.Connection) -> None:
    for position in range(1, log.head(busy).position + 1):
        posted, written_off = billing.feed_total(busy, position)
        assert posted + written_off == sum(t.billed_micros for t in billing.totals(busy, position))
    [now] = billing.totals(busy)
    assert (now.clicks, now.valid, now.invalid, now.billed_micros) == (16, 16, 0, 16_000)


def test_totals_keep_currencies_apart(conn: database.Connection) -> None:
    append.append(conn, batch(clicks(2) + clicks(3, start=5, currency="USD", cost_micros=7)), actor="tests")
    assert [(t.currency, t.billed_micros) for t in billing.totals(conn)] == [("EUR", 2_000), ("USD", 21)]


def test_period_is_the_month_of_the_click_in_utc(conn: database.Connection) -> None:
    edges = [("2023-12-31", 86_399), ("2024-01-01", 0), ("2024-02-29", 86_399)]
    rows = [clicks(1)[0].__class__(click_id(at(day, second), n)) for n, (day, second) in enumerate(edges)]
    conn.execute("SET timezone = 'Pacific/Auckland'")
    append.append(conn, batch(rows), actor="tests")
    assert [e["original_period"] for e in billing.read(conn).entries] == ["2023-12", "2024-01", "2024-02"]


def test_period_is_closed_once(conn: database.Connection) -> None:
    position = billing.close_period(conn, "2024-03", "tests")
    with pytest.raises(errors.Conflict, match=f"was closed at position {position}"):
        billing.close_period(conn, "2024-03", "tests")
    assert log.head(conn).position == position


def test_month_that_is_not_over_is_not_closed(conn: database.Connection) -> None:
    """Late lines post to the month they are recorded in, which must be open."""
    [(this_month,)] = conn.execute("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM')").fetchall()
    for period in (this_month, "9999-12"):
        with pytest.raises(errors.Refused, match=f"period {period}: expected a month that is over, it is {this_month}"):
            billing.close_period(conn, period, "tests")
    assert log.head(conn).position == 1


@pytest.mark.parametrize("period", ["2024-13", "2024-00", "2024", "2024-3", "24-03", "2024-03 ", "２０２４-03", ""])
def test_period_that_is_no_month_is_refused(conn: database.Connection, period: str) -> None:
    with pytest.raises(errors.InvalidInput, match="expected YYYY-MM"):
        billing.close_period(conn, period, "tests")


def test_rollback_of_a_model_bills_nothing(conn: database.Connection) -> None:
    append.append(conn, batch(clicks(2)), actor="tests")
    before = billing.feed_total(conn)
    deployments.begin_counter_epoch(conn, {}, "tests", "")
    assert billing.feed_total(conn) == before


def test_late_charge_into_a_closed_month_posts_to_the_month_it_was_recorded_in(conn: database.Connection) -> None:
    append.append(conn, batch(clicks(1, day="2024-03-10")), actor="tests")
    billing.close_period(conn, "2024-03", "tests")
    append.append(conn, batch(clicks(1, day="2024-03-11", start=1)), actor="tests")
    first, late = billing.read(conn).entries
    recorded = log.head(conn).recorded_at
    assert (first["original_period"], first["posting_period"]) == ("2024-03", "2024-03")
    assert (late["original_period"], late["posting_period"]) == ("2024-03", f"{recorded:%Y-%m}")
