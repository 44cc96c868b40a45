"""Retention: a day leaves whole, with an entry that says what is gone, and all that is left still holds."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import date

import pytest
import replays
from batches import at, batch, click_id, clicks
from leaving import DAY, FIRST, MIXED, NEXT, SECOND, authoritative, detach, failures

from clickledger import errors
from clickledger.ledger import (
    append,
    authority,
    billing,
    comparison,
    database,
    departed,
    log,
    partitions,
    provenance,
    publication,
    runs,
)

Connect = Callable[[], database.Connection]


# -- what is left, and what is said of what is gone


def test_detached_day_leaves_a_ledger_that_verifies(lived: database.Connection) -> None:
    before = authoritative(lived)
    done = detach(lived)
    assert (done.clicks, done.delayed, done.dropped_position) == (8, 8, None)
    assert failures(lived) == {}
    gone = {row.uuid for row in FIRST + MIXED[:2]}
    assert authoritative(lived) == {row for row in before if row[0] not in gone}
    assert partitions.attached(lived)[NEXT] == set(partitions.PARENTS)
    assert lived.execute("SELECT count(*) FROM decisions_20240310").fetchone() == (8,)


def test_last_day_can_leave_too(lived: database.Connection) -> None:
    detach(lived)
    detach(lived, NEXT)
    assert failures(lived) == {}
    assert authoritative(lived) == set()


def test_entry_names_what_is_gone_line_by_line(lived: database.Connection) -> None:
    done = detach(lived)
    assert departed.missing_lines(lived, 1, 100) == {2: set(range(6)), 3: {0, 1}}
    assert departed.missing_lines(lived, 3, 4) == {3: {0, 1}}
    assert departed.detached_counts(lived) == {"clicks": 8, "decisions": 8, "delayed_decisions": 8}
    payload = log.entry(lived, done.position).payload
    assert (payload["day"], payload["clicks"], payload["delayed"], payload["retention_months"]) == (
        "2024-03-10",
        8,
        8,
        13,
    )
    assert payload["sums"] == {"EUR": {"clicks": 8, "billed_micros": 3_000, "charged_micros": 6_000}}


def test_totals_are_what_they_were_before_the_day_left(lived: database.Connection) -> None:
    totals, told = billing.totals(lived), billing.feed_total(lived)
    detach(lived)
    assert (billing.totals(lived), billing.feed_total(lived)) == (totals, told)
    detach(lived, NEXT)
    assert (billing.totals(lived), billing.feed_total(lived)) == (totals, told)


def test_totals_of_a_past_position_are_right_or_refused(lived: database.Connection) -> None:
    head = log.head(lived).position
    before = {position: billing.totals(lived, position) for position in range(1, head + 1)}
    published = authority.publications(lived)[0].position
    detach(lived)
    for position, expected in before.items():
        if position < 2 or position >= published:
            assert billing.totals(lived, position) == expected
        else:
            with pytest.raises(errors.Refused, match=f"below 2 or from {published} on.*2024-03-10"):
                billing.totals(lived, position)
            with pytest.raises(errors.Refused):
                billing.feed_total(lived, position)


def test_feed_refuses_to_leave_out_charges_that_are_gone(lived: database.Connection) -> None:
    cursor = billing.read(lived, limit=100).cursor
    append.append(lived, batch(clicks(2, "2024-03-12", start=60)), actor="tests")
    done = detach(lived)
    with pytest.raises(errors.Refused, match=f"2024-03-10, detached at position {done.position}.*after position 3"):
        billing.read(lived)
    assert [e["entry_kind"] for e in billing.read(lived, cursor).entries] == ["charge", "charge"]
    opening = billing.Cursor(3, 1 << 62, log.entry(lived, 3).chain_hash.hex())
    assert len(billing.read(lived, opening, 100).entries) == 4 + 4 + 2  # the second day, adjustments, the late ones


def test_click_of_a_detached_day_is_said_to_be_detached(lived: database.Connection) -> None:
    done = detach(lived)
    with pytest.raises(errors.NotFound, match=f"was of 2024-03-10, detached at position {done.position}"):
        provenance.why(lived, FIRST[0].uuid)
    assert lived.execute("SELECT * FROM decision_of(%s)", (FIRST[0].uuid,)).fetchall() == []
    assert provenance.why(lived, SECOND[0].uuid)["authoritative_run_id"] is None
    unknown = uuid.UUID(bytes=click_id(at("2024-03-12"), 1))
    with pytest.raises(errors.NotFound, match="no click"):
        provenance.why(lived, unknown)


def test_counting_numbers_of_detached_clicks_are_no_gap(conn: database.Connection) -> None:
    rows = [*clicks(1, "2024-03-11", seq=1), *clicks(1, start=1, seq=2), *clicks(1, "2024-03-11", start=2, seq=3)]
    append.append(conn, batch(rows), actor="tests")
    billing.close_period(conn, "2024-03", "tests")
    detach(conn)
    age = "UPDATE log SET recorded_at = recorded_at - interval '1 hour' WHERE kind = 'clicks_decided'"
    with conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute(age)
    assert set(failures(conn)) == {"chain"}  # the age is forged, the numbers are whole


def test_empty_day_leaves_as_well(conn: database.Connection) -> None:
    partitions.ensure(conn, [(DAY - date(1970, 1, 1)).days])
    billing.close_period(conn, "2024-03", "tests")
    assert detach(conn).clicks == 0
    assert failures(conn) == {}


# -- tampering, before and after


@pytest.mark.parametrize(
    ("forgery", "check"),
    [
        ("UPDATE departed_rows SET lines = '{[0,5)}' WHERE run_id = 0 AND log_position = 2", "digests"),
        ("DELETE FROM departed_rows WHERE run_id = 0 AND log_position = 3", "digests"),
        ("UPDATE departed_rows SET leaves = leaves || leaves WHERE run_id > 0 AND log_position = 2", "detached days"),
        ("UPDATE departed_rows SET leaves = sha256('x') || substr(leaves, 33) WHERE run_id > 0", "replay runs"),
        ("UPDATE departed_totals SET charged_micros = charged_micros + 1, billed_micros = billed_micros + 1",
         "detached days"),
        ("UPDATE departed_totals SET billed_micros = 0", "money"),
        ("UPDATE departures SET seqs = '{[1,1000)}'", "detached days"),
        ("UPDATE detached_days SET settled_position = 1", "folds"),
        ("UPDATE detached_days SET day = '2024-03-09'", "folds"),
        ("DELETE FROM detached_days", "folds"),
        ("DELETE FROM decisions WHERE click_id = (SELECT min(click_id::text)::uuid FROM decisions)", "digests"),
        ("ALTER TABLE clicks DETACH PARTITION clicks_20240311", "digests"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_detached_day_cannot_be_forged(lived: database.Connection, forgery: str, check: str) -> None:
    detach(lived)
    with lived.transaction():
        lived.execute("SET LOCAL session_replication_role = replica")
        lived.execute(forgery.encode())
    assert check in failures(lived)


@pytest.mark.parametrize("table", ["decisions", "clicks"])
def test_day_that_was_tampered_with_does_not_leave(lived: database.Connection, table: str) -> None:
    with lived.transaction():
        lived.execute("SET LOCAL session_replication_role = replica")
        lived.execute(f"UPDATE {table} SET cost_micros = 7 WHERE click_id = %s".encode(), (FIRST[1].uuid,))
    with pytest.raises(errors.VerificationFailed, match="entry 2: the row at line 1"):
        detach(lived)
    assert partitions.attached(lived)[DAY] == set(partitions.PARENTS)
    assert append.append(lived, batch(clicks(1, start=90)), actor="tests").new == 1


def test_detached_rows_cannot_be_changed_or_added_to(lived: database.Connection) -> None:
    detach(lived)
    statements = {
        "UPDATE decisions_20240310 SET verdict = 'valid'": errors.Refused,
        "DELETE FROM clicks_20240310": errors.Refused,
        "TRUNCATE delayed_decisions_20240310": errors.Refused,
        "INSERT INTO clicks_20240310 SELECT * FROM clicks_20240310": errors.InvalidInput,
    }
    for statement, refused in statements.items():
        with pytest.raises(refused):
            lived.execute(statement.encode())


@pytest.mark.parametrize("table", ["departures", "departed_rows", "departed_totals"])
def test_what_is_said_of_a_detached_day_is_history(lived: database.Connection, table: str) -> None:
    detach(lived)
    for statement in ("UPDATE {} SET departure = departure", "DELETE FROM {}", "TRUNCATE {}"):
        with pytest.raises(errors.Refused, match="history is never changed"):
            lived.execute(statement.format(table).encode())


# -- late clicks and runs afterwards


def test_late_click_of_a_detached_day_is_refused_alone_and_by_name(connect: Connect) -> None:
    conn, knows_the_day = connect(), connect()
    append.append(conn, batch(FIRST), actor="tests")
    append.append(knows_the_day, batch(clicks(1, start=80)), actor="tests")
    billing.close_period(conn, "2024-03", "tests")
    done = detach(conn)
    for _ in range(2):  # from what the process remembers, then from what it has learnt
        with pytest.raises(errors.InvalidInput, match=f"2024-03-10.*detached at position {done.position}"):
            append.append(knows_the_day, batch(clicks(1, start=90)), actor="tests")
    assert append.append(knows_the_day, batch(clicks(1, "2024-03-11", start=91)), actor="tests").new == 1
    assert log.head(conn).position == done.position + 1


def test_run_over_a_detached_day_decides_what_is_left(lived: database.Connection) -> None:
    detach(lived)
    run_id = replays.published(lived, 2, 5, {row.click_id: "invalid" for row in SECOND})
    assert runs.get(lived, run_id).row_count == 6
    assert failures(lived) == {}
    assert {row[1:] for row in authoritative(lived)} == {("invalid", run_id), ("valid", run_id)}
    publication.revert(lived, run_id, "tests", "")
    assert failures(lived) == {}


def test_publication_that_decided_gone_clicks_is_frozen(lived: database.Connection) -> None:
    [run] = authority.publications(lived)
    done = detach(lived)
    message = f"run {run.run_id} decided clicks of 2024-03-10, which was detached at position {done.position}"
    with pytest.raises(errors.Refused, match=f"{message}: it stays in force"):
        publication.revert(lived, run.run_id, "tests", "")
    with pytest.raises(errors.Refused, match=f"{message}: plan a new one"):
        comparison.compare(lived, run.run_id, "tests")
