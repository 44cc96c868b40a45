"""A table of facts from its file to replays on both sides: workers, a model that reads it, and the way back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import redis
from worker_processes import Workers, until, workers

from clickledger.console import provenance_text
from clickledger.errors import Refused
from clickledger.ledger import audit, database, deployments, log, outcomes, provenance, runs
from clickledger.recovery import plans, preview, redecide, replay, rollback, steps, working
from clickledger.recovery.plans import What
from clickledger.recovery.working import Worker
from clickledger.scoring import (
    dataset,
    exchange,
    facts,
    facts_deployment,
    feature_spec,
    heartbeat,
    learn,
    recount,
    rescore,
    shadowing,
    simulation,
    simulation_networks,
)
from clickledger.scoring import model as models_
from clickledger.scoring.click import Click
from clickledger.scoring.networks import AddressFacts
from clickledger.scoring.pseudonyms import Pseudonyms
from clickledger.scoring.simulation import SimulationConfig

CONFIG = SimulationConfig(clicks=9_000, start_ms=1_759_104_000_000, duration_hours=36.0, seed=5)
FIRST, SECOND, THIRD = 3_500, 7_500, 8_500  # before the table; while it is learnt from; decided by it; after going back
NAMES = Pseudonyms(bytes(32))
ROWS = """
    SELECT uuid_send(c.click_id), c.feature_schema, c.features, c.slice, d.model_version, d.score, d.threshold,
           d.verdict::text, d.reason, d.log_position
    FROM clicks c JOIN {decisions} d USING (click_id) ORDER BY c.seq"""


class Row(NamedTuple):
    click_id: bytes
    schema: int
    features: bytes
    slice: str
    model: int
    score: float
    threshold: float
    verdict: str
    reason: str
    position: int

    @property
    def decided(self) -> tuple[object, ...]:
        return self.model, np.float32(self.score).tobytes(), np.float32(self.threshold).tobytes(), self.verdict


@pytest.fixture
def fleet(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    with workers(database_url, redis_url, tmp_path) as made:
        yield made


def rows_of(conn: database.Connection, run: runs.Run | None = None) -> list[Row]:
    table = f"(SELECT * FROM delayed_decisions WHERE run_id = {run.run_id})" if run else "decisions"
    return [Row(r[0], r[1], bytes(r[2]), *r[3:]) for r in conn.execute(ROWS.format(decisions=table).encode())]


def replayed(conn: database.Connection, lo: int, hi: int, versions: tuple[int, int], mode: str) -> runs.Run:
    plan = plans.for_positions(conn, lo, hi, What(versions, mode=mode))
    run = replay.start(conn, plan, "tests", "")
    working.work(conn, run.run_id, Worker("tests", 60.0), 60.0)
    assert steps.finish(conn, run.run_id, "tests") is not None
    return run


def model_of(conn: database.Connection, version: int) -> models_.Model:
    return models_.from_artefact(deployments.load_artefact(conn, version))


def scored(model: models_.Model, rows: Sequence[Row]) -> list[bytes]:
    """What a model says of recorded snapshots, of whatever schema, as bits."""
    cut = [feature_spec.cut_snapshot(row.features, row.schema, model.feature_schema) for row in rows]
    scores = model.score(feature_spec.unpack_snapshots(cut, model.feature_schema))
    return [score.tobytes() for score in scores]


def test_a_table_of_facts_is_deployed_learnt_from_gone_back_from_and_replayed_to_the_bit(
    fleet: Workers, conn: database.Connection, redis_client: redis.Redis, redis_url: str
) -> None:
    traffic, truth = simulation.simulate(CONFIG)
    places = simulation_networks.Places(CONFIG.seed, simulation.gateways_of(CONFIG))
    places.add(traffic, truth)
    content = simulation_networks.content(places.lines())
    bought = traffic.to_outcomes(traffic.to_clicks(NAMES))

    def follow() -> None:
        epoch = deployments.current(conn).epoch
        until(lambda: {w.deployment_epoch for w in heartbeat.live(redis_client)} == {epoch}, "the worker to follow")

    def send(first: int, end: int) -> list[Click]:
        follow()
        looked_up = facts.in_force(conn)
        sent = traffic.to_clicks(NAMES, facts=looked_up)[first:end]
        answers = [answer for _, answer in exchange.decide_all(redis_url, sent)]
        assert {answer.outcome for answer in answers} == {"new"}
        ids = {click.click_id for click in sent}
        outcomes.append(conn, [each for each in bought if each.click_id in ids], "tests")
        return sent

    fleet.start("scoring-1")
    send(0, FIRST)
    first = learn.learn(conn, actor="tests", reason="", kind="logistic_regression", fpr_max=0.05)
    deployments.promote(conn, first.model_version, first.calibration_version, "tests")

    version = facts.register(conn, facts.DATA_CENTRE_NETWORKS, content, actor="tests", reason="a world's list")
    began = deployments.current(conn)
    facts_deployment.put_in_force(conn, version, actor="tests", reason="to learn from")
    deployed = deployments.current(conn).position
    assert began.routing["routes"] == deployments.current(conn).routing["routes"]
    sent = send(FIRST, SECOND)
    table: AddressFacts = facts.in_force(conn)
    recorded = rows_of(conn)
    assert [row.schema for row in recorded] == [1] * FIRST + [2] * (SECOND - FIRST)
    flags = [feature_spec.unpack_snapshots([row.features], 2)[0, -1] for row in recorded[FIRST:]]
    expected = {click.click_id: click.data_centre for click in sent}
    assert flags == [expected[row.click_id] for row in recorded[FIRST:]] and set(flags) == {0, 1}
    assert table.version == version

    both = learn.learn(conn, actor="tests", reason="", kind="logistic_regression", fpr_max=0.05)
    facts_model = learn.learn(
        conn, actor="tests", reason="", kind="logistic_regression", fpr_max=0.05, after_position=deployed
    )
    sets = log.read(conn, kinds=["dataset_built"])
    assert [entry.payload["feature_schema"] for entry in sets] == [1, 1, 2]
    assert [entry.payload["rows"] for entry in sets] == [FIRST, SECOND, SECOND - FIRST]
    for entry in sets:
        assert dataset.rebuild(conn, entry.position).digest() == entry.payload["digest"]
    learnt = model_of(conn, facts_model.model_version)
    assert (learnt.feature_schema, model_of(conn, both.model_version).feature_schema) == (2, 1)

    shadowing.require_model_fed(conn, facts_model.model_version)
    deployments.promote(conn, facts_model.model_version, facts_model.calibration_version, "tests")
    send(SECOND, THIRD)
    with pytest.raises(Refused, match=f"model {facts_model.model_version} in routes: it reads snapshots of schema 2"):
        facts_deployment.put_in_force(conn, 0, actor="tests", reason="")
    done = rollback.roll_back(conn, facts_model.model_version, "tests")
    assert deployments.current(conn).routing["facts_version"] == version
    send(THIRD, len(traffic))

    live = rows_of(conn)
    first_versions = (first.model_version, first.calibration_version)
    facts_versions = (facts_model.model_version, facts_model.calibration_version)
    assert [row.model for row in live[THIRD:]] == [first.model_version] * (len(traffic) - THIRD)
    assert {row.schema for row in live[FIRST:]} == {2}
    stable = model_of(conn, first.model_version)
    for part, model in ((live[FIRST:SECOND], stable), (live[SECOND:THIRD], learnt), (live[THIRD:], stable)):
        assert {row.model for row in part} == {part[0].model} and "" in {row.reason for row in part}
        assert [np.float32(row.score).tobytes() for row in part] == scored(model, part)

    # Back to what reads less: the stable model on the clicks of the other one.
    lo, hi = live[SECOND].position, done.position
    corrected = rows_of(conn, replayed(conn, lo, hi, first_versions, "rescore"))
    assert [np.float32(row.score).tobytes() for row in corrected] == scored(stable, corrected)
    assert {row.model for row in corrected} == {first.model_version} and len(corrected) == THIRD - SECOND
    # Counted again, with the flag that was recorded: what was decided live, on both sides.
    for versions, part in ((facts_versions, live[SECOND:THIRD]), (first_versions, live[FIRST:SECOND])):
        again = rows_of(conn, replayed(conn, part[0].position, part[-1].position + 1, versions, "recompute"))
        assert [row.decided for row in again] == [row.decided for row in part]
    # Clicks that were recorded without the flag stay as they are, and the plan says so first.
    lo, hi = live[FIRST - 500].position, live[FIRST + 500].position + 1
    part = [row for row in live if lo <= row.position < hi]
    short = sum(row.schema == 1 for row in part)
    plan = plans.for_positions(conn, lo, hi, What(facts_versions))
    assert preview.preview(conn, plan).not_replayed == {"snapshot_without_facts 1": short} and 0 < short < len(part)
    mixed = rows_of(conn, replayed(conn, lo, hi, facts_versions, "rescore"))
    assert [row.reason for row in mixed] == [redecide.SHORT_SNAPSHOT] * short + [""] * (len(part) - short)
    assert [row.decided for row in mixed[:short]] == [row.decided for row in part[:short]]
    assert [np.float32(row.score).tobytes() for row in mixed[short:]] == scored(learnt, mixed[short:])

    story = provenance.why(conn, uuid.UUID(bytes=live[SECOND].click_id))
    assert provenance_text.features_of(story["click"])["data_centre"] in (0, 1)
    assert all(check["exact"] for check in provenance_text.rescored(conn, story))
    assert rescore.sample(conn).ok
    counted = recount.verify(conn)
    assert (counted.ok, counted.recounted, counted.skipped) == (True, len(traffic), 0)
    report = audit.verify(conn)
    assert report.ok, report.failures
