"""Outcomes are recorded once each, the first version of each, and an entry says which rows it holds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from batches import at, click_id

from clickledger import errors
from clickledger.ledger import database, log, outcomes
from clickledger.ledger.outcomes import Outcome, OutcomesAppended

Connect = Callable[[], database.Connection]
FIRST, SECOND = (click_id(at("2024-03-10", n), n) for n in range(2))
PURCHASE = Outcome(FIRST, "purchase", 1_710_000_000_000, 25_000_000)


def stored(conn: database.Connection) -> list[tuple[str, int, int, int, int]]:
    query = "SELECT kind, occurred_at_ms, value_micros, log_position, line FROM outcomes ORDER BY log_position, line"
    return conn.execute(query).fetchall()


def test_nothing_new_writes_no_entry(conn: database.Connection) -> None:
    assert outcomes.append(conn, [], "tests") == OutcomesAppended(None, 0, 0)
    outcomes.append(conn, [PURCHASE], "tests")
    assert outcomes.append(conn, [PURCHASE, PURCHASE], "tests") == OutcomesAppended(None, 0, 2)
    assert log.head(conn).position == 2


def test_outcome_is_its_click_kind_and_time(conn: database.Connection) -> None:
    told = [
        PURCHASE,
        PURCHASE._replace(kind="install"),
        PURCHASE._replace(occurred_at_ms=5),
        PURCHASE._replace(click_id=SECOND),
    ]
    assert outcomes.append(conn, told, "tests") == OutcomesAppended(2, 4, 0)
    assert log.entry(conn, 2).row_count == 4
    assert [line for *_, line in stored(conn)] == [0, 1, 2, 3]


def test_first_version_of_an_outcome_stays(conn: database.Connection) -> None:
    outcomes.append(conn, [PURCHASE], "tests")
    answer = outcomes.append(conn, [PURCHASE._replace(value_micros=1), PURCHASE._replace(kind="refund")], "tests")
    assert answer == OutcomesAppended(3, 1, 1)
    assert [(kind, value) for kind, _, value, _, _ in stored(conn)] == [
        ("purchase", 25_000_000),
        ("refund", 25_000_000),
    ]


@pytest.mark.parametrize("values", [(9, 3), (3, 9)])
def test_first_version_within_one_call_stays(conn: database.Connection, values: tuple[int, int]) -> None:
    told = [PURCHASE._replace(value_micros=value) for value in values]
    assert outcomes.append(conn, told, "tests") == OutcomesAppended(2, 1, 1)
    assert [value for _, _, value, _, _ in stored(conn)] == [values[0]]


def test_many_outcomes_are_split_over_entries(conn: database.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "ROWS_PER_ENTRY_MAX", 3)
    told = [PURCHASE._replace(occurred_at_ms=n) for n in range(8)]
    outcomes.append(conn, told[:2], "tests")
    assert outcomes.append(conn, told, "tests") == OutcomesAppended(5, 6, 2)
    assert [entry.row_count for entry in log.read(conn, after=1)] == [2, 1, 3, 2]


def test_outcome_of_an_unknown_click_is_kept(conn: database.Connection) -> None:
    """Its click may still arrive: outcomes and clicks come by different ways."""
    assert outcomes.append(conn, [PURCHASE._replace(click_id=bytes(16))], "tests").new == 1


@pytest.mark.parametrize(
    "broken",
    [{"value_micros": -1}, {"value_micros": 2**63}, {"click_id": b"short"}, {"kind": "nul\x00"}, {"kind": "\ud800"}],
    ids=lambda broken: next(iter(broken)),
)
def test_outcome_that_cannot_be_stored_is_invalid_input_and_leaves_no_trace(
    conn: database.Connection, broken: dict[str, object]
) -> None:
    with pytest.raises(errors.InvalidInput):
        outcomes.append(conn, [PURCHASE, Outcome(**PURCHASE._asdict() | {"click_id": SECOND} | broken)], "tests")  # type: ignore[arg-type]
    assert stored(conn) == []
    assert log.head(conn).position == 1


def test_outcomes_sent_by_many_at_once_are_recorded_once(connect: Connect) -> None:
    told, ready = [PURCHASE._replace(occurred_at_ms=n) for n in range(30)], threading.Barrier(4)

    def send(number: int) -> int:
        conn = connect()
        ready.wait()
        return outcomes.append(conn, told[:: 1 if number % 2 else -1], "tests").new

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(send, range(4))) == [0, 0, 0, 30]
    assert len(stored(connect())) == 30
