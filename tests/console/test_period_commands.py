"""`clickledger period`: closing a month, once, when it is over, by whoever says that they mean it."""

from __future__ import annotations

import pytest
from commands import Command
from decided_traffic import bad_deployment

from clickledger.ledger import database, log

MONTH = "2024-03"


@pytest.fixture
def conn(conn: database.Connection) -> database.Connection:
    """A connection to a ledger with clicks of an old month."""
    bad_deployment(conn, clicks=20)
    return conn


def test_month_is_closed_once_with_who_and_why(conn: database.Connection, command: Command) -> None:
    assert command("period", "list").fields == {"closed": []}
    done = command("period", "close", MONTH, "--reason", "invoiced", "--yes")
    [entry] = log.read(conn, kinds=["period_closed"])
    assert (done.code, done.fields) == (0, {"period": MONTH, "position": entry.position})
    assert (entry.reason, entry.actor.startswith("cli")) == ("invoiced", True)
    [listed] = command("period", "list").fields["closed"]
    assert (listed["period"], listed["position"], listed["reason"]) == (MONTH, entry.position, "invoiced")
    again = command("period", "close", MONTH, "--reason", "invoiced", "--yes")
    assert (again.code, f"was closed at position {entry.position}" in again.said) == (4, True)
    assert command("audit", "verify").code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((MONTH,), 3, "add --yes"),
        (("March", "--yes"), 2, "expected YYYY-MM, got 'March'"),
        (("2999-01", "--yes"), 3, "expected a month that is over"),
    ],
)
def test_what_is_no_month_to_close_leaves_the_log_alone(
    conn: database.Connection, command: Command, words: tuple[str, ...], code: int, said: str
) -> None:
    head = log.head(conn)
    answer = command("period", "close", *words, "--reason", "x")
    assert (answer.code, said in answer.said) == (code, True)
    assert log.head(conn) == head
