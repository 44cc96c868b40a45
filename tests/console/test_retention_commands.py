"""`retention` on the command line, and what `status` says of partitions."""

from __future__ import annotations

from typing import Any

import pytest
from commands import Command
from decided_traffic import bad_deployment

from clickledger.ledger import billing, database, log, partitions

DAY = "2024-03-10"


@pytest.fixture
def conn(conn: database.Connection) -> database.Connection:
    """A connection to a ledger with an old day of a closed period."""
    bad_deployment(conn, clicks=20)
    billing.close_period(conn, DAY[:7], "tests")
    return conn


def test_day_leaves_by_the_commands_that_each_names_next(conn: database.Connection, command: Command) -> None:
    planned = command("retention", "plan")
    assert [(d["day"], d["refused"]) for d in planned.fields["days"]] == [(DAY, None)]
    assert f"next: clickledger retention detach {DAY} --reason WHY --yes" in planned.said

    detached = command("retention", "detach", DAY, "--reason", "13 months", "--yes")
    assert detached.code == 0
    assert detached.fields["clicks"] > 0
    assert f"clickledger retention drop {DAY}" in detached.said
    [entry] = log.read(conn, kinds=["day_detached"])
    assert (entry.reason, entry.actor.startswith("cli")) == ("13 months", True)

    shown = command("retention", "show", DAY)
    assert sum(row["told"] for row in shown.fields["sums"]) == sum(
        row["charged_micros"] for row in entry.payload["sums"].values()
    )
    left = command("retention", "plan").fields
    assert (left["days"], [d["day"] for d in left["detached"]], left["halfway"]) == ([], [DAY], [])
    assert command("audit", "verify").code == 0
    dropped = command("retention", "drop", DAY, "--reason", "archived", "--yes")
    assert (dropped.code, "next: clickledger audit verify" in dropped.said) == (0, True)
    assert command("audit", "verify").code == 0


@pytest.mark.parametrize("verb", ["detach", "drop"])
def test_nothing_leaves_without_yes(conn: database.Connection, command: Command, verb: str) -> None:
    head = log.head(conn)
    answer = command("retention", verb, DAY, "--reason", "x")
    assert (answer.code, answer.said.count("\n")) == (3, 1)
    assert "add --yes" in answer.said
    assert log.head(conn) == head


def test_held_day_is_refused_by_the_number_of_its_hold(conn: database.Connection, command: Command) -> None:
    held = command("retention", "hold", "2024-03-01", DAY, "--reason", "case 17")
    assert (held.code, held.fields["first_day"], held.fields["last_day"]) == (0, "2024-03-01", DAY)
    refused = command("retention", "detach", DAY, "--reason", "x", "--yes")
    assert refused.code == 3
    assert f"legal hold {held.fields['hold_id']}" in refused.said
    assert command("retention", "release", held.fields["hold_id"], "--reason", "settled").code == 0
    assert command("retention", "release", held.fields["hold_id"], "--reason", "again").code == 4
    [listed] = command("retention", "holds").fields["holds"]
    assert listed["released_position"] == log.head(conn).position
    assert command("retention", "detach", DAY, "--reason", "x", "--yes").code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("hold", "2024-03-11", "2024-03-10", "--reason", "x"),
        ("hold", "yesterday", "2024-03-10", "--reason", "x"),
        ("release", 99, "--reason", "x"),
        ("show", "2024-03-12"),
        ("detach", "2024-03-12", "--reason", "x", "--yes"),
        ("plan", "--months", 0),
    ],
)
def test_what_cannot_be_used_ends_with_2(
    conn: database.Connection, command: Command, words: tuple[object, ...]
) -> None:
    answer = command("retention", *words)
    assert (answer.code, answer.said.startswith("error: ")) == (2, True)


def test_click_of_a_detached_day_is_explained(conn: database.Connection, command: Command) -> None:
    row = conn.execute("SELECT click_id FROM clicks LIMIT 1").fetchone()
    command("retention", "detach", DAY, "--reason", "x", "--yes")
    answer = command("why", row[0] if row else "")
    assert answer.code == 2
    assert f"was of {DAY}, detached at position" in answer.said


def test_status_warns_when_days_are_missing_ahead(conn: database.Connection, command: Command) -> None:
    answer = command("status")
    assert answer.code == 0
    assert answer.fields["partitions"]["days_ahead"] == 0
    assert "warning: partitions: expected days to exist 3 ahead, got 0" in answer.said
    partitions.ensure_ahead(conn)
    answer = command("status")
    assert (answer.fields["partitions"]["days_ahead"], answer.fields["partitions"]["warnings"]) == (3, [])
    assert "warning" not in answer.said


def test_status_of_a_database_without_a_ledger_says_nothing_of_partitions(
    servers: Any, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLICKLEDGER_DATABASE_URL", servers.database_url)
    assert command("status").fields["partitions"] is None
