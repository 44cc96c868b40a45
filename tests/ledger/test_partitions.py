"""Day partitions: made ahead without stopping anybody, watched, frozen when their day is over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta

import pytest
from batches import batch, clicks

from clickledger import errors
from clickledger.ledger import append, database, departure, partitions, provenance

Connect = Callable[[], database.Connection]
DAY = date(2024, 6, 1)
NUMBER = (DAY - date(1970, 1, 1)).days
# What a transaction holds on tables that were there before it, by table.
SELECT_LOCKS = """
    SELECT c.relname, array_agg(DISTINCT l.mode ORDER BY l.mode) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
    WHERE l.pid = %s AND c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace GROUP BY 1"""
FROZEN_PAGES = "SELECT relpages > 0, relallvisible = relpages FROM pg_class WHERE relname = %s"


@pytest.fixture
def today(conn: database.Connection) -> date:
    return datetime.now(UTC).date()


@pytest.fixture
def appending(connect: Connect) -> Iterator[Callable[[], int]]:
    """An appender that never rests; tells how many batches it committed after it was asked."""
    conn, enough, committed = connect(), threading.Event(), threading.Semaphore(0)
    append.append(conn, batch(clicks(1)), actor="tests")

    def go_on() -> None:
        number = 1_000
        while not enough.is_set():
            append.append(conn, batch(clicks(2, start=number)), actor="tests")
            number += 2
            committed.release()

    def two_more() -> int:
        while committed.acquire(blocking=False):
            pass
        return sum(committed.acquire(timeout=60) for _ in range(2))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(go_on)
        try:
            yield two_more
        finally:
            enough.set()
            running.result()


def open_reader(connect: Connect) -> database.Connection:
    """A transaction that has read the parents, and so every partition, and stays open."""
    reader = connect()
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    for parent in partitions.PARENTS:
        reader.execute(f"SELECT count(*) FROM {parent}".encode())
    return reader


def test_day_is_made_while_a_reader_stays_open_and_an_appender_runs(
    connect: Connect, appending: Callable[[], int]
) -> None:
    reader, maker = open_reader(connect), connect()
    seen = reader.execute("SELECT count(*) FROM decisions").fetchone()
    assert partitions.ensure(maker, [NUMBER]) == 1
    assert partitions.attached(maker)[DAY] == set(partitions.PARENTS)
    assert appending() == 2
    assert reader.execute("SELECT count(*) FROM decisions").fetchone() == seen


def test_appender_goes_on_while_the_making_of_a_day_is_not_committed(
    connect: Connect, appending: Callable[[], int]
) -> None:
    maker, reader = connect(), connect()
    with maker.transaction():
        maker.execute("SELECT ensure_day(%s)", (DAY,))
        assert appending() == 2
        assert reader.execute("SELECT count(*) > 0 FROM decisions").fetchone() == (True,)


@pytest.mark.parametrize("day", ["0001-01-01", "2009-12-31", "10000-01-01", "infinity"])
def test_day_that_no_click_can_have_is_not_made(conn: database.Connection, day: str) -> None:
    with pytest.raises(errors.InvalidInput, match=f"expected one from 2010-01-01 to 9999-12-31, got {day}"):
        conn.execute("SELECT ensure_day(%s::date)", (day,))


def test_making_a_day_takes_no_lock_that_readers_or_appenders_would_wait_for(connect: Connect) -> None:
    maker, watcher = connect(), connect()
    append.append(maker, batch(clicks(1)), actor="tests")
    with maker.transaction():
        maker.execute("SELECT ensure_day(%s)", (DAY,))
        locks = dict(watcher.execute(SELECT_LOCKS, (maker.info.backend_pid,)).fetchall())
    held = {mode for name, modes in locks.items() if not name.endswith("_20240601") for mode in modes}
    assert held == {"AccessShareLock", "ShareUpdateExclusiveLock"}
    assert "ShareUpdateExclusiveLock" in locks["clicks"]
    assert "clicks_20240310" not in locks


def test_day_made_aside_costs_an_append_no_check(conn: database.Connection) -> None:
    partitions.ensure(conn, [NUMBER])
    query = "SELECT conname FROM pg_constraint WHERE conrelid = 'decisions_20240601'::regclass AND contype = 'c'"
    assert conn.execute(query).fetchall() == []


def test_makers_of_the_same_day_make_it_once(connect: Connect) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda conn: partitions.ensure(conn, [NUMBER]), [connect() for _ in range(4)])) == 1


def test_day_whose_locks_are_not_to_be_had_is_given_up_by_name(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "LOCK_ATTEMPTS", 1)
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "20ms")
    stranger, maker = connect(), connect()
    stranger.execute("BEGIN")
    stranger.execute("LOCK TABLE delayed_decisions IN SHARE UPDATE EXCLUSIVE MODE")
    with pytest.raises(errors.Unavailable, match="2024-06-01"):
        partitions.ensure(maker, [NUMBER])
    assert DAY not in partitions.attached(maker)
    stranger.execute("ROLLBACK")
    assert partitions.ensure(maker, [NUMBER]) == 1


def test_days_ahead_are_watched_without_gaps(conn: database.Connection, today: date) -> None:
    assert partitions.watch(conn).days_ahead == 0
    assert "expected days to exist 3 ahead, got 0" in partitions.watch(conn).warnings[0]
    assert partitions.ensure_ahead(conn, 3) == 4
    assert (partitions.watch(conn).days_ahead, partitions.watch(conn).warnings) == (3, [])
    beyond = today + timedelta(days=5)
    partitions.ensure(conn, [(beyond - date(1970, 1, 1)).days])
    assert partitions.watch(conn).days_ahead == 3
    assert partitions.ensure_ahead(conn, 5) == 1
    assert partitions.watch(conn).days_ahead == 5


def test_undated_clicks_are_warned_of(conn: database.Connection) -> None:
    partitions.ensure_ahead(conn)
    append.append(conn, batch(clicks(2, "2001-01-01")), actor="tests")
    [warning] = partitions.watch(conn).warnings
    assert "2 clicks are undated" in warning


def test_day_that_is_over_is_frozen_once(conn: database.Connection) -> None:
    append.append(conn, batch(clicks(20)), actor="tests")
    assert partitions.watch(conn).unfrozen == 3
    assert sorted(partitions.freeze_closed(conn)) == [
        "clicks_20240310",
        "decisions_20240310",
        "delayed_decisions_20240310",
    ]
    assert conn.execute(FROZEN_PAGES, ("clicks_20240310",)).fetchone() == (True, True)
    assert conn.execute(
        "SELECT age(relfrozenxid) < 100 FROM pg_class WHERE relname = 'clicks_20240310'"
    ).fetchone() == (True,)
    assert (partitions.freeze_closed(conn), partitions.watch(conn).unfrozen) == ([], 0)


def test_late_clicks_make_a_frozen_day_freeze_again(conn: database.Connection) -> None:
    append.append(conn, batch(clicks(5)), actor="tests")
    partitions.freeze_closed(conn)
    append.append(conn, batch(clicks(300, start=100)), actor="tests")
    assert sorted(partitions.freeze_closed(conn)) == ["clicks_20240310", "decisions_20240310"]


def test_day_of_today_is_not_frozen(conn: database.Connection) -> None:
    partitions.ensure_ahead(conn)
    assert partitions.freeze_closed(conn) == []


def test_freezing_is_bounded_and_begins_with_the_newest_day(conn: database.Connection) -> None:
    append.append(conn, batch(clicks(2) + clicks(2, "2024-03-11", start=10)), actor="tests")
    assert partitions.freeze_closed(conn, seconds_max=0) == []
    assert partitions.freeze_closed(conn)[0].endswith("20240311")


def test_partition_that_cannot_be_frozen_entirely_is_left_for_the_next_time(connect: Connect) -> None:
    conn = connect()
    partitions.ensure(conn, [(date(2024, 3, 10) - date(1970, 1, 1)).days])
    reader = open_reader(connect)  # what is written from now on is too new to it to be frozen
    append.append(conn, batch(clicks(5)), actor="tests")
    assert partitions.freeze_closed(conn) == ["delayed_decisions_20240310"]
    reader.execute("COMMIT")
    assert sorted(partitions.freeze_closed(conn)) == ["clicks_20240310", "decisions_20240310"]


def test_locked_partition_is_left_for_the_next_time(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "20ms")
    conn, stranger = connect(), connect()
    append.append(conn, batch(clicks(5)), actor="tests")
    stranger.execute("BEGIN")
    stranger.execute("LOCK TABLE clicks_20240310 IN SHARE UPDATE EXCLUSIVE MODE")
    assert "clicks_20240310" not in partitions.freeze_closed(conn)
    stranger.execute("ROLLBACK")
    assert partitions.freeze_closed(conn) == ["clicks_20240310"]


def test_connection_keeps_no_lock_timeout_of_ours(conn: database.Connection) -> None:
    append.append(conn, batch(clicks(1)), actor="tests")
    partitions.freeze_closed(conn)
    assert conn.execute("SHOW lock_timeout").fetchone() == ("0",)


def test_appends_and_look_ups_hold_as_many_locks_with_60_days_as_with_two(
    conn: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "snapshot", lambda _: nullcontext())  # so that its locks are this transaction's
    first, last = clicks(2), clicks(200, "2024-03-11", start=100)
    append.append(conn, batch(first + last), actor="tests")

    def locks() -> list[int]:
        steps: list[Callable[[], object]] = [
            lambda: append.append(conn, batch(clicks(300, start=1_000)), actor="tests"),
            lambda: conn.execute("SELECT * FROM decision_of(%s)", (first[0].uuid,)).fetchall(),
            lambda: provenance.why(conn, first[0].uuid),
            lambda: conn.execute(f"SELECT * FROM decisions WHERE {departure.condition(date(2024, 3, 10))}".encode()),
        ]
        found = []
        for step in steps * 10:  # what the server plans five times anew, it then plans once for all
            with conn.transaction(force_rollback=True):
                step()
                row = conn.execute("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()").fetchone()
                found.append(row[0] if row else 0)
        return found[-len(steps) :]

    few = locks()
    partitions.ensure(conn, range(NUMBER, NUMBER + 58))
    many = locks()
    assert many == few
    assert max(many) <= 64
