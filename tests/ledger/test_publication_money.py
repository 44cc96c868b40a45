"""Money of publications and reverts: credits post, back-charges into closed periods are written off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from batches import batch, clicks
from replays import published

from clickledger.ledger import append, billing, comparison, database, publication

(CLICK,) = (row.click_id for row in clicks(1))


def all_of(verdict: str) -> dict[bytes, str]:
    return {CLICK: verdict}


def lines(conn: database.Connection) -> list[tuple[Any, ...]]:
    """(entry kind, posted, written off) of every line of the feed."""
    query = "SELECT entry_kind, amount_micros, write_off_micros FROM billing_entries ORDER BY position, line"
    return conn.execute(query).fetchall()


@pytest.fixture
def one_click(conn: database.Connection) -> Callable[[str], database.Connection]:
    """A ledger of one click with the given live verdict."""

    def decided(verdict: str) -> database.Connection:
        append.append(conn, batch(clicks(1, verdict=verdict)), actor="tests")
        return conn

    return decided


def test_back_charge_into_a_closed_period_is_written_off(one_click: Callable[[str], database.Connection]) -> None:
    conn = one_click("invalid")
    billing.close_period(conn, "2024-03", "tests")
    run_id = published(conn, 2, 3, all_of("valid"))
    assert comparison.latest(conn, run_id).summary["write_off_micros"] == 1_000
    assert lines(conn) == [("adjustment", 0, 1_000)]
    publication.revert(conn, run_id, "tests", "")
    assert lines(conn) == [("adjustment", 0, 1_000), ("reversal", 0, -1_000)]


def test_back_charge_into_another_closed_period_posts(one_click: Callable[[str], database.Connection]) -> None:
    conn = one_click("invalid")
    billing.close_period(conn, "2024-02", "tests")
    published(conn, 2, 3, all_of("valid"))
    assert lines(conn) == [("adjustment", 1_000, 0)]


def test_credit_into_a_closed_period_posts_and_its_undoing_is_written_off(
    one_click: Callable[[str], database.Connection],
) -> None:
    conn = one_click("valid")
    billing.close_period(conn, "2024-03", "tests")
    publication.revert(conn, published(conn, 2, 3, all_of("invalid")), "tests", "")
    assert lines(conn) == [("charge", 1_000, 0), ("adjustment", -1_000, 0), ("reversal", 0, 1_000)]


def test_what_was_written_off_is_never_credited(one_click: Callable[[str], database.Connection]) -> None:
    conn = one_click("invalid")
    billing.close_period(conn, "2024-03", "tests")
    published(conn, 2, 3, all_of("valid"))
    published(conn, 2, 3, all_of("invalid"))
    assert lines(conn) == [("adjustment", 0, 1_000), ("adjustment", 0, -1_000)]


def test_what_a_later_revert_wrote_off_is_never_credited(one_click: Callable[[str], database.Connection]) -> None:
    conn = one_click("invalid")
    below = published(conn, 2, 3, all_of("valid"))
    above = published(conn, 2, 3, all_of("invalid"))
    billing.close_period(conn, "2024-03", "tests")
    publication.revert(conn, above, "tests", "")
    publication.revert(conn, below, "tests", "")
    assert lines(conn) == [
        ("adjustment", 1_000, 0),
        ("adjustment", -1_000, 0),
        ("reversal", 0, 1_000),
        ("reversal", 0, -1_000),
    ]


def test_charge_lifted_and_restored_before_the_close_is_credited(
    one_click: Callable[[str], database.Connection],
) -> None:
    conn = one_click("invalid")
    below = published(conn, 2, 3, all_of("valid"))
    publication.revert(conn, published(conn, 2, 3, all_of("invalid")), "tests", "")
    billing.close_period(conn, "2024-03", "tests")
    publication.revert(conn, below, "tests", "")
    assert lines(conn)[-1] == ("reversal", -1_000, 0)
    assert billing.feed_total(conn) == (0, 0)


def test_undecided_is_neither_charged_nor_credited(one_click: Callable[[str], database.Connection]) -> None:
    conn = one_click("undecided")
    published(conn, 2, 3, all_of("invalid"))
    assert lines(conn) == [("adjustment", 0, 0)]
    [totals] = billing.totals(conn, as_of=2)
    assert (totals.undecided, totals.undecided_micros, totals.billed_micros) == (1, 1_000, 0)
