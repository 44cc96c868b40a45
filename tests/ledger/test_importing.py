"""An import of a batch leaves and answers what an append of it would, whatever comes in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from batches import Row, at, batch, click_id, clicks
from replays import model, routing

from clickledger import errors
from clickledger.ledger import append, audit, database, deployments, importing, log, partitions
from clickledger.ledger.records import Batch

Connect = Callable[[], database.Connection]
COUNTS = "SELECT (SELECT count(*) FROM clicks), (SELECT count(*) FROM decisions), (SELECT count(*) FROM leaves)"
CLICKS = "SELECT * FROM clicks ORDER BY click_id"
DECISIONS = "SELECT * FROM decisions ORDER BY log_position, line"
COPYING = "SELECT query FROM pg_stat_activity WHERE pid = %s AND state = 'active' AND query LIKE 'COPY%%'"
LEAVES = "SELECT * FROM leaves ORDER BY position"


def varied(count: int, start: int = 0) -> list[Row]:
    """Rows that differ in every kind of column, undecided ones with NaN among them, over two days."""
    rows = []
    for n in range(start, start + count):
        undecided = n % 7 == 0
        rows.append(
            Row(
                click_id(at("2024-03-10" if n % 2 else "2024-03-11", n), n),
                verdict="undecided" if undecided else ("valid", "invalid")[n % 2],
                cost_micros=n * 1_000,
                external_id=f"ünïcode-{n}",
                device="" if n % 5 else "a long name " * 20,
                logged_in=(None, True, False)[n % 3],
                features=n.to_bytes(4, "little") * (n % 4),
                seq=n,
                score=float("nan") if undecided else -0.0 if n % 2 else n / 3,
                reason="why" if undecided else "",
            )
        )
    return rows


def state(conn: database.Connection) -> list[object]:
    """Every row of the tables that an append writes; scores as text, since NaN is not equal to itself."""
    decisions = [tuple(map(str, row)) for row in conn.execute(DECISIONS).fetchall()]
    return [conn.execute(CLICKS).fetchall(), decisions, conn.execute(LEAVES).fetchall()]


def do_import(conn: database.Connection, rows: list[Row], epoch: int = 0, counter_epoch: int = 1) -> append.Appended:
    return importing.import_batch(conn, batch(rows, epoch, counter_epoch), actor="tests")


def test_import_leaves_the_rows_leaves_and_answer_of_an_append(conn: database.Connection) -> None:
    rows = varied(700)
    shuffled = rows[::3] + rows[2::3] + rows[1::3]
    partitions.ensure(conn, {partitions.day_of(row.click_id) for row in rows})
    with conn.transaction(force_rollback=True):
        appended = append.append(conn, batch(shuffled), actor="tests")
        expected, entry = state(conn), log.entry(conn, 2)
    imported = do_import(conn, shuffled)
    assert state(conn) == expected
    assert replace(imported, recorded_at=None) == replace(appended, recorded_at=None)
    unlike = {"recorded_at": entry.recorded_at, "chain_hash": entry.chain_hash}  # when it was written, and so its hash
    assert replace(log.entry(conn, 2), **unlike) == entry
    assert audit.verify(conn).ok


def test_empty_import_writes_nothing(conn: database.Connection) -> None:
    assert do_import(conn, []) == append.Appended(None, None, 0, [])
    assert list(importing.import_batches(conn, [], actor="tests")) == []
    assert log.head(conn).position == 1


def test_import_of_known_clicks_is_answered_with_their_first_decisions(conn: database.Connection) -> None:
    rows = clicks(300, verdict="invalid", reason="velocity")
    do_import(conn, rows)
    again = do_import(conn, [replace(row, verdict="valid", reason="") for row in rows])
    assert (again.position, again.new, again.outcome) == (None, 0, ["repeat"] * 300)
    assert {first[:4] for first in again.first.values()} == {(2, "invalid", "velocity", 0)}
    assert [again.first[i].seq for i in range(len(rows))] == [row.seq for row in rows]
    assert log.head(conn).position == 2


def test_partial_repeats_leave_one_entry_of_the_new_rows(conn: database.Connection) -> None:
    rows = varied(400)
    append.append(conn, batch(rows[1::3]), actor="tests")
    answered = do_import(conn, rows[::-1])
    assert answered.outcome == [("repeat" if n % 3 == 1 else "new") for n in range(400)][::-1]
    assert log.entry(conn, 3).row_count == answered.new == 267
    lines = conn.execute("SELECT line, click_id FROM decisions WHERE log_position = 3 ORDER BY line").fetchall()
    assert [line for line, _ in lines] == list(range(267))
    assert [key for _, key in lines] == sorted(key for _, key in lines)
    assert conn.execute(COUNTS).fetchone() == (400, 400, 2)
    assert audit.verify(conn).ok


def test_conflicts_and_repeated_ids_within_an_import_are_answered_per_row(conn: database.Connection) -> None:
    one, two, three = clicks(3)
    append.append(conn, batch([three]), actor="tests")
    rows = [two, one, replace(one, verdict="invalid"), replace(two, content="other"), replace(three, content="x"), one]
    answered = do_import(conn, rows)
    assert answered.outcome == ["new", "new", "repeat", "conflict", "conflict", "repeat"]
    assert [entry.kind for entry in log.read(conn, after=2)] == ["clicks_decided", "conflicts_recorded"]
    assert conn.execute("SELECT count(*) FROM conflicts").fetchone() == (2,)
    assert audit.verify(conn).ok


def test_import_under_a_revoked_epoch_is_refused_unless_all_is_known(conn: database.Connection) -> None:
    bad, good = model(conn, b"bad"), model(conn, b"good")
    epoch = deployments.deploy(conn, routing(*bad), "tests")
    do_import(conn, clicks(3), epoch)
    deployments.roll_back(conn, bad[0], routing(*good), "tests")
    before = log.head(conn)
    assert do_import(conn, clicks(3), epoch).outcome == ["repeat"] * 3
    with pytest.raises(errors.RevokedDeployment, match="was revoked at position") as refused:
        do_import(conn, clicks(5), epoch)
    assert refused.value.current_epoch == epoch + 1
    assert (log.head(conn), conn.execute(COUNTS).fetchone()) == (before, (3, 3, 1))


def test_import_of_lost_counters_is_refused(conn: database.Connection) -> None:
    deployments.begin_counter_epoch(conn, {}, "tests", "lost")
    with pytest.raises(errors.LostCounters, match="expected counter epoch 2, got 1"):
        do_import(conn, clicks(2))
    assert do_import(conn, clicks(2), counter_epoch=2).new == 2


def test_import_longer_than_the_log_may_be_held_for_is_refused(conn: database.Connection) -> None:
    rows = clicks(1) * (importing.ROWS_MAX + 1)
    with pytest.raises(errors.InvalidInput, match=f"at most {importing.ROWS_MAX} clicks"):
        do_import(conn, rows)


def test_batches_before_a_malformed_one_are_imported_and_answered(conn: database.Connection) -> None:
    good, bad = batch(clicks(300)), batch(clicks(3, start=500, verdict="maybe"))
    done = []
    with pytest.raises(errors.InvalidInput, match="expected verdict in"):
        done.extend(answer.new for answer in importing.import_batches(conn, [good, bad], actor="tests"))
    assert (log.head(conn).position, conn.execute(COUNTS).fetchone()) == (2, (300, 300, 1))


def test_no_lock_is_held_while_batches_are_asked_for(conn: database.Connection, connect: Connect) -> None:
    other = connect()

    def history() -> Iterator[Batch]:
        for number in range(3):
            assert append.append(other, batch(clicks(1, start=9_000 + number)), actor="live").new == 1
            yield batch(clicks(300, start=number * 1_000))

    assert [answer.new for answer in importing.import_batches(conn, history(), actor="tests")] == [300] * 3


def test_import_killed_before_its_commit_leaves_nothing_and_is_repeated_whole(connect: Connect) -> None:
    conn, watcher = connect(), connect()
    do_import(conn, clicks(300))
    killed = False

    def kill() -> bool:
        nonlocal killed
        copying = watcher.execute(COPYING, (conn.info.backend_pid,)).fetchone()
        if copying and not killed:
            killed = bool(watcher.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,)).fetchone())
        return killed

    with conn.meanwhile(kill), pytest.raises(errors.Unavailable, match="the database went away"):
        do_import(conn, clicks(900))  # in the middle of a COPY
    assert killed
    assert watcher.execute(COUNTS).fetchone() == (300, 300, 1)
    again = do_import(connect(), clicks(900))
    assert (again.new, again.outcome) == (600, ["repeat"] * 300 + ["new"] * 600)
    assert audit.verify(watcher).ok


def test_imports_and_appends_of_the_same_clicks_at_once_write_each_once(connect: Connect) -> None:
    rows, ready = clicks(1_200), threading.Barrier(4)

    def send(number: int) -> int:
        conn = connect()
        ready.wait()
        if number % 2:
            pieces = [batch(rows[n : n + 400]) for n in range(0, 1_200, 200)]
            return sum(answer.new for answer in importing.import_batches(conn, pieces, actor="tests"))
        return sum(append.append(conn, batch(rows[n : n + 50]), actor="tests").new for n in range(0, 1_200, 50))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(send, range(4))) == 1_200
    conn = connect()
    assert conn.execute("SELECT count(*), count(DISTINCT click_id) FROM decisions").fetchone() == (1_200, 1_200)
    assert audit.verify(conn).ok
