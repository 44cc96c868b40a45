"""`clickledger why`: what it says of a click that nobody sent, and of a row that somebody changed."""

from __future__ import annotations

import uuid

import pytest
from commands import Command
from decided_traffic import Traffic, bad_deployment

from clickledger.ledger import comparison, database, deployments, provenance, publication, sparse
from clickledger.ledger.sparse import Correction
from clickledger.recovery import plans, replay, steps, working
from clickledger.recovery.plans import What
from clickledger.recovery.working import Worker

SENT = "6f1c2d3e-4a5b-4c6d-8e7f-0123456789ab"  # a UUID, but no click id: of version 4


@pytest.fixture
def traffic(conn: database.Connection) -> Traffic:
    return bad_deployment(conn)[0]


def forge(conn: database.Connection, statement: str) -> None:
    """Change history as somebody with all rights would, past the triggers."""
    conn.execute("SET session_replication_role = replica")
    conn.execute(statement.encode())
    conn.execute("SET session_replication_role = DEFAULT")


def test_sender_id_that_is_another_kind_of_uuid_names_its_click(conn: database.Connection, traffic: Traffic) -> None:
    click_id = uuid.UUID(bytes=traffic.ids[0])
    forge(conn, f"UPDATE clicks SET external_id = '{SENT}' WHERE click_id = '{click_id}'")
    assert provenance.find(conn, SENT) == click_id
    assert provenance.find(conn, str(click_id)) == click_id


def test_changed_verdict_is_shown_against_the_numbers_and_ends_with_1(
    conn: database.Connection, traffic: Traffic, command: Command
) -> None:
    select = "SELECT click_id FROM decisions WHERE verdict = 'invalid' ORDER BY click_id LIMIT 1"
    [(click_id,)] = conn.execute(select).fetchall()
    assert command("why", click_id).code == 0
    forge(conn, f"UPDATE decisions SET verdict = 'valid' WHERE click_id = '{click_id}'")
    answer = command("why", click_id)
    assert (answer.code, answer.fields["rescored"][0]["exact"]) == (1, False)
    assert "live decision: valid" in answer.said
    assert " >= threshold " in answer.said
    assert "re-scored now: NOT the same: invalid at" in answer.said


def test_what_a_replay_carried_was_not_computed_by_it_and_ends_with_0(
    conn: database.Connection, command: Command
) -> None:
    traffic, stable, bad = bad_deployment(conn, clicks=20)
    click = traffic.ids[-1]
    stated = sparse.plan(conn, [Correction(click, "valid", "dispute 4711")], actor="ann", reason="")
    publication.publish(conn, stated.run_id, comparison.compare(conn, stated.run_id, "ann").digest, "ann", "")
    others = {"advertisers": ["nobody's"]}
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    run = replay.start(conn, plans.for_positions(conn, *span, What(stable, others)), "ann", "")
    working.work(conn, run.run_id, Worker("tests", 60.0), 60.0)
    compared = steps.finish(conn, run.run_id, "ann")
    assert compared is not None
    publication.publish(conn, run.run_id, compared.digest, "ann", "")

    answer = command("why", uuid.UUID(bytes=click))
    assert (answer.code, [check["exact"] for check in answer.fields["rescored"]]) == (0, [True, None, None])
    carried = answer.said.partition(f"delayed decision of run {run.run_id}: valid  <- in force\n")[2].splitlines()
    assert carried[0].strip() == "reason: dispute 4711"
    assert carried[1].strip() == "carried over: what was in force before, which this run was not to decide"


def test_click_that_nobody_sent_is_named_as_it_was_asked_for(conn: database.Connection, command: Command) -> None:
    asked = "'order-7' of shop at 2026-03-01T12:00:00Z"
    answer = command("why", "order-7", "--source", "shop", "--at", "2026-03-01T12:00:00Z")
    assert (answer.code, answer.said.count("\n")) == (2, 1)
    assert f"which is what {asked} names: expected these as they were sent" in answer.said


def test_rows_as_they_were_written_are_said_to_be(
    conn: database.Connection, traffic: Traffic, command: Command
) -> None:
    answer = command("why", uuid.UUID(bytes=traffic.ids[0]))
    assert (answer.code, answer.fields["row_faults"]) == (0, [])
    position = answer.fields["click"]["log_position"]
    assert f"its rows are those that were written: entry {position}" in answer.said


@pytest.mark.parametrize("change", ["cost_micros = cost_micros + 1", "campaign_id = 'another'"])
def test_changed_price_or_campaign_is_said_and_ends_with_1(
    conn: database.Connection, traffic: Traffic, command: Command, change: str
) -> None:
    click_id = uuid.UUID(bytes=traffic.ids[0])
    before = command("why", click_id)
    forge(conn, f"UPDATE clicks SET {change} WHERE click_id = '{click_id}'")
    answer = command("why", click_id)
    position = before.fields["click"]["log_position"]
    [fault] = answer.fields["row_faults"]
    assert answer.code == 1
    assert fault.startswith(f"entry {position}: the row at line ")
    assert f"NOT as it was written: {fault}" in answer.said


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("decisions", "error: click {click}: expected one decision in force, got 0"),
        ("log", "error: entry {position}: it is missing"),
        ("leaves", "NOT as it was written: entry {position}: its leaves are missing"),
    ],
)
def test_row_that_is_gone_is_said_and_ends_with_1(
    conn: database.Connection, traffic: Traffic, command: Command, table: str, said: str
) -> None:
    click_id = uuid.UUID(bytes=traffic.ids[0])
    named = {"click": click_id, "position": command("why", click_id).fields["click"]["log_position"]}
    where = "click_id = '{click}'" if table == "decisions" else "position = {position}"
    forge(conn, f"DELETE FROM {table} WHERE {where.format(**named)}")
    answer = command("why", click_id)
    assert answer.code == 1
    assert said.format(**named) in answer.said and "defect" not in answer.said
