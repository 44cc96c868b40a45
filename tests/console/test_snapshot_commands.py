"""What people are told of snapshots: that one is cold, that all are what the log gives, or which one is not."""

from __future__ import annotations

import pytest
import redis
from commands import Command
from counting_ledger import Serving, hours_of_clicks, served

from clickledger.ledger import append, database
from clickledger.scoring import feature_spec
from clickledger.scoring.counters import Counted, FeatureCounter


@pytest.fixture
def serving(conn: database.Connection, redis_client: redis.Redis) -> Serving:
    return served(conn, redis_client, 400)


def test_why_says_whether_a_snapshot_is_cold_and_from_when_on_they_are_not(serving: Serving, command: Command) -> None:
    first, last = hours_of_clicks(0, 1)[0], hours_of_clicks(0, 400)[-1]
    told = command("why", first.external_id)
    began_ms = min(each.event_time_ms for each in hours_of_clicks(0, 400))
    assert told.fields["cold"] is True
    assert told.fields["warm_from"] == began_ms + feature_spec.LONGEST_WINDOW_MS
    assert "cold: its windows were not full yet" in told.said
    told = command("why", last.external_id)
    assert (told.fields["cold"], told.fields["warm_from"]) == (False, None)
    assert "cold" not in told.said


def test_an_audit_recomputes_snapshots_when_asked_and_names_the_false_one(serving: Serving, command: Command) -> None:
    assert "snapshots" not in command("audit", "verify").fields["checks"]
    found = command("audit", "verify", "--snapshots", "all")
    assert found.code == 0
    assert (found.fields["checks"]["snapshots"], found.fields["recounted"], found.fields["recounted_exact"]) == (
        True, 400, 400,
    )  # fmt: skip
    assert "400 of 400 snapshots recomputed from the log are the recorded ones" in found.said

    sent = hours_of_clicks(400, 1)
    counted = FeatureCounter(serving.client, 1).count(sent)
    batch = serving.decider.decide_batch(sent, Counted(counted.seq, counted.features + 1, counted.reason), 1)
    append.append(serving.conn, batch, actor="test")
    found = command("audit", "verify", "--snapshots", "2025-06-17")
    assert found.code == 1
    [line] = found.fields["failures"]["snapshots"]
    assert "user_clicks_10s recorded 2, got 1 from the log, and 21 more differ" in line
    assert command("audit", "verify", "--snapshots", "2025-06-16").code == 0
    assert command("audit", "verify", "--snapshots", "yesterday").code == 2
