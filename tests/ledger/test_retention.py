"""Retention: a day leaves whole, with an entry that says what is gone, and nothing that is still at work leaves."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any

import pytest
import replays
from batches import at, batch, click_id, clicks

from clickledger import errors
from clickledger.ledger import (
    append,
    audit,
    authority,
    billing,
    comparison,
    database,
    departed,
    log,
    partitions,
    provenance,
    publication,
    retention,
    runs,
)

Connect = Callable[[], database.Connection]
DAY, NEXT = date(2024, 3, 10), date(2024, 3, 11)
FIRST, SECOND = clicks(6), clicks(4, "2024-03-11", start=10)
MIXED = clicks(2, start=30, verdict="undecided") + clicks(2, "2024-03-11", start=40, campaign_id="camp-2")


@pytest.fixture
def lived(conn: database.Connection) -> database.Connection:
    """Two days over three entries, the middle one with lines of both, and a published run over the first two."""
    for rows in (FIRST, MIXED, SECOND):
        append.append(conn, batch(rows), actor="tests")
    replays.published(conn, 2, 4, {row.click_id: "invalid" for row in FIRST[:3] + MIXED[2:3]})
    billing.close_period(conn, "2024-03", "tests")
    return conn


def detach(conn: database.Connection, day: date = DAY) -> retention.Detached:
    return retention.detach(conn, day, "tests", "older than 13 months")


def refusal(conn: database.Connection, day: date = DAY) -> str:
    with pytest.raises(errors.Refused) as refused:
        detach(conn, day)
    return str(refused.value)


def failures(conn: database.Connection) -> dict[str, list[str]]:
    return {name: lines for name, lines in audit.verify(conn).failures.items() if lines}


def authoritative(conn: database.Connection) -> set[tuple[Any, ...]]:
    return set(conn.execute("SELECT click_id, verdict::text, run_id FROM authoritative_decisions"))


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
        with pytest.raises(refused), database.translated():
            lived.execute(statement.encode())


@pytest.mark.parametrize("table", ["departures", "departed_rows", "departed_totals"])
def test_what_is_said_of_a_detached_day_is_history(lived: database.Connection, table: str) -> None:
    detach(lived)
    for statement in ("UPDATE {} SET departure = departure", "DELETE FROM {}", "TRUNCATE {}"):
        with pytest.raises(errors.Refused, match="history is never changed"), database.translated():
            lived.execute(statement.format(table).encode())


# -- what keeps a day


def test_held_day_stays_until_the_hold_is_released(lived: database.Connection) -> None:
    held = retention.hold(lived, date(2024, 3, 1), DAY, "counsel", "case 17")
    other = retention.hold(lived, DAY, NEXT, "counsel", "case 18")
    assert refusal(lived) == f"{DAY} is under legal hold {held.hold_id} (2024-03-01 to 2024-03-10)"
    assert retention.holds(lived) == [held, other]
    released = retention.release(lived, held.hold_id, "counsel", "settled")
    assert f"legal hold {other.hold_id}" in refusal(lived)
    retention.release(lived, other.hold_id, "counsel", "settled")
    assert (retention.holds(lived), retention.holds(lived, released=True)[0]) == ([], released)
    detach(lived)
    assert failures(lived) == {}
    assert [e.kind for e in log.read(lived, kinds=["legal_hold_set", "legal_hold_released"])] == (
        ["legal_hold_set"] * 2 + ["legal_hold_released"] * 2
    )


def test_hold_names_its_days_and_its_reason(conn: database.Connection) -> None:
    with pytest.raises(errors.InvalidInput, match="2024-03-11 and 2024-03-10"):
        retention.hold(conn, NEXT, DAY, "tests", "x")
    with pytest.raises(errors.InvalidInput, match="reason"):
        retention.hold(conn, DAY, NEXT, "tests", " ")
    with pytest.raises(errors.NotFound, match="no legal hold 7"):
        retention.release(conn, 7, "tests", "x")
    held = retention.hold(conn, DAY, NEXT, "tests", "x")
    retention.release(conn, held.hold_id, "tests", "x")
    with pytest.raises(errors.Conflict, match="released at position 3"):
        retention.release(conn, held.hold_id, "tests", "x")


def test_day_younger_than_the_retention_stays(conn: database.Connection) -> None:
    young = (partitions.today_of(conn) - timedelta(days=200)).isoformat()
    append.append(conn, batch(clicks(1, young)), actor="tests")
    billing.close_period(conn, young[:7], "tests")
    assert "younger than the retention of 13 months" in refusal(conn, date.fromisoformat(young))
    assert retention.detach(conn, date.fromisoformat(young), "tests", "shorter by contract", months=6).clicks == 1


def test_day_of_an_open_billing_period_stays(conn: database.Connection) -> None:
    append.append(conn, batch(FIRST), actor="tests")
    assert "billing period 2024-03, which is not closed" in refusal(conn)


def test_day_that_a_run_still_works_on_stays(lived: database.Connection) -> None:
    version, calibration = replays.model(lived)
    options: dict[str, Any] = {"model_version": version, "calibration_version": calibration}
    planned = runs.plan(lived, 3, 4, actor="tests", reason="", **options)
    assert f"run {planned.run_id}, which is planned and not in force" in refusal(lived)
    replays.work(lived, planned.run_id, {})
    runs.stage(lived, planned.run_id, "tests")
    assert f"run {planned.run_id}, which is staged and not in force" in refusal(lived)
    assert f"run {planned.run_id}" in refusal(lived, NEXT)
    runs.abandon(lived, planned.run_id, "tests", "not wanted")
    detach(lived)
    assert failures(lived) == {}


def test_reverted_run_keeps_its_days_until_it_is_given_up(lived: database.Connection) -> None:
    [run] = authority.publications(lived)
    publication.revert(lived, run.run_id, "tests", "")
    assert f"run {run.run_id}, which is staged" in refusal(lived)
    runs.abandon(lived, run.run_id, "tests", "")
    detach(lived)
    assert failures(lived) == {}


def test_run_over_other_days_keeps_nobody(lived: database.Connection) -> None:
    replays.staged(lived, 4, 5, {})  # only clicks of the second day
    detach(lived)
    assert "staged" in refusal(lived, NEXT)


def test_refused_day_takes_clicks_again(lived: database.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = retention._seal

    def hold_meanwhile(conn: database.Connection, day: date, *, sealed: bool) -> None:
        seal(conn, day, sealed=sealed)
        if sealed:
            retention.hold(conn, day, day, "counsel", "just in time")

    monkeypatch.setattr(retention, "_seal", hold_meanwhile)
    assert "under legal hold" in refusal(lived)
    assert append.append(lived, batch(clicks(1, start=90)), actor="tests").new == 1


def test_plan_shows_old_days_and_what_keeps_them(lived: database.Connection) -> None:
    partitions.ensure_ahead(lived)
    retention.hold(lived, NEXT, NEXT, "counsel", "case")
    first, second = retention.plan(lived)
    assert (first.day, first.refused, first.size_bytes > 0) == (DAY, None, True)
    assert second.day == NEXT
    assert "legal hold" in str(second.refused)
    detach(lived)
    assert [candidate.day for candidate in retention.plan(lived)] == [NEXT]
    assert retention.plan(lived, months=240) == []
    with pytest.raises(errors.InvalidInput, match="months"):
        retention.plan(lived, months=0)


def test_day_that_never_was_is_not_found(lived: database.Connection) -> None:
    with pytest.raises(errors.NotFound, match="2024-03-20"):
        detach(lived, date(2024, 3, 20))


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


# -- cut off between steps, and readers in the way


def waiting(watcher: database.Connection, conn: database.Connection, done: Future[Any]) -> None:
    """Until the connection waits for somebody else's transaction."""
    query = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
    while watcher.execute(query, (conn.info.backend_pid,)).fetchone() != (True,):
        assert not done.done(), done.result()


def pending(conn: database.Connection) -> list[str]:
    query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhdetachpending"
    return [name for (name,) in conn.execute(query)]


@pytest.mark.parametrize("parent", partitions.PARENTS)
def test_detach_killed_while_it_waits_for_a_reader_is_completed_by_the_next(
    lived: database.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch, parent: str
) -> None:
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "60s")
    reader, detacher = connect(), connect()
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    seen = reader.execute(f"SELECT count(*) FROM {parent}".encode()).fetchone()
    with ThreadPoolExecutor(1) as pool:
        detaching = pool.submit(detach, detacher)
        waiting(lived, detacher, detaching)
        lived.execute("SELECT pg_terminate_backend(%s)", (detacher.info.backend_pid,))
        with pytest.raises(errors.Unavailable):
            detaching.result()
    assert pending(lived) == [f"{parent}_20240310"]
    assert reader.execute(f"SELECT count(*) FROM {parent}".encode()).fetchone() == seen
    assert append.append(lived, batch(clicks(1, "2024-03-11", start=100)), actor="tests").new == 1
    report = failures(lived)
    assert set(report) <= {"one authoritative decision per click", "detached days"}
    if parent != partitions.PARENTS[-1]:
        assert any("complete it by" in line for line in report["detached days"])
    reader.execute("COMMIT")
    detach(lived)
    assert pending(lived) == []
    assert failures(lived) == {}
    assert len(log.read(lived, kinds=["day_detached"])) == 1


@pytest.mark.parametrize("step", ["_seal", "_written", "_detach_table"])
@pytest.mark.parametrize("after", [False, True])
def test_detach_cut_off_at_any_step_is_completed_by_the_next(
    lived: database.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    real = getattr(retention, step)

    def cut_off(conn: database.Connection, *rest: Any, **named: Any) -> Any:
        answer = real(conn, *rest, **named) if after else None
        lived.execute("SELECT pg_terminate_backend(%s, 60000)", (conn.info.backend_pid,))
        conn.execute("SELECT 1")
        return answer

    monkeypatch.setattr(retention, step, cut_off)
    with pytest.raises(errors.Unavailable):
        detach(connect())
    monkeypatch.undo()
    assert set(failures(lived)) <= {"detached days", "one authoritative decision per click"}
    assert detach(lived).clicks == 8
    assert failures(lived) == {}
    assert len(log.read(lived, kinds=["day_detached"])) == 1


def test_open_reader_delays_a_detach_but_neither_is_stopped(
    lived: database.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "LOCK_ATTEMPTS", 2)
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "50ms")
    reader = connect()
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    seen = reader.execute("SELECT count(*) FROM decisions").fetchone()
    with pytest.raises(errors.Unavailable, match="decisions_20240310"):
        detach(lived)
    assert reader.execute("SELECT count(*) FROM decisions").fetchone() == seen
    assert connect().execute("SELECT count(*) FROM decisions").fetchone() == (6,)
    reader.execute("COMMIT")
    detach(lived)
    assert failures(lived) == {}


def test_appends_of_other_days_go_on_while_a_day_leaves(lived: database.Connection, connect: Connect) -> None:
    appender, enough = connect(), threading.Event()

    def go_on() -> int:
        number = 1_000
        while not enough.is_set():
            append.append(appender, batch(clicks(2, "2024-03-11", start=number)), actor="tests")
            number += 2
        return number - 1_000

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(go_on)
        try:
            detach(lived)
        finally:
            enough.set()
        appended = running.result()
    assert appended > 0
    assert lived.execute("SELECT count(*) FROM decisions").fetchone() == (6 + appended,)
    assert failures(lived) == {}


def test_audit_and_detach_wait_for_each_other(
    lived: database.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "20ms")
    with departed.standing_still(connect()), pytest.raises(errors.Unavailable, match="an audit reads"):
        detach(lived)
    detach(lived)


def test_day_detached_by_two_leaves_once(connect: Connect, lived: database.Connection) -> None:
    def attempt(conn: database.Connection) -> int | None:
        try:
            return detach(conn).position
        except errors.Unavailable:  # the other is at it
            return None

    with ThreadPoolExecutor(2) as pool:
        positions = set(pool.map(attempt, [connect(), connect()])) - {None}
    assert len(positions) == 1
    assert len(log.read(lived, kinds=["day_detached"])) == 1


# -- dropping


def test_detached_day_is_dropped_with_an_entry(lived: database.Connection) -> None:
    done = detach(lived)
    dropped = retention.drop(lived, DAY, "tests", "exported to the archive")
    entry = log.entry(lived, log.head(lived).position)
    assert (entry.kind, dropped.dropped_position) == ("day_dropped", entry.position)
    assert entry.payload["detached_position"] == done.position
    assert lived.execute("SELECT to_regclass('clicks_20240310')").fetchone() == (None,)
    assert failures(lived) == {}
    assert "dropped at position" in str(departed.where_is(lived, FIRST[0].uuid))
    with pytest.raises(errors.Conflict, match="was dropped"):
        retention.drop(lived, DAY, "tests", "again")
    with pytest.raises(errors.InvalidInput, match="detached at position"):
        partitions.ensure(lived, [(DAY - date(1970, 1, 1)).days])


def test_only_a_detached_day_that_nobody_holds_is_dropped(lived: database.Connection) -> None:
    with pytest.raises(errors.Refused, match="was not detached"):
        retention.drop(lived, DAY, "tests", "x")
    detach(lived)
    held = retention.hold(lived, DAY, DAY, "counsel", "late, but in time")
    with pytest.raises(errors.Refused, match=f"legal hold {held.hold_id}"):
        retention.drop(lived, DAY, "tests", "x")
    with pytest.raises(errors.InvalidInput, match="reason"):
        retention.drop(lived, DAY, "tests", "")


def test_drop_that_cannot_be_recorded_drops_nothing(lived: database.Connection) -> None:
    detach(lived)
    with pytest.raises(errors.InvalidInput):
        retention.drop(lived, DAY, "", "no actor")
    assert lived.execute("SELECT count(*) FROM clicks_20240310").fetchone() == (8,)


def test_half_detached_day_is_not_dropped(
    lived: database.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: Any) -> None: ...

    monkeypatch.setattr(retention, "_detach_table", nothing)
    detach(lived)
    with pytest.raises(errors.Refused, match="complete it by clickledger retention detach 2024-03-10"):
        retention.drop(lived, DAY, "tests", "x")
