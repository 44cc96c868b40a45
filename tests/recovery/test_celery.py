"""Recovery by real Celery processes: what a killed worker leaves, what a racing world does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery
from celery_processes import CeleryProcesses, eventually
from decided_traffic import Traffic, bad_deployment, versions_of

from clickledger import settings
from clickledger.ledger import audit, comparison, database, deployments, publication, runs
from clickledger.recovery import celery_app, incidents, plans, progress, publishing, replay, working
from clickledger.recovery.incidents import Status
from clickledger.recovery.plans import What
from clickledger.recovery.working import Worker

Connect = Callable[[], database.Connection]

WAITING_FOR_ROWS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'clickledger-recovery' AND wait_event_type = 'Lock'
      AND query LIKE 'COPY delayed_decisions%'"""
ROWS = """
    SELECT click_id, log_position, line, advertiser_id, campaign_id, cost_micros, currency, slice, deployment_epoch,
           model_version, calibration_version, score::text, threshold::text, verdict, reason, carried
    FROM delayed_decisions WHERE run_id = %s ORDER BY log_position, line"""


@pytest.fixture
def celery(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[CeleryProcesses]:
    """Celery processes on the test's own servers, with short leases."""
    processes = CeleryProcesses(
        tmp_path, database_url, redis_url, lease_seconds=2, detect_interval_seconds=1, replay_workers=2
    )
    yield processes
    processes.kill_all()


def stage(conn: database.Connection, run_id: int) -> str:
    return progress.of_run(conn, run_id).stage


def test_a_worker_killed_in_mid_chunk_is_replaced_and_the_rows_are_those_of_an_undisturbed_run(
    connect: Connect, celery: CeleryProcesses
) -> None:
    conn, blocker = connect(), connect()
    _, stable, bad = bad_deployment(conn, batches=20)
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    plan = plans.for_positions(conn, *span, What(stable))
    undisturbed = replay.start(conn, plan, "tests", "", chunk_rows=600)
    working.work(conn, undisturbed.run_id, Worker("tests", 60.0), 60.0)

    run = replay.start(conn, plan, "tests", "", chunk_rows=600)
    blocker.execute("SET idle_in_transaction_session_timeout = 0")  # workers may take longer to start
    with blocker.transaction():
        # Readers and the claiming of chunks pass, rows do not: the worker stops between claim and commit.
        blocker.execute("LOCK TABLE delayed_decisions IN SHARE MODE")
        victim = celery.worker("victim")
        celery.beat()
        eventually(lambda: conn.execute(WAITING_FOR_ROWS).fetchone() == (1,), "a worker stopped in mid-chunk")
        celery.kill(victim)
    assert progress.of_run(conn, run.run_id).clicks_done == 0
    celery.worker("heir", concurrency=2)
    eventually(lambda: stage(conn, run.run_id) == "compared", "the run to be compared")

    rows = [conn.execute(ROWS, (r.run_id,)).fetchall() for r in (undisturbed, run)]
    assert len(rows[1]) == run.row_count
    assert rows[0] == rows[1]
    attempts = [row[0] for row in conn.execute("SELECT attempts FROM replay_chunks WHERE run_id = %s", (run.run_id,))]
    assert max(attempts) >= 2
    assert "fell silent" in str(conn.execute("SELECT last_error FROM replay_chunks WHERE attempts >= 2").fetchall())
    assert runs.get(conn, run.run_id).status == "staged"


def test_from_anomaly_to_comparison_without_anybody_and_publishing_among_live_appends(
    connect: Connect, celery: CeleryProcesses
) -> None:
    conn = connect()
    traffic, stable, bad = bad_deployment(conn)
    traffic.purchases(range(100))
    celery.worker(concurrency=2)
    celery.beat()
    eventually(lambda: incidents.listed(conn), "an incident")
    eventually(lambda: versions_of(deployments.current(conn).routing) == stable, "a rollback")
    compared = Status.COMPARED

    def done() -> bool:
        traffic.append(20)  # life goes on
        return incidents.listed(conn)[0].status is compared

    eventually(done, "a compared replay")
    run_id = incidents.listed(conn)[0].run_id
    assert run_id is not None
    traffic.append(20)
    # Live appends after the comparison do not make it stale: they lie outside of the range for ever.
    publishing.publish(conn, run_id, comparison.latest(conn, run_id).digest, "tests", "")
    traffic.append(20)
    left = "SELECT count(*) FROM authoritative_decisions WHERE model_version = %s"
    assert conn.execute(left, (bad[0],)).fetchone() == (0,)
    report = audit.verify(conn)
    assert report.ok, report.failures
    assert [i.status for i in incidents.listed(conn)] == [Status.PUBLISHED]
    for name in ("recovery", "beat"):
        said = celery.log(name)
        assert "Traceback" not in said
        assert "Warning" not in said, said


def test_publishing_races_live_appends_and_every_click_keeps_one_decision(connect: Connect) -> None:
    conn, reader = connect(), connect()
    _, stable, bad = bad_deployment(conn)
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    run = replay.start(conn, plans.for_positions(conn, *span, What(stable)), "tests", "")
    working.work(conn, run.run_id, Worker("tests", 60.0), 60.0)
    runs.stage(conn, run.run_id, "tests")
    ended = threading.Event()
    appended: list[int] = []

    def append_on() -> None:
        live = Traffic(connect(), seed=1)
        live.count = 1_000_000
        while not ended.is_set():
            appended.append(live.append(7))

    thread = threading.Thread(target=append_on)
    thread.start()
    try:
        for _ in range(10):
            digest = comparison.compare(conn, run.run_id, "tests").digest
            publication.publish(conn, run.run_id, digest, "tests", "")
            counts = (
                "SELECT (SELECT count(*) FROM clicks), count(*), count(DISTINCT click_id) FROM authoritative_decisions"
            )
            with database.snapshot(reader):
                clicks, decided, distinct = reader.execute(counts).fetchone() or (0, 1, 2)
            assert clicks == decided == distinct
            publication.revert(conn, run.run_id, "tests", "")
    finally:
        ended.set()
        thread.join()
    assert appended
    assert audit.verify(conn).ok


def test_a_sweep_does_not_wait_for_all_chunks_that_were_sent_before(
    connect: Connect, celery: CeleryProcesses, redis_url: str
) -> None:
    conn = connect()
    _, stable, bad = bad_deployment(conn, batches=2)
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    paused = replay.start(conn, plans.for_positions(conn, *span, What(stable)), "tests", "")
    runs.pause(conn, paused.run_id, "tests", "its messages are many, and none of them takes long")
    incident = incidents.raise_by_hand(conn, bad[0], "tests", "a page")
    with redis.Redis.from_url(redis_url) as client:
        with Celery(broker=settings.broker_url(redis_url), set_as_current=False) as app:
            for _ in range(2_000):
                app.send_task("clickledger.replay_chunks", (paused.run_id,), queue=celery_app.REPLAY_QUEUE)
            app.send_task("clickledger.sweep", queue=celery_app.QUEUE)
        celery.worker()
        eventually(lambda: incidents.get(conn, incident.incident_id).status is not Status.RAISED, "the sweep")
        assert client.llen(celery_app.REPLAY_QUEUE) > 1_000
    assert versions_of(deployments.current(conn).routing) == stable
