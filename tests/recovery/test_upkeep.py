"""The hourly task: days ahead, and days that are over frozen."""

from __future__ import annotations

from datetime import date

import pytest
from decided_traffic import bad_deployment

from clickledger.ledger import billing, database, log, partitions, retention
from clickledger.recovery import plans, preview, replay, steps, tasks, working
from clickledger.recovery.plans import What
from clickledger.recovery.working import Worker


@pytest.fixture(autouse=True)
def _environment(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKLEDGER_DATABASE_URL", database_url)
    monkeypatch.setenv("CLICKLEDGER_REDIS_URL", redis_url)


def test_task_makes_days_ahead_and_freezes_those_that_are_over(conn: database.Connection) -> None:
    bad_deployment(conn, clicks=20)
    tasks.partitions_ahead()
    watch = partitions.watch(conn)
    assert (watch.days_ahead, watch.unfrozen, watch.warnings) == (partitions.DAYS_AHEAD, 0, [])


def test_task_leaves_it_to_whoever_is_at_it(conn: database.Connection) -> None:
    with steps.alone(conn, "partitions"):
        tasks.partitions_ahead()
    assert partitions.watch(conn).days_ahead == 0


def test_range_that_lost_a_day_is_replayed_by_what_is_left(conn: database.Connection) -> None:
    traffic, stable, _ = bad_deployment(conn, clicks=20, batches=2)
    billing.close_period(conn, "2024-03", "tests")
    detached = retention.detach(conn, date(2024, 3, 10), "tests", "old")
    traffic.count = partitions.DAY_MS // traffic.gap_ms  # of the next day
    traffic.append(30)
    plan = plans.for_positions(conn, 1, log.head(conn).position + 1, What(stable))
    assert (detached.clicks, preview.preview(conn, plan).clicks) == (80, 30)
    run_id = replay.start(conn, plan, "tests", "").run_id
    working.work(conn, run_id, Worker("tests", 60.0), seconds=60.0)
    assert steps.finish(conn, run_id, "tests") is not None
