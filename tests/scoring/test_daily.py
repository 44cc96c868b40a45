"""The daily loop: each step once, whoever is killed; refusals end it and say why; nothing is put in force."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import killed_daily
import psycopg
import pytest
from daily_ledger import fill
from psycopg import sql

from clickledger.errors import InvalidInput, InvariantBroken, Refused, VerificationFailed
from clickledger.ledger import audit, database, deployments, log, outcomes
from clickledger.scoring import daily, daily_runs, guardrails, learn
from clickledger.scoring.daily import Plan
from clickledger.scoring.daily_runs import Outcome, Run, Step
from clickledger.scoring.findings import Limits
from clickledger.scoring.guardrails import Guarding

DAY, NEXT_DAY = date(2026, 11, 28), date(2026, 11, 29)
KINDS = [
    "training_started", "dataset_built", "guardrails_passed", "model_registered", "calibration_set", "model_evaluated",
    "deployment_changed", "calibration_set", "calibration_set", "training_finished",
]  # fmt: skip
STRICT = Guarding(Limits(label_age_hours_min=10_000))


@pytest.fixture
def ledger(conn: database.Connection) -> database.Connection:
    """Ten days of clicks that every guardrail lets pass, as of now."""
    fill(conn)
    return conn


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def plan(day: date = DAY, as_of_ms: int | None = None, **chosen: Any) -> Plan:
    return Plan(day, as_of_ms or now_ms(), **chosen)


def run(conn: database.Connection, of: Plan, **chosen: Any) -> Run:
    return daily.run(conn, of, actor="tests", reason="daily", **chosen)


def told(entries: list[log.Entry]) -> list[tuple[Any, ...]]:
    """Entries but for when they were recorded."""
    return [(e.position, e.kind, e.actor, e.reason, e.payload_text, e.content_digest) for e in entries]


@pytest.fixture
def twin(servers: Any, database_url: str) -> Iterator[str]:
    """The name of a database that `copy` may make of the test's own."""
    name = f"{database_url.rpartition('/')[2].partition('?')[0]}_twin"
    yield name
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def copy(servers: Any, source: str, name: str) -> str:
    """A copy of a database nobody is connected to; its address."""
    origin = source.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(origin)))
    return source.replace(f"/{origin}?", f"/{name}?")


def test_a_run_killed_at_every_entry_ends_in_the_entries_of_one_that_was_not(
    servers: Any, database_url: str, twin: str
) -> None:
    with database.connect(database_url) as conn:
        fill(conn)
        before, as_of_ms = log.head(conn).position, now_ms()
    other = copy(servers, database_url, twin)
    command = [sys.executable, killed_daily.__file__, other, DAY.isoformat(), str(as_of_ms)]
    folder = str(Path(daily.__file__).parents[2])
    alone = {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=alone, check=True)
    # Twice at each entry, before its commit and after, and once more to find that nothing is left.
    assert [int(line) for line in ended.stdout.split()] == [-9] * 2 * len(KINDS) + [0]
    with database.connect(database_url) as conn, database.connect(other) as killed:
        run(conn, plan(as_of_ms=as_of_ms))
        undisturbed, resumed = (log.read(each, after=before) for each in (conn, killed))
        assert [entry.kind for entry in undisturbed] == KINDS
        assert told(resumed) == told(undisturbed)
        found = [daily_runs.of_day(each, DAY) for each in (conn, killed)]
        assert found[0] is not None and found[1] is not None and found[0].done.keys() == set(Step) - {Step.RECALIBRATE}
        artefacts = [deployments.load_artefact(each, 3) for each in (conn, killed)]
        assert artefacts[0] == artefacts[1]
        assert audit.verify(killed).ok


def test_a_run_ends_in_shadow_and_puts_nothing_in_force(ledger: database.Connection) -> None:
    routing = deployments.current(ledger).routing
    done = run(ledger, plan())
    result, now = done.result, deployments.current(ledger).routing
    assert result is not None and result["outcome"] == Outcome.IN_SHADOW
    assert (now["routes"], now["shadow"]) == (routing["routes"], routing["shadow"])
    assert now["candidates"] == [{"model": done.model_version, "calibration": done.calibration_version}]
    # What decides and what would after a rollback have new thresholds, which wait for a promotion.
    assert {int(model) for model in result["recalibrated"]} == {1, 2} and result["not_recalibrated"] == {}
    # What is recalibrated stays near its own thresholds; a network beside a rule is a leap.
    assert done.started.payload["in_force"] == [2, 2]
    assert beside_of(ledger, done) == {1: {"model": 1, "calibration": 1}, 2: {"model": 2, "calibration": 2}, 3: None}
    figures = done.done[Step.EVALUATE].payload
    assert figures["models"].keys() == {"network", "logistic_regression"} and figures["held_out"]["purchased"] > 0
    assert figures["beats_baseline"] == (
        figures["models"]["network"]["auc"] > figures["models"]["logistic_regression"]["auc"]
    )
    # The same day again changes nothing, and the same set on another day gives the very same artefact.
    head = log.head(ledger)
    assert run(ledger, plan()).result == result and log.head(ledger) == head
    again = run(ledger, plan(NEXT_DAY, done.started.payload["as_of_ms"]))
    assert again.model_version == done.model_version and Step.TRAIN not in again.done
    assert again.calibration_version != done.calibration_version


def beside_of(conn: database.Connection, of: Run) -> dict[int, Any]:
    """What the calibrations of a run stayed near, by model."""
    entries = [entry.payload for entry in log.read(conn, kinds=["calibration_set"]) if entry.position > of.position]
    return {each["model_version"]: each["metadata"]["allocation"].get("anchored", {}).get("beside") for each in entries}


def test_a_model_of_the_kind_in_force_is_calibrated_near_it(ledger: database.Connection) -> None:
    done = run(ledger, plan(kind="velocity"))
    assert beside_of(ledger, done)[done.model_version or 0] == {"model": 2, "calibration": 2}


def test_a_refused_run_ends_with_the_refusal_and_the_next_day_starts_afresh(ledger: database.Connection) -> None:
    steps: list[Step] = []
    with pytest.raises(Refused, match=r"refused by guardrails, entry \d+: label_age: .*expected at least 10000"):
        run(ledger, plan(guarding=STRICT), on_step=lambda step, done: steps.append(step) if done else None)
    assert steps == [Step.DATASET]
    refused, finished = log.read(ledger, after=log.head(ledger).position - 2)
    assert (refused.kind, finished.kind) == ("guardrail_refused", "training_finished")
    assert finished.payload["outcome"] == "refused" and "label_age" in finished.payload["why"]
    with pytest.raises(Refused, match=f"label_age.*run of {DAY}"):
        run(ledger, plan())  # the day is over, whatever the limits are now
    assert log.head(ledger).position == finished.position
    assert run(ledger, plan(NEXT_DAY, kind="velocity")).result is not None


def test_a_run_killed_between_a_refusal_and_its_end_is_refused_once(ledger: database.Connection) -> None:
    def die(step: Step, done: bool) -> None:
        if step is Step.GUARDRAILS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(ledger, plan(), on_step=die)
    begun = daily_runs.of_day(ledger, DAY)
    assert begun is not None and begun.result is None
    material = learn.prepare(ledger, begun.recipe)
    with pytest.raises(Refused):
        learn.judge_set(ledger, material, begun.done[Step.DATASET], STRICT, actor="tests", reason="daily")
    with pytest.raises(Refused, match="label_age"):
        run(ledger, plan())
    assert [e.kind for e in log.read(ledger, after=begun.position)] == [
        "dataset_built", "guardrail_refused", "training_finished"
    ]  # fmt: skip


def test_an_overridden_refusal_lets_another_run_of_the_day_go_on(ledger: database.Connection) -> None:
    with pytest.raises(Refused):
        run(ledger, plan(guarding=STRICT))
    [refused] = log.read(ledger, kinds=["guardrail_refused"])
    given = guardrails.override(ledger, refused.position, actor="bob", reason="an old set, on purpose")
    guarding = Guarding(STRICT.limits, given.position)
    done = run(ledger, plan(kind="velocity", guarding=guarding), again=True)
    assert done.result is not None and done.result["outcome"] == Outcome.IN_SHADOW
    assert done.done[Step.GUARDRAILS].payload["overridden"] == given.position
    assert done.done[Step.DATASET].payload["digest"] == refused.payload["digest"]


def test_too_little_data_is_said_with_the_time_it_is_missing_from(conn: database.Connection) -> None:
    with pytest.raises(Refused, match=r"training part of 0 clicks.*too little data as of .*48 h earlier"):
        run(conn, plan())
    [finished] = log.read(conn, kinds=["training_finished"])
    assert finished.payload["outcome"] == "refused"


def test_a_defect_ends_the_run_as_failed_and_is_no_refusal(
    ledger: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setitem(learn.TRAINERS, "velocity", lambda _: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            run(ledger, plan(kind="velocity"))
    [finished] = log.read(ledger, kinds=["training_finished"])
    assert (finished.payload["outcome"], "ZeroDivisionError" in finished.payload["why"]) == ("failed", True)
    with pytest.raises(InvariantBroken, match="ZeroDivisionError"):
        run(ledger, plan(kind="velocity"))
    assert run(ledger, plan(kind="velocity"), again=True).result is not None


def test_a_set_that_changed_since_its_entry_is_not_trained_on(ledger: database.Connection) -> None:
    def stop(step: Step, done: bool) -> None:
        if step is Step.TRAIN:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(ledger, plan(kind="velocity"), on_step=stop)
    ledger.execute("SET session_replication_role = replica")
    ledger.execute("DELETE FROM outcomes WHERE click_id = (SELECT click_id FROM outcomes ORDER BY 1 OFFSET 60 LIMIT 1)")
    ledger.execute("RESET session_replication_role")
    with pytest.raises(VerificationFailed, match=r"set of entry \d+: human: expected \d+, got \d+"):
        run(ledger, plan(kind="velocity"))


def test_as_of_a_moment_bounds_positions_and_labels(ledger: database.Connection) -> None:
    time.sleep(0.002)
    as_of_ms = now_ms()
    time.sleep(0.002)
    position = log.head(ledger).position
    [row] = ledger.execute("SELECT click_id FROM clicks ORDER BY 1 LIMIT 1").fetchall()
    outcomes.append(ledger, [outcomes.Outcome(row[0].bytes, "purchase", as_of_ms - 10, 1)], "tests")
    recipe = learn.recipe_as_of(ledger, as_of_ms)
    assert (recipe.up_to_position, recipe.label_cutoff_ms, recipe.after_position) == (position, as_of_ms, 0)
    assert learn.recipe_as_of(ledger, now_ms()).up_to_position == position + 1
    with pytest.raises(InvalidInput, match="expected a time that has passed"):
        learn.recipe_as_of(ledger, now_ms() + 60_000)
    with pytest.raises(InvalidInput, match="when the ledger began"):
        learn.recipe_as_of(ledger, as_of_ms - 10**10)
