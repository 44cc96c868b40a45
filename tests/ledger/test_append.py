"""A click is decided once, whoever asks however often; fenced rows are refused as a whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest
from batches import Row, at, batch, click_id, clicks
from psycopg import IsolationLevel
from replays import model, routing

from clickledger import errors
from clickledger.ledger import append, database, deployments, log

Connect = Callable[[], database.Connection]


def count(conn: database.Connection, table: str) -> int:
    row = conn.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    return int(row[0]) if row else 0


def test_empty_batch_writes_nothing(conn: database.Connection) -> None:
    assert append.append(conn, batch([]), actor="tests") == append.Appended(None, None, 0, [])
    assert log.head(conn).position == 1


def test_repeat_is_answered_with_the_first_decision(conn: database.Connection) -> None:
    rows = clicks(3, verdict="invalid", reason="velocity")
    first = append.append(conn, batch(rows), actor="tests")
    again = append.append(conn, batch([replace(row, verdict="valid", reason="") for row in rows]), actor="tests")
    assert (first.position, first.new, first.outcome) == (2, 3, ["new"] * 3)
    assert (again.position, again.new, again.outcome) == (None, 0, ["repeat"] * 3)
    assert {first[:4] for first in again.first.values()} == {(2, "invalid", "velocity", 0)}
    assert [again.first[i].seq for i in range(3)] == [row.seq for row in rows]
    assert log.head(conn).position == 2


def test_features_and_score_of_a_repeat_do_not_make_it_a_conflict(conn: database.Connection) -> None:
    row = clicks(1)[0]
    append.append(conn, batch([row]), actor="tests")
    scored_again = replace(row, features=b"\x07\x00\x00\x00", score=9.0, seq=44, model_version=3)
    assert append.append(conn, batch([scored_again]), actor="tests").outcome == ["repeat"]
    assert conn.execute("SELECT features, seq FROM clicks").fetchone() == (b"\x01\x00\x00\x00", 0)


def test_conflict_is_recorded_once_and_the_first_version_stays(conn: database.Connection) -> None:
    row = clicks(1)[0]
    append.append(conn, batch([row]), actor="tests")
    other = replace(row, content="other", cost_micros=9_999)
    for _ in range(3):
        answer = append.append(conn, batch([other]), actor="tests")
        assert (answer.position, answer.outcome) == (None, ["conflict"])
        assert answer.first[0].log_position == 2
    assert conn.execute("SELECT cost_micros, intake_digest FROM clicks").fetchall() == [(1_000, row.intake_digest)]
    assert conn.execute("SELECT intake_digest, log_position FROM conflicts").fetchall() == [(other.intake_digest, 3)]
    [entry] = log.read(conn, after=2)
    assert entry.payload["conflicts"] == [{"click_id": str(row.uuid), "intake_digest": other.intake_digest.hex()}]


def test_every_conflicting_version_is_recorded(conn: database.Connection) -> None:
    row = clicks(1)[0]
    append.append(conn, batch([row]), actor="tests")
    versions = [replace(row, content=f"version {n}") for n in range(4)]
    append.append(conn, batch(versions[:2]), actor="tests")
    append.append(conn, batch(versions), actor="tests")
    assert count(conn, "conflicts") == 4
    assert [entry.kind for entry in log.read(conn, after=2)] == ["conflicts_recorded"] * 2


def test_first_row_of_an_id_within_a_batch_is_the_one_kept(conn: database.Connection) -> None:
    one, two = clicks(2)
    rows = [two, one, replace(one, verdict="invalid"), replace(two, content="other"), one]
    answer = append.append(conn, batch(rows), actor="tests")
    assert answer.outcome == ["new", "new", "repeat", "conflict", "repeat"]
    assert {i: first.verdict for i, first in answer.first.items()} == {2: "valid", 3: "valid", 4: "valid"}
    assert (answer.new, count(conn, "clicks"), count(conn, "conflicts")) == (2, 2, 1)


def test_entry_of_a_mixed_batch_holds_exactly_its_new_rows(conn: database.Connection) -> None:
    rows = clicks(9)
    append.append(conn, batch(rows[1::3]), actor="tests")
    answer = append.append(conn, batch(rows[::-1]), actor="tests")
    assert answer.outcome == ["new", "repeat", "new"] * 3
    entry = log.entry(conn, 3)
    query = "SELECT click_id, line FROM decisions WHERE log_position = 3 ORDER BY line"
    found = conn.execute(query).fetchall()
    assert [line for _, line in found] == list(range(6))
    assert [key for key, _ in found] == sorted(key for key, _ in found)
    assert entry.row_count == 6
    assert conn.execute("SELECT octet_length(leaves) FROM leaves WHERE position = 3").fetchone() == (6 * 32,)


def test_clicks_before_genesis_share_the_undated_partition(conn: database.Connection) -> None:
    old = Row(click_id(at("2005-06-01"), 1))
    assert append.append(conn, batch([old, *clicks(1)]), actor="tests").new == 2
    assert count(conn, "clicks_undated") == count(conn, "decisions_undated") == 1


def test_click_of_a_time_no_calendar_has_is_refused(conn: database.Connection) -> None:
    with pytest.raises(errors.InvalidInput, match="before the year 10000"):
        append.append(conn, batch([Row(click_id(2**48 - 1, 1))]), actor="tests")
    assert log.head(conn).position == 1


def revoked_epoch(conn: database.Connection) -> int:
    """An epoch whose model was rolled back."""
    bad, good = model(conn, b"bad"), model(conn, b"good")
    epoch = deployments.deploy(conn, routing(*bad), "tests")
    deployments.roll_back(conn, bad[0], routing(*good), "tests")
    return epoch


def test_new_rows_of_a_revoked_epoch_are_refused_without_a_trace(conn: database.Connection) -> None:
    epoch = revoked_epoch(conn)
    before = log.head(conn)
    with pytest.raises(errors.RevokedDeployment, match="was revoked at position") as refused:
        append.append(conn, batch(clicks(3), epoch), actor="tests")
    assert refused.value.current_epoch == epoch + 1
    assert (log.head(conn), count(conn, "clicks"), count(conn, "decisions")) == (before, 0, 0)


def test_epoch_that_was_never_deployed_is_refused(conn: database.Connection) -> None:
    with pytest.raises(errors.RevokedDeployment, match="was never deployed") as refused:
        append.append(conn, batch(clicks(1), 7), actor="tests")
    assert refused.value.current_epoch == 0


def test_promotion_revokes_nothing_so_batches_in_flight_pass(conn: database.Connection) -> None:
    deployments.deploy(conn, routing(*model(conn)), "tests")
    assert append.append(conn, batch(clicks(1), 0), actor="tests").new == 1


def test_pure_repeats_under_a_revoked_epoch_are_answered(conn: database.Connection) -> None:
    bad, good = model(conn, b"bad"), model(conn, b"good")
    epoch = deployments.deploy(conn, routing(*bad), "tests")
    append.append(conn, batch(clicks(3), epoch), actor="tests")
    deployments.roll_back(conn, bad[0], routing(*good), "tests")
    assert append.append(conn, batch(clicks(3), epoch), actor="tests").outcome == ["repeat"] * 3


def test_repeats_do_not_carry_new_rows_past_the_fence(conn: database.Connection) -> None:
    append.append(conn, batch(clicks(2)), actor="tests")
    epoch = revoked_epoch(conn)
    with pytest.raises(errors.RevokedDeployment):
        append.append(conn, batch(clicks(3), epoch), actor="tests")
    assert count(conn, "clicks") == 2


@pytest.mark.parametrize("counter_epoch", [1, 3])
def test_rows_counted_under_another_counter_epoch_are_refused(conn: database.Connection, counter_epoch: int) -> None:
    append.append(conn, batch(clicks(1)), actor="tests")
    assert deployments.begin_counter_epoch(conn, {}, "tests", "lost") == 2
    with pytest.raises(errors.LostCounters, match=f"expected counter epoch 2, got {counter_epoch}"):
        append.append(conn, batch(clicks(2), counter_epoch=counter_epoch), actor="tests")
    assert append.append(conn, batch(clicks(1), counter_epoch=counter_epoch), actor="tests").outcome == ["repeat"]
    assert append.append(conn, batch(clicks(2), counter_epoch=2), actor="tests").outcome == ["repeat", "new"]


def test_batch_sent_by_many_at_once_is_appended_once(connect: Connect) -> None:
    rows, ready = clicks(40), threading.Barrier(6)

    def send(conn: database.Connection) -> append.Appended:
        ready.wait()
        return append.append(conn, batch(rows), actor="tests")

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(send, [connect() for _ in range(6)]))
    assert sorted(answer.new for answer in answers) == [0] * 5 + [40]
    assert {first.log_position for answer in answers for first in answer.first.values()} == {2}


def test_overlapping_batches_in_any_order_neither_deadlock_nor_lose_a_click(connect: Connect) -> None:
    rows, ready = clicks(60), threading.Barrier(4)

    def send(number: int) -> int:
        conn = connect()
        ready.wait()
        mine = rows[:: 1 if number % 2 else -1]
        return sum(append.append(conn, batch(mine[n : n + 20]), actor="tests").new for n in range(0, 60, 10))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(send, range(4))) == 60


def test_conflict_found_by_many_at_once_is_recorded_once(connect: Connect) -> None:
    row, ready = clicks(1)[0], threading.Barrier(5)
    conn = connect()
    append.append(conn, batch([row]), actor="tests")

    def send(sender: database.Connection) -> list[str]:
        ready.wait()
        return append.append(sender, batch([replace(row, content="other")]), actor="tests").outcome

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(send, [connect() for _ in range(5)])) == [["conflict"]] * 5
    assert [entry.kind for entry in log.read(conn, after=2)] == ["conflicts_recorded"]


def test_no_row_of_a_revoked_epoch_stands_behind_its_rollback(connect: Connect) -> None:
    conn = connect()
    bad, good = model(conn, b"bad"), model(conn, b"good")
    epoch = deployments.deploy(conn, routing(*bad), "tests")
    appended_once = threading.Semaphore(0)

    def decide_until_revoked(number: int) -> int:
        mine, done = connect(), 0
        while True:
            try:
                append.append(mine, batch(clicks(3, start=number * 10_000 + done), epoch), actor="tests")
            except errors.RevokedDeployment as refused:
                assert refused.current_epoch == epoch + 1
                return done
            done += 3
            appended_once.release()

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(decide_until_revoked, n) for n in range(3)]
        for _ in range(12):
            appended_once.acquire(timeout=60)
        rolled_back = deployments.roll_back(conn, bad[0], routing(*good), "tests")
        done = sum(each.result() for each in running)
    query = "SELECT count(*), max(log_position) FROM decisions WHERE deployment_epoch = %s"
    [(stored, last)] = conn.execute(query, (epoch,)).fetchall()
    assert stored == done
    assert last < rolled_back.position


def test_lost_connection_is_reported_as_unknown_and_the_retry_settles_it(connect: Connect) -> None:
    holder, sender, watcher = connect(), connect(), connect()
    append.append(
        sender, batch(clicks(1)), actor="tests"
    )  # the day's partitions exist, the next one waits for the lock
    holder.execute("BEGIN")
    holder.execute("SELECT take_log_lock()")
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(append.append, sender, batch(clicks(3)), actor="tests")
        waiting = "SELECT wait_event = 'advisory' FROM pg_stat_activity WHERE pid = %s"
        while watcher.execute(waiting, (sender.info.backend_pid,)).fetchone() != (True,):
            pass
        watcher.execute("SELECT pg_terminate_backend(%s)", (sender.info.backend_pid,))
        with pytest.raises(errors.Unavailable, match="it may have committed, ask again"):
            sent.result()
    holder.execute("ROLLBACK")
    assert append.append(connect(), batch(clicks(3)), actor="tests").outcome == ["repeat", "new", "new"]


def test_log_is_never_written_under_another_isolation(conn: database.Connection) -> None:
    append.append(conn, batch(clicks(1)), actor="tests")
    conn.isolation_level = IsolationLevel.REPEATABLE_READ
    with pytest.raises(errors.InvariantBroken, match="read committed, got repeatable read"), conn.transaction():
        append.append(conn, batch(clicks(1, start=5)), actor="tests")
    conn.isolation_level = None
    assert log.head(conn).position == 2


def test_partition_made_by_another_appender_is_used(connect: Connect) -> None:
    ready = threading.Barrier(4)

    def send(number: int) -> int:
        conn = connect()
        ready.wait()
        return append.append(conn, batch(clicks(5, "2023-07-01", start=number * 5)), actor="tests").new

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(send, range(4))) == [5] * 4


def test_failed_append_inside_a_callers_transaction_leaves_it_usable(conn: database.Connection) -> None:
    append.append(conn, batch(clicks(1)), actor="tests")
    with conn.transaction():
        with pytest.raises(errors.RevokedDeployment), conn.transaction():
            append.append(conn, batch(clicks(2), 9), actor="tests")
        assert append.append(conn, batch(clicks(2)), actor="tests").new == 1
    assert conn.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
