"""The hourly task: days ahead, and days that are over frozen."""

from __future__ import annotations

import pytest
from decided_traffic import bad_deployment

from clickledger.ledger import database, partitions
from clickledger.recovery import steps, tasks


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
