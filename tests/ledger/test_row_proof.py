"""The rows of one click against the log: whatever somebody changed in them is named."""

from __future__ import annotations

import uuid

import pytest
from bundled_ledger import CLICK, Ledger, decided_and_corrected

from clickledger import errors
from clickledger.ledger import database, row_proof


@pytest.fixture
def ledger(conn: database.Connection) -> Ledger:
    return decided_and_corrected(conn)


def forge(conn: database.Connection, statement: str) -> None:
    """Change history as somebody with all rights would, past the triggers."""
    conn.execute("SET session_replication_role = replica")
    assert conn.execute(statement.encode(), (CLICK.uuid,)).rowcount == 1
    conn.execute("SET session_replication_role = DEFAULT")


def test_rows_as_they_were_written_have_no_fault(ledger: Ledger) -> None:
    assert row_proof.faults(ledger.conn, CLICK.uuid) == []


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE clicks SET cost_micros = cost_micros + 1 WHERE click_id = %s",
        "UPDATE clicks SET external_id = 'another' WHERE click_id = %s",
        "UPDATE decisions SET score = score + 1 WHERE click_id = %s",
        "UPDATE decisions SET line = 5 WHERE click_id = %s",
    ],
)
def test_changed_click_or_live_decision_is_not_the_one_that_was_appended(ledger: Ledger, forgery: str) -> None:
    forge(ledger.conn, forgery)
    [fault] = row_proof.faults(ledger.conn, CLICK.uuid)
    assert fault.startswith(f"entry {ledger.position}: the row at line ")
    assert fault.endswith(" is not the one that was appended")


def test_changed_leaves_do_not_vouch_for_a_changed_row(ledger: Ledger) -> None:
    forge(ledger.conn, "UPDATE clicks SET cost_micros = cost_micros + 1 WHERE click_id = %s")
    ledger.conn.execute("SET session_replication_role = replica")
    ledger.conn.execute("UPDATE leaves SET leaves = sha256('') WHERE position = %s", (ledger.position,))
    faults = row_proof.faults(ledger.conn, CLICK.uuid)
    assert f"entry {ledger.position}: its leaves are not the ones that were appended" in faults


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE delayed_decisions SET verdict = 'valid' WHERE click_id = %s",
        "UPDATE delayed_decisions SET score = score + 1 WHERE click_id = %s",
    ],
)
def test_changed_delayed_decision_is_not_the_one_that_was_staged(ledger: Ledger, forgery: str) -> None:
    forge(ledger.conn, forgery)
    faults = row_proof.faults(ledger.conn, CLICK.uuid)
    assert faults == [f"run {ledger.run_id}, chunk 0: its decisions are not the ones that were staged"]


def test_click_that_is_not_there_is_not_found(ledger: Ledger) -> None:
    with pytest.raises(errors.NotFound, match="no click"):
        row_proof.faults(ledger.conn, uuid.UUID(int=1))


@pytest.mark.parametrize(
    ("table", "said"), [("leaves", "its leaves are missing"), ("log", "it is missing")], ids=["leaves", "log"]
)
def test_entry_that_is_missing_is_a_fault_of_its_rows(ledger: Ledger, table: str, said: str) -> None:
    ledger.conn.execute("SET session_replication_role = replica")
    ledger.conn.execute(f"DELETE FROM {table} WHERE position = %s".encode(), (ledger.position,))
    assert f"entry {ledger.position}: {said}" in row_proof.faults(ledger.conn, CLICK.uuid)
