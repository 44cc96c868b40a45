"""Retention: a detach that is cut off at any step is completed by the next; readers and appenders go on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import replays
from batches import batch, clicks
from leaving import DAY, FIRST, detach, failures

from clickledger import errors
from clickledger.ledger import (
    append,
    billing,
    database,
    departed,
    departure,
    log,
    partitions,
    retention,
    runs,
    sparse,
)

Connect = Callable[[], database.Connection]


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


def test_no_run_is_planned_over_a_day_that_counts_as_gone_and_is_read_still(
    lived: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocked(*_: object) -> None:
        raise errors.Unavailable("somebody else holds the table")

    monkeypatch.setattr(retention, "_detach_table", blocked)
    with pytest.raises(errors.Unavailable):
        detach(lived)
    version, calibration = replays.model(lived)
    of: dict[str, Any] = {"model_version": version, "calibration_version": calibration, "actor": "tests", "reason": ""}
    with pytest.raises(errors.Refused, match="2024-03-10 is detached in part: complete it by"):
        runs.plan(lived, 2, 5, **of)
    assert runs.plan(lived, 4, 5, **of).row_count == 4  # all of the other day
    monkeypatch.undo()
    detach(lived)
    assert runs.plan(lived, 2, 5, **of).row_count == 6


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


def test_entries_of_upkeep_and_detection_do_not_keep_a_day(
    lived: database.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, other = departure.compute, connect()
    kinds = ["signal_paged"]

    def compute_while_the_log_grows(*asked: Any) -> departure.Departure:
        computed = compute(*asked)
        log.record(other, kinds[0], {"number": 1}, "tests")
        return computed

    monkeypatch.setattr(departure, "compute", compute_while_the_log_grows)
    kinds[0] = "noted"
    with pytest.raises(errors.Unavailable, match="the ledger changed 3 times"):
        detach(lived)
    kinds[0] = "signal_paged"
    detach(lived)
    assert log.read(lived)[-1].kind == "day_detached"


def test_day_whose_entry_was_not_confirmed_stays_sealed(
    lived: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = retention._written

    def unconfirmed(*asked: Any) -> bool:
        written(*asked)
        raise errors.Unavailable("may have committed, ask again")

    monkeypatch.setattr(retention, "_written", unconfirmed)
    with pytest.raises(errors.Unavailable, match="may have committed"):
        detach(lived)
    stated = [sparse.Correction(FIRST[1].click_id, "undecided", "disputed")]
    with pytest.raises(errors.InvalidInput, match="its day is being detached"):
        sparse.plan(lived, stated, actor="tests", reason="disputed")
    detach(lived)
    assert failures(lived) == {}


def test_detach_seals_a_day_that_an_earlier_one_left_open(
    lived: database.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = retention._seal
    with monkeypatch.context() as patch:
        patch.setattr(retention, "_detach_table", lambda *_: None)
        detach(lived)
    seal(lived, DAY, sealed=False)
    real, open_ = retention._detach_table, connect()

    def correct_meanwhile(*asked: Any) -> None:
        with pytest.raises(errors.ClickledgerError):
            stated = [sparse.Correction(FIRST[1].click_id, "undecided", "disputed")]
            sparse.plan(open_, stated, actor="tests", reason="disputed")
        real(*asked)

    monkeypatch.setattr(retention, "_detach_table", correct_meanwhile)
    detach(lived)
    assert failures(lived) == {}


def test_day_that_would_leave_while_a_page_of_the_feed_is_read_waits(
    lived: database.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = billing.read(lived, limit=100).entries
    monkeypatch.setattr(partitions, "LOCK_ATTEMPTS", 2)
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "50ms")
    readable, other = departed.require_readable, connect()

    def detach_meanwhile(*asked: Any) -> None:
        readable(*asked)
        with pytest.raises(errors.Unavailable):
            detach(other)

    monkeypatch.setattr(departed, "require_readable", detach_meanwhile)
    assert billing.read(lived, limit=100).entries == whole
    monkeypatch.undo()
    detach(lived)
    assert failures(lived) == {}
