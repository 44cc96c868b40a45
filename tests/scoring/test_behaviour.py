"""A registered model is judged beside the stable one: an entry with every figure; who may promote by it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from decided_traffic import BAD_LIMIT, DAY_MS, STABLE_LIMIT, START_MS, Traffic, deploy, register

from clickledger.ledger import database, deployments, log, outcomes
from clickledger.scoring import behaviour, dataset, robot_probes, velocity
from clickledger.scoring import model as models_
from clickledger.scoring.behaviour import Judged
from clickledger.scoring.recipe import Recipe

COMPARING = {"known_customers", "ivr", "slice_ivr", "hourly_range", "robot_recall"}
CUTOFF_MS = START_MS + 10 * DAY_MS


@pytest.fixture
def ledger(conn: database.Connection) -> Iterator[database.Connection]:
    """6,000 clicks of two days, most of them of accounts that bought three days before; a velocity rule decides."""
    stable = register(conn, STABLE_LIMIT)
    deploy(conn, stable)
    traffic = Traffic(conn, users=300, gap_ms=2 * DAY_MS // 6_000)
    for _ in range(6):
        traffic.append(1_000)
    traffic.purchases(range(0, 300, 2))
    bought = [outcomes.Outcome(i, "purchase", START_MS + DAY_MS, 1_000) for i in traffic.ids[::40]]
    outcomes.append(conn, bought, "tests")
    yield conn


def rule(conn: database.Connection, clicks_per_hour: int) -> tuple[int, int]:
    """A velocity rule that was registered with a data set, as training one does."""
    recipe = Recipe(log.head(conn).position, CUTOFF_MS)
    position = dataset.record_built(conn, dataset.gather(conn, recipe).dataset, recipe, actor="tests").position
    model = velocity.velocity_rule("user_clicks_1h", clicks_per_hour, {"tests": clicks_per_hour})
    artefact = models_.to_artefact(model)
    version = deployments.register_model(conn, artefact, "velocity", {"dataset_position": position}, "tests")
    return version, deployments.set_calibration(conn, version, {"*": 0.0}, {"fpr_max": 0.01}, "tests")


def judged(conn: database.Connection, pair: tuple[int, int], actor: str = "ann") -> Judged:
    return behaviour.judge(conn, *pair, actor=actor, reason="tests")


def test_a_model_that_decides_as_the_stable_one_passes(ledger: database.Connection) -> None:
    pair, said = rule(ledger, STABLE_LIMIT + 1), []
    found = behaviour.judge(ledger, *pair, actor="ann", reason="why", progress=said.append)
    assert found.passed and [f.sentence() for f in found.refusing] == []
    entry = log.entry(ledger, found.position)
    assert (entry.kind, entry.actor, entry.reason) == ("guardrails_passed", "ann", "why")
    assert entry.payload["stable"] == {"model": 1, "calibration": 1}
    assert {f["guard"] for f in entry.payload["findings"]} == {*COMPARING, "baseline", "seeds"}
    assert entry.payload["clicks"]["rows"] == 6_000 and entry.payload["robots_digest"] == robot_probes.known().digest
    assert any("regression" in line for line in said)


def test_a_model_that_takes_people_for_robots_is_refused_with_its_figures(ledger: database.Connection) -> None:
    found = judged(ledger, rule(ledger, BAD_LIMIT))
    entry = log.entry(ledger, found.position)
    assert not found.passed and entry.kind == "guardrail_refused"
    assert {"known_customers", "ivr", "slice_ivr"} <= set(entry.payload["refusing"])
    told = {f.guard: f for f in found.findings}
    assert (told["known_customers"].figure or 0) > 0.5
    assert "expected at most 0.004, got 0." in told["known_customers"].sentence()
