"""Candidates in shadow: fed by what is recorded, few, and never in the stable model's place."""

from __future__ import annotations

import pytest
from decided_traffic import STABLE_LIMIT, Versions, deploy, register

from clickledger.errors import Refused
from clickledger.ledger import database, deployments, log
from clickledger.scoring import feature_spec, shadowing, velocity
from clickledger.scoring import model as models_


def beside(conn: database.Connection) -> list[Versions]:
    shown = deployments.in_shadow(deployments.current(conn).routing)
    return [(route["model"], route["calibration"]) for route in shown]


@pytest.fixture
def stable(conn: database.Connection) -> Versions:
    """A ledger where one model decides and another, the stable one, is in shadow."""
    live, stable = register(conn, STABLE_LIMIT), register(conn, STABLE_LIMIT + 1)
    deploy(conn, live, stable)
    return stable


def test_the_newest_candidates_stay_and_the_stable_model_always_does(
    conn: database.Connection, stable: Versions
) -> None:
    first, second, third = (register(conn, limit) for limit in (5, 6, 7))
    epochs = [shadowing.enter(conn, *each, actor="tests") for each in (first, second, third)]
    assert epochs == [2, 3, 4] and beside(conn) == [stable, second, third]
    before = log.head(conn)
    assert shadowing.enter(conn, *third, actor="tests") == 4 and log.head(conn) == before
    assert shadowing.leave(conn, second[0], actor="tests") == 5 and beside(conn) == [stable, third]
    assert shadowing.leave(conn, second[0], actor="tests") == 5


def test_a_new_calibration_of_a_candidate_takes_its_place(conn: database.Connection, stable: Versions) -> None:
    candidate = register(conn, 5)
    again = (candidate[0], deployments.set_calibration(conn, candidate[0], {"*": 1.0}, {}, "tests"))
    shadowing.enter(conn, *candidate, actor="tests")
    shadowing.enter(conn, *again, actor="tests")
    assert beside(conn) == [stable, again]


def test_a_model_that_snapshots_do_not_feed_is_refused_with_its_schema(
    conn: database.Connection, stable: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = velocity.velocity_model()
    with monkeypatch.context() as tomorrow:
        tomorrow.setitem(feature_spec.SCHEMAS, 3, feature_spec.FEATURES)
        artefact = models_.to_artefact(models_.Model(made.kind, made.transform, made.layers, {}, feature_schema=3))
    version = deployments.register_model(conn, artefact, "velocity", {}, "tests")
    calibration = deployments.set_calibration(conn, version, {"*": 0.0}, {}, "tests")
    with pytest.raises(
        Refused, match=rf"model {version} in shadow: it reads snapshots of schema 3, expected .*: 1; run"
    ):
        shadowing.enter(conn, version, calibration, actor="tests")
    with pytest.raises(Refused, match=rf"model {version} in routes"):
        shadowing.require_fed(conn, {"routes": [{"model": version}], "shadow": None})
    assert beside(conn) == [stable]


def test_what_decides_already_is_no_candidate(conn: database.Connection) -> None:
    live = register(conn, STABLE_LIMIT)
    with pytest.raises(Refused, match="expected a deployment to run beside"):
        shadowing.enter(conn, *live, actor="tests")
    deploy(conn, live)
    with pytest.raises(Refused, match="decides already"):
        shadowing.enter(conn, *live, actor="tests")
