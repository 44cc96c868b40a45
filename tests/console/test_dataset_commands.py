"""`clickledger model dataset`, `model override` and guarded training."""

from __future__ import annotations

import pytest
from commands import Command
from decided_traffic import STABLE_LIMIT, START_MS, Traffic, deploy, register

from clickledger.ledger import database, log, outcomes


@pytest.fixture
def ledger(conn: database.Connection) -> database.Connection:
    """2,000 clicks of 200 accounts in six days, of which some bought once; the last purchase is years ago."""
    deploy(conn, register(conn, STABLE_LIMIT))
    traffic = Traffic(conn, gap_ms=240_000)
    for _ in range(4):
        traffic.append(500)
    bought = [outcomes.Outcome(i, "purchase", START_MS + 10**7, 1_000) for i in traffic.ids[::21]]
    outcomes.append(conn, bought, "tests")
    return conn


def test_a_set_is_made_again_and_verified(ledger: database.Connection, command: Command) -> None:
    assert command("model", "train", "--kind", "velocity", "--unguarded").code == 0
    (built,) = log.read(ledger, kinds=["dataset_built"])
    answer = command("model", "dataset", built.position)
    assert answer.code == 0 and f"set of entry {built.position}: 2,000 clicks" in answer.said
    assert answer.fields["verified"] is True and answer.fields["digest"] == built.payload["digest"]
    assert answer.fields["rules"] == built.payload["rules"]


def test_a_set_that_is_not_its_entrys_is_told_with_what_differs(ledger: database.Connection, command: Command) -> None:
    assert command("model", "train", "--kind", "velocity", "--unguarded").code == 0
    (built,) = log.read(ledger, kinds=["dataset_built"])
    other = log.record(ledger, "dataset_built", {**built.payload, "human": 7}, "somebody")
    answer = command("model", "dataset", other.position)
    assert answer.code == 1 and "human: expected 7, got " in answer.said
    assert command("model", "dataset", 1).code == 2


def test_guarded_training_is_refused_until_a_second_person_lets_it_pass(
    ledger: database.Connection, command: Command
) -> None:
    train = ("model", "train", "--kind", "velocity", "--guarded", "--actor", "ann")
    refused = command(*train)
    assert refused.code == 3 and "feed_lag: hours from the newest outcome" in refused.said
    (entry,) = log.read(ledger, kinds=["guardrail_refused"])
    words = ("model", "override", entry.position, "--reason", "old data, on purpose")
    assert command(*words, "--actor", "ann").code == 3
    given = command(*words, "--actor", "bob")
    assert given.code == 0 and given.fields["refusing"] == entry.payload["refusing"]
    passed = command(*train, "--overridden", given.fields["position"])
    assert passed.code == 0
    cold = log.read(ledger, kinds=["dataset_built"])[-1].payload["cold"]  # of the first day, before counters were full
    assert 0 < cold < 1_000 and passed.fields["rows"] == 2_000 - cold
