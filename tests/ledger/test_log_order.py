"""Position order is commit order: whoever has seen a position will never see a new one below it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from batches import batch, clicks

from clickledger import errors
from clickledger.ledger import append, database, log

Connect = Callable[[], database.Connection]
WRITERS, EACH = 4, 30


def write(conn: database.Connection, number: int) -> list[int]:
    """Entries of every sort, some holding their transaction open a while, some rolled back; positions committed."""
    chance, positions = random.Random(number), []
    for n in range(EACH):
        if n % 3:
            answer = append.append(conn, batch(clicks(2, start=number * 1_000 + 2 * n)), actor=f"writer {number}")
            assert answer.position is not None
            positions.append(answer.position)
            continue
        try:
            with log.writing(conn) as writer:
                entry = writer.record("noted", {"n": n}, f"writer {number}")
                writer.execute(
                    "SELECT pg_sleep(%s)", (chance.random() / 200,)
                )  # hold the commit back, while others wait
                if chance.random() < 0.3:
                    raise psycopg.Rollback
                positions.append(entry.position)
        except psycopg.Rollback:
            pass
    return positions


def test_polling_reader_sees_every_position_once_and_in_order(connect: Connect) -> None:
    reader, done = connect(), threading.Event()

    def poll() -> list[int]:
        seen = [0]
        while True:
            last_round = done.is_set()  # read before the query: what it then finds is all there is
            seen += [entry.position for entry in log.read(reader, after=seen[-1])]
            if last_round:
                return seen[1:]

    with ThreadPoolExecutor(WRITERS + 1) as pool:
        polled = pool.submit(poll)
        try:
            written = [pool.submit(write, connect(), number) for number in range(WRITERS)]
            positions = sorted([1] + [p for each in written for p in each.result()])
        finally:
            done.set()
    assert polled.result() == positions == list(range(1, len(positions) + 1))


def test_rows_of_an_entry_are_visible_with_it(connect: Connect) -> None:
    reader, done = connect(), threading.Event()

    def check() -> int:
        entries, query = 0, "SELECT count(*) FROM decisions WHERE log_position = %s"
        after = 1
        while not (done.is_set() and after == log.head(reader).position):
            for entry in log.read(reader, after=after):
                assert reader.execute(query, (entry.position,)).fetchone() == (entry.row_count,)
                after = entry.position
                entries += 1
        return entries

    with ThreadPoolExecutor(3) as pool:
        checked = pool.submit(check)
        try:
            for each in [pool.submit(write, connect(), number) for number in range(2)]:
                each.result()
        finally:
            done.set()
    assert checked.result() == log.head(reader).position - 1


def test_recorded_time_never_goes_back(connect: Connect) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, [connect() for _ in range(3)], range(3)))
    times = [entry.recorded_at for entry in log.read(connect())]
    assert times == sorted(times)


def test_rolled_back_entry_leaves_no_gap(conn: database.Connection) -> None:
    with log.writing(conn) as writer:
        writer.record("noted", {}, "tests")
        raise psycopg.Rollback
    assert log.record(conn, "noted", {}, "tests").position == 2


def test_writer_that_stalls_with_the_log_lock_is_ended(connect: Connect) -> None:
    staller, other = connect(), connect()
    staller.execute("SET idle_in_transaction_session_timeout = '200ms'")
    staller.execute("BEGIN; SELECT take_log_lock()")
    assert append.append(other, batch(clicks(1)), actor="tests").position == 2
    with pytest.raises(errors.Unavailable):
        staller.execute("SELECT 1")


def test_every_connection_of_ours_is_ended_when_it_stalls(conn: database.Connection, database_url: str) -> None:
    query = "SELECT setting::int FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'"
    assert conn.execute(query).fetchone() == (30_000,)
    with database.open_pool(database_url, application_name="tests") as pool, pool.connection() as pooled:
        assert pooled.execute(query).fetchone() == (30_000,)


def test_lock_goes_with_the_transaction_that_took_it(connect: Connect) -> None:
    one, other = connect(), connect()
    with pytest.raises(ZeroDivisionError), log.writing(one) as writer:
        writer.record("noted", {}, "tests")
        raise ZeroDivisionError
    assert log.record(other, "noted", {}, "tests").position == 2


def test_entry_without_an_actor_is_refused(conn: database.Connection) -> None:
    with pytest.raises(errors.InvalidInput, match="actor"):
        log.record(conn, "noted", {}, "")
    assert log.head(conn).position == 1


def test_reading_by_kind_keeps_the_order(conn: database.Connection) -> None:
    for kind in ["noted", "seen", "noted"]:
        log.record(conn, kind, {}, "tests")
    assert [e.position for e in log.read(conn, kinds=["noted"])] == [2, 4]
    assert [e.position for e in log.read(conn, after=2, limit=1)] == [3]
    with pytest.raises(errors.NotFound, match="no entry at position 5"):
        log.entry(conn, 5)


@pytest.mark.parametrize("written", [("tests", "\ud800"), ("tests\udcff", ""), ("tests", "nul\0")])
def test_who_and_why_that_are_no_text_are_refused(conn: database.Connection, written: tuple[str, str]) -> None:
    with pytest.raises(errors.InvalidInput):
        log.record(conn, "noted", {}, *written)
    assert log.record(conn, "noted", {}, "tests").position == 2
