"""Pausing, resuming, cancelling, giving way and doing again: legal at any moment, and nothing is lost or done twice."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis
from decided_traffic import bad_deployment

from clickledger import errors
from clickledger.ledger import database, deployments, log, rebuild, runs
from clickledger.recovery import chunks, leases, plans, progress, redecide, replay, steps, throttle, working
from clickledger.recovery.plans import What
from clickledger.recovery.throttle import Throttle, next_pause
from clickledger.recovery.working import Worker
from clickledger.scoring import heartbeat

Connect = Callable[[], database.Connection]


def planned(conn: database.Connection) -> runs.Run:
    """A run of four chunks."""
    _, stable, bad = bad_deployment(conn)
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    return replay.start(conn, plans.for_positions(conn, *span, What(stable)), "tests", "", chunk_rows=500)


def work(conn: database.Connection, run: runs.Run) -> int:
    return working.work(conn, run.run_id, Worker("tests", 60.0), 60.0)


def stage(conn: database.Connection, run: runs.Run) -> str:
    return progress.of_run(conn, run.run_id).stage


def test_a_paused_run_finishes_the_chunk_under_way_and_gives_out_no_other(connect: Connect) -> None:
    worker, responder = connect(), connect()
    run = planned(worker)
    lease = chunks.claim(worker, run.run_id, "tests", 60.0)
    assert lease is not None
    runs.pause(responder, run.run_id, "tests", "the site is slow")
    assert chunks.execute(worker, run, lease, redecide.Judges(worker)) == lease.row_count
    assert work(worker, run) == 0
    assert stage(worker, run) == "paused"
    assert progress.of_run(worker, run.run_id).done == 1
    runs.resume(responder, run.run_id, "tests", "")
    assert work(worker, run) == run.row_count - lease.row_count
    assert steps.finish(worker, run.run_id, "tests") is not None
    kinds = [e.kind for e in log.read(worker, after=run.run_id, kinds=["replay_paused", "replay_resumed"])]
    assert kinds == ["replay_paused", "replay_resumed"]
    assert rebuild.differences(worker) == []


def test_a_run_that_is_paused_with_all_its_chunks_done_waits_with_staging(conn: database.Connection) -> None:
    run = planned(conn)
    work(conn, run)
    runs.pause(conn, run.run_id, "tests", "")
    with pytest.raises(errors.Refused, match="expected status planned, got paused"):
        runs.stage(conn, run.run_id, "tests")
    assert rebuild.differences(conn) == []
    runs.resume(conn, run.run_id, "tests", "")
    assert stage(conn, run) == "staging"


@pytest.mark.parametrize("control", [runs.pause, runs.resume])
def test_what_is_not_going_on_can_be_neither_paused_nor_resumed(
    conn: database.Connection, control: Callable[..., None]
) -> None:
    run = planned(conn)
    with pytest.raises(errors.NotFound):
        control(conn, 999, "tests", "")
    work(conn, run)
    runs.stage(conn, run.run_id, "tests")
    with pytest.raises(errors.Refused, match="is staged: nothing of it is left to do"):
        control(conn, run.run_id, "tests", "")


def test_pausing_twice_and_resuming_what_goes_on_are_refused(conn: database.Connection) -> None:
    run = planned(conn)
    with pytest.raises(errors.Refused, match="is not paused"):
        runs.resume(conn, run.run_id, "tests", "")
    runs.pause(conn, run.run_id, "tests", "")
    with pytest.raises(errors.Refused, match="is paused already"):
        runs.pause(conn, run.run_id, "tests", "")


def test_a_paused_run_can_be_cancelled_and_what_was_decided_stays(conn: database.Connection) -> None:
    run = planned(conn)
    lease = chunks.claim(conn, run.run_id, "tests", 60.0)
    assert lease is not None
    chunks.execute(conn, run, lease, redecide.Judges(conn))
    runs.pause(conn, run.run_id, "tests", "")
    runs.abandon(conn, run.run_id, "tests", "")
    assert stage(conn, run) == "abandoned"
    rows = conn.execute("SELECT count(*) FROM delayed_decisions WHERE run_id = %s", (run.run_id,)).fetchone()
    assert rows == (lease.row_count,)
    assert rebuild.differences(conn) == []


def test_failed_chunks_are_done_again_and_with_missing_also_those_somebody_holds(connect: Connect) -> None:
    conn, slow = connect(), connect()
    run = planned(conn)
    lease = chunks.claim(slow, run.run_id, "slow", 60.0)
    assert lease is not None
    conn.execute("UPDATE replay_chunks SET status = 'quarantined', attempts = 5 WHERE chunk_no = 2")
    assert chunks.release(conn, run.run_id) == 1
    assert work(conn, run) == run.row_count - lease.row_count
    assert chunks.release(conn, run.run_id, leased=True) == 1
    assert work(conn, run) == lease.row_count
    with pytest.raises(chunks.LostLease):
        chunks.execute(slow, run, lease, redecide.Judges(slow))
    runs.stage(conn, run.run_id, "tests")
    with pytest.raises(errors.Refused, match="nothing of it is left to do"):
        chunks.release(conn, run.run_id)


def test_a_lease_is_renewed_while_its_chunk_takes_longer_and_no_more_once_the_chunk_is_another_s(
    connect: Connect, database_url: str
) -> None:
    conn = connect()
    run = planned(conn)
    lease = chunks.claim(conn, run.run_id, "tests", 1.5)
    assert lease is not None
    with leases.kept(database_url, lease, 1.5):
        time.sleep(2.5)
        assert chunks.sweep(conn) == []
        chunks.release(conn, run.run_id, leased=True)
        again = chunks.claim(conn, run.run_id, "other", 60.0)
        assert again is not None and again.chunk_no == lease.chunk_no
        time.sleep(1.0)
    left = "SELECT lease_until - now() > interval '30 s' FROM replay_chunks WHERE chunk_no = %s"
    assert conn.execute(left, (lease.chunk_no,)).fetchone() == (True,)


def test_a_lease_that_nobody_renews_runs_out(conn: database.Connection) -> None:
    run = planned(conn)
    lease = chunks.claim(conn, run.run_id, "tests", 0.05)
    assert lease is not None
    with leases.kept(None, lease, 0.05):
        time.sleep(0.2)
    assert [returned.status for returned in chunks.sweep(conn)] == ["todo"]


def test_pauses_grow_while_live_decisions_are_slow_and_shrink_once_they_are_not() -> None:
    pause, course = 0.0, []
    for p99 in [60.0] * 7 + [40.0] * 6 + [None]:
        pause = next_pause(pause, p99, 50.0)
        course.append(round(pause, 3))
    assert course == [0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 1.5, 0.75, 0.375, 0.188, 0.0, 0.0, 0.0]


def beat(client: redis.Redis, name: str, p99: float | None) -> None:
    state = heartbeat.Heartbeat(
        name=name, pid=1, at_ms=0, deployment_epoch=1, switched_at_ms=0, counter_epoch=1, clicks=9,
        latency_ms_p99=5_000.0, latency_ms_p99_recent=p99,
    )  # fmt: skip
    heartbeat.beat(client, state)


def test_replay_gives_way_to_the_slowest_live_worker_by_what_it_says_of_its_last_seconds(
    redis_client: redis.Redis, redis_url: str
) -> None:
    assert throttle.live_p99_ms(redis_url) is None
    beat(redis_client, "w1", None)  # it was slow an hour ago, and nothing came since
    assert throttle.live_p99_ms(redis_url) is None
    beat(redis_client, "w2", 70.0)
    beat(redis_client, "w3", 20.0)
    assert throttle.live_p99_ms(redis_url) == 70.0
    for limit, gives_way in ((50.0, True), (0.0, False), (100.0, False)):
        way = Throttle(redis_url, limit)
        way.give_way(time.monotonic() + 60)
        assert (way.paused_seconds > 0) is gives_way


def test_nothing_gives_way_to_a_valkey_that_does_not_answer() -> None:
    assert throttle.live_p99_ms("redis://127.0.0.1:1/0") is None


def test_a_throttled_worker_still_ends_in_time_and_takes_no_chunk_it_has_no_time_for(
    conn: database.Connection, redis_client: redis.Redis, redis_url: str
) -> None:
    run = planned(conn)
    beat(redis_client, "w1", 900.0)
    slow = Worker("tests", 60.0, throttle=Throttle(redis_url, 50.0, pause_seconds=3.0))
    assert working.work(conn, run.run_id, slow, 0.1) in {0, 500, 600}
    assert working.work(conn, run.run_id, Worker("tests", 60.0, throttle=Throttle(redis_url, 0.0)), 60.0) > 0
