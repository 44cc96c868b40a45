"""Re-scoring: recorded snapshots give the recorded decisions, to the bit, or the click is named."""

from __future__ import annotations

import time

import live_clicks
import numpy as np
import pytest
from decided_traffic import BAD_LIMIT, STABLE_LIMIT, Traffic, deploy, register

from clickledger.ledger import append, database, deployments
from clickledger.scoring import feature_spec, rescore
from clickledger.scoring.counters import Counted
from clickledger.scoring.deciding import MODEL_UNUSABLE, Decider


@pytest.fixture
def decided(conn: database.Connection) -> database.Connection:
    """300 clicks under one model, 20 of them counted too late, then 100 under another."""
    stable, bad = register(conn, STABLE_LIMIT), register(conn, BAD_LIMIT)
    deploy(conn, stable)
    traffic = Traffic(conn)
    traffic.append(300, late=20)
    deploy(conn, bad, stable)
    traffic.append(100)
    return conn


def forge(conn: database.Connection, statement: str) -> None:
    conn.execute("SET session_replication_role = replica")
    conn.execute(statement)
    conn.execute("SET session_replication_role = origin")


def test_every_decision_comes_out_the_same(decided: database.Connection) -> None:
    found = rescore.sample(decided)
    assert (found.rescored, found.exact, found.failures) == (400, 400, [])


def test_a_rescoring_that_takes_long_is_not_ended_by_the_server(
    decided: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide_again = rescore.decide.decide
    monkeypatch.setattr(rescore, "FETCH_ROWS", 100)
    monkeypatch.setattr(rescore.decide, "decide", lambda *of: (time.sleep(0.02), decide_again(*of))[1])
    decided.execute("SET idle_in_transaction_session_timeout = '2ms'")
    assert rescore.sample(decided).exact == 400


def test_sample_is_about_as_large_as_asked_for(decided: database.Connection) -> None:
    found = rescore.sample(decided, rows_max=100)
    assert 40 < found.rescored == found.exact < 200


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE decisions SET score = score + 1 WHERE line = 70 AND verdict <> 'undecided'",
        "UPDATE decisions SET threshold = threshold + 1 WHERE line = 70 AND verdict <> 'undecided'",
        "UPDATE decisions SET verdict = 'undecided', reason = 'model_absent' WHERE line = 70",
        "UPDATE decisions SET model_version = 3 - model_version, calibration_version = 3 - calibration_version "
        "WHERE line = 70",
    ],
)
def test_forged_decision_is_named(decided: database.Connection, change: str) -> None:
    forge(decided, change + " AND deployment_epoch = 1")
    (click_id,) = (
        decided.execute("SELECT click_id FROM decisions WHERE line = 70 AND deployment_epoch = 1").fetchone() or ()
    )
    found = rescore.sample(decided)
    assert not found.ok
    assert found.rescored - found.exact == 1
    assert str(click_id) in found.failures[0]


def test_clicks_whose_model_could_not_be_used_verify_for_ever(decided: database.Connection) -> None:
    broken = deployments.register_model(decided, b"no safetensors", "network", {}, "tests")
    deploy(decided, (broken, deployments.set_calibration(decided, broken, {"*": 0.0}, {}, "tests")))
    nowhere = {"slice": "app/in", "share": 1.0, "model": 1, "calibration": 1}
    for epoch in (deployments.current(decided).epoch, deployments.deploy(decided, {"routes": [nowhere]}, "tests")):
        decider, clicks = Decider(), live_clicks.clicks(10 * epoch, 10)
        decider.follow(decided)
        zeros = np.zeros((10, len(feature_spec.FEATURES)), np.int32)
        counted = Counted(np.arange(10, dtype=np.int64) + 1000 * epoch, zeros, [""] * 10)
        batch = decider.decide_batch(clicks, counted, 1)
        assert set(batch.reason) == {MODEL_UNUSABLE}
        append.append(decided, batch, actor="tests")
    found = rescore.sample(decided)
    assert (found.rescored, found.exact, found.failures) == (420, 420, [])
    forge(decided, f"UPDATE decisions SET verdict = 'valid' WHERE line = 3 AND reason = '{MODEL_UNUSABLE}'")
    assert rescore.sample(decided).rescored - rescore.sample(decided).exact == 2


def test_forged_snapshot_is_found_where_it_changes_the_decision(decided: database.Connection) -> None:
    forge(decided, "UPDATE clicks SET features = (SELECT features FROM clicks ORDER BY seq DESC LIMIT 1)")
    assert not rescore.sample(decided).ok
