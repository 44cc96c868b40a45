"""The daily loop: data set, guardrails, training, calibration, evaluation, shadow; each step an entry of the log.

Invariants:
- a run goes on from the last step that has its entry, whoever was killed in between, and does no step twice;
- what a step makes depends on the run's first entry and on the ledger up to the position which that names, not on when
  it is made: a run that was cut short ends in the same bytes as one that was not;
- nothing is put in force: the model runs in shadow, and what was recalibrated waits for whoever promotes it;
- one run at a time. The caller sees to it (`recovery.daily_training`).

A model is registered as soon as it is trained: its entry is what keeps it, and a registered model decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

from clickledger import errors
from clickledger.ledger import database, deployments, log
from clickledger.scoring import (
    allocation,
    dataset,
    evaluate,
    feature_spec,
    guardrails,
    labels,
    learn,
    shadowing,
    training,
)
from clickledger.scoring import model as models_
from clickledger.scoring.daily_runs import Outcome, Run, Step, of_day, of_entry
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.guardrails import Guarding
from clickledger.scoring.labels import LabelRules

WINDOW_DAYS = 40  # 28 to train on and 12 to calibrate on, where days are alike
FPRS = (0.01, 0.02, 0.05)
BASELINE = "logistic_regression"
NO_PAIR = (0, 0)  # no model's version
OnStep = Callable[[Step, bool], None]  # called before a step, and after it, when its entry is committed


@dataclass(frozen=True)
class Plan:
    """What a run is to do. What it has begun with stays, whatever a later plan for its day says."""

    day: date
    as_of_ms: int  # label cut-off, and the bound of what is read
    kind: str = "network"
    fpr_max: float = learn.FPR_MAX
    window_days: int = WINDOW_DAYS
    rules: LabelRules = labels.DAILY
    guarding: Guarding = guardrails.DEFAULT_GUARDING
    candidates_max: int = shadowing.CANDIDATES_MAX


def run(
    conn: database.Connection,
    plan: Plan,
    *,
    actor: str,
    reason: str,
    on_step: OnStep = lambda _step, _done: None,
    again: bool = False,
) -> Run:
    """Do what is left of the run of a day; the run, finished. One that was finished is returned as it is.

    Raises Refused when the data is refused or there is too little, also when a run that was is asked for again. With
    `again`, one that was refused or failed is followed by another. Raises InvalidInput for a moment or kind that
    cannot be.
    """
    found = of_day(conn, plan.day)
    if found is None or (again and found.result and found.result["outcome"] in {Outcome.REFUSED, Outcome.FAILED}):
        found = _start(conn, plan, actor, reason)
    elif found.result:
        return _ended(found)
    loop = _Loop(conn, found, plan, actor, reason)
    try:
        for step in Step:
            if step not in found.done:
                on_step(step, False)
                loop.take(step)
                on_step(step, True)
    except errors.Unavailable:
        raise  # it goes on once the server answers
    except Exception as error:
        loop.give_up(error)
        raise
    return of_entry(conn, found.started)


def _start(conn: database.Connection, plan: Plan, actor: str, reason: str) -> Run:
    learn.check_kind(plan.kind)
    if plan.guarding.overridden is None:
        recipe = learn.recipe_as_of(conn, plan.as_of_ms, plan.rules, plan.window_days)
    else:
        recipe = guardrails.overridden_recipe(conn, plan.guarding.overridden)
    in_force = deployments.stable_beside(deployments.current(conn).routing, *NO_PAIR)
    payload = {
        "day": plan.day.isoformat(),
        "as_of_ms": plan.as_of_ms,
        "kind": plan.kind,
        "fpr_max": plan.fpr_max,
        "overridden": plan.guarding.overridden,
        "recipe": recipe.to_payload(),
        "in_force": list(in_force) if in_force else None,
    }
    return Run(log.record(conn, "training_started", payload, actor, reason))


def _ended(finished: Run) -> Run:
    """A finished run; raises as it did when it was refused or failed."""
    result = finished.result or {}
    told = f"{result.get('why')} (run of {finished.day}, entry {finished.position})"
    if result["outcome"] == Outcome.REFUSED:
        raise errors.Refused(told)
    if result["outcome"] == Outcome.FAILED:
        raise errors.InvariantBroken(told)
    return finished


class _Loop:
    """One process's part of a run: what it has made or read for the steps to come."""

    def __init__(self, conn: database.Connection, of: Run, plan: Plan, actor: str, reason: str) -> None:
        self._conn, self._run, self._plan = conn, of, plan
        self._actor, self._reason = actor, reason
        self._mark = {"training": of.position}
        self._version: int | None = of.model_version
        self._not_recalibrated: dict[str, str] = {}  # why, by model
        self._steps: dict[Step, Callable[[], None]] = {
            Step.DATASET: self._record_set,
            Step.GUARDRAILS: self._judge_set,
            Step.TRAIN: self._train,
            Step.CALIBRATE: self._calibrate,
            Step.EVALUATE: self._evaluate,
            Step.SHADOW: self._enter_shadow,
            Step.RECALIBRATE: self._recalibrate,
            Step.FINISH: self._finish,
        }

    def take(self, step: Step) -> None:
        """Do one step and note what it entered."""
        self._steps[step]()
        newest = of_entry(self._conn, self._run.started)
        self._run.done.update(newest.done)
        self._run.recalibrated.update(newest.recalibrated)

    def give_up(self, error: Exception) -> None:
        """End the run by an entry that says why."""
        outcome = Outcome.REFUSED if isinstance(error, errors.Refused | errors.InvalidInput) else Outcome.FAILED
        why = str(error) if isinstance(error, errors.ClickledgerError) else repr(error)
        self._end(outcome, {"why": why})

    @cached_property
    def _material(self) -> learn.Material:
        """The set; read again after a crash, and then held to its entry."""
        material = learn.prepare(self._conn, self._run.recipe)
        if built := self._run.done.get(Step.DATASET):
            dataset.require_equal(self._conn, built, material.made.dataset, material.recipe)
        return material

    @cached_property
    def _model(self) -> models_.Model:
        return models_.from_artefact(deployments.load_artefact(self._conn, self._model_version))

    @property
    def _model_version(self) -> int:
        if self._version is None:
            raise errors.InvariantBroken(f"run {self._run.position}: expected a trained model by now, got none")
        return self._version

    def _record_set(self) -> None:
        learn.record_set(self._conn, self._material, actor=self._actor, reason=self._reason, told=self._mark)

    def _judge_set(self) -> None:
        guarding = Guarding(self._plan.guarding.limits, self._run.started.payload["overridden"])
        built = self._run.done[Step.DATASET]
        learn.judge_set(self._conn, self._material, built, guarding, actor=self._actor, reason=self._reason)

    def _train(self) -> None:
        built, verdict = self._run.done[Step.DATASET], self._run.done[Step.GUARDRAILS]
        if verdict.kind == "guardrail_refused":  # whoever recorded it was killed before the run was ended
            raise guardrails.refusal(verdict)
        trained = learn.TRAINERS[self._run.started.payload["kind"]](self._material.train)
        self._version = learn.register(
            self._conn, trained, built, verdict, actor=self._actor, reason=self._reason, told=self._mark
        )

    def _calibrate(self) -> None:
        beside = self._beside(self._run.started.payload.get("in_force"), self._model)
        self._set_calibration(self._model_version, self._model, self._material.calibrate, beside, {})

    def _beside(self, pair: Sequence[int] | None, trained: models_.Model) -> learn.Beside | None:
        """The pair that a calibration stays near; none of another kind: beside a rule a network is a leap."""
        if pair is None:
            return None
        model = models_.from_artefact(deployments.load_artefact(self._conn, pair[0]))
        if model.kind != trained.kind:
            return None
        return learn.Beside((pair[0], pair[1]), model, deployments.load_thresholds(self._conn, pair[1]))

    def _evaluate(self) -> None:
        part, kind = self._material.calibrate, self._model.kind
        figures: dict[str, dict[str, Any]] = {kind: _figures(self._model, part)}
        if kind != BASELINE:
            figures[BASELINE] = _figures(training.train_logistic_regression(self._material.train), part)
        payload = {
            **self._mark,
            "model_version": self._model_version,
            "calibration_version": self._run.calibration_version,
            "dataset_position": self._run.done[Step.DATASET].position,
            "held_out": part.summary(),
            "models": figures,
            "beats_baseline": figures[kind]["auc"] > figures[BASELINE]["auc"],
        }
        log.record(self._conn, "model_evaluated", payload, self._actor, self._reason)

    def _enter_shadow(self) -> None:
        if not deployments.current(self._conn).routing["routes"]:
            return
        shadowing.enter(
            self._conn,
            self._model_version,
            self._run.done[Step.CALIBRATE].payload["calibration_version"],
            actor=self._actor,
            reason=self._reason,
            extra=self._mark,
            candidates_max=self._plan.candidates_max,
        )

    def _recalibrate(self) -> None:
        """New thresholds for what decides now and for what would after a rollback."""
        routing = deployments.current(self._conn).routing
        stable = [routing["shadow"]] if routing.get("shadow") else []
        in_force = {int(route["model"]): int(route["calibration"]) for route in [*stable, *routing["routes"]]}
        for version in sorted(in_force.keys() - {self._model_version, *self._run.recalibrated}):
            try:
                self._recalibrate_one(version, in_force[version])
            except (errors.Refused, errors.InvalidInput) as refusal:
                self._not_recalibrated[str(version)] = str(refusal)

    def _recalibrate_one(self, version: int, calibration: int) -> None:
        known = models_.from_artefact(deployments.load_artefact(self._conn, version))
        learnt_to_ms = known.metadata.get("dataset", {}).get("to_ms") or 0
        part = self._material.calibrate
        schema = feature_spec.schema_of(part.features)
        if not feature_spec.feeds(schema, known.feature_schema):
            raise errors.Refused(f"model {version}: expected a set of schema {known.feature_schema}, got {schema}")
        unseen = part.where(part.event_time_ms > learnt_to_ms)
        if not unseen.purchased.any():
            raise errors.Refused(f"model {version}: expected clicks with outcomes it was not trained on, got none")
        beside = learn.Beside((version, calibration), known, deployments.load_thresholds(self._conn, calibration))
        self._set_calibration(version, known, unseen, beside, {"recalibrated": True})

    def _set_calibration(
        self, version: int, trained: models_.Model, part: Dataset, beside: learn.Beside | None, told: dict[str, Any]
    ) -> None:
        fpr_max = self._run.started.payload["fpr_max"]
        _, found = learn.calibrated(trained, part, fpr_max, allocation.DEFAULT_CONFIG, beside)
        of = {"dataset_position": self._run.done[Step.DATASET].position, **self._mark, **told}
        metadata = {**found.metadata, **of}
        deployments.set_calibration(self._conn, version, found.thresholds, metadata, self._actor, self._reason)

    def _finish(self) -> None:
        pair = {"model": self._model_version, "calibration": self._run.calibration_version}
        inside = pair in deployments.in_shadow(deployments.current(self._conn).routing)
        told = {"not_recalibrated": self._not_recalibrated}
        self._end(Outcome.IN_SHADOW if inside else Outcome.REGISTERED, told)

    def _end(self, outcome: Outcome, told: dict[str, Any]) -> None:
        shadow = self._run.done.get(Step.SHADOW)
        payload = {
            **self._mark,
            "day": self._run.day.isoformat(),
            "outcome": outcome.value,
            "model_version": self._version,
            "calibration_version": self._run.calibration_version,
            "epoch": shadow.payload["epoch"] if shadow else None,
            "recalibrated": {str(model): version for model, version in sorted(self._run.recalibrated.items())},
            **told,
        }
        log.record(self._conn, "training_finished", payload, self._actor, self._reason)


def _figures(trained: models_.Model, part: Dataset) -> dict[str, Any]:
    """AUC and IVR at each FPR of a model on clicks it was not trained on; human is what led to an outcome itself."""
    scores = trained.score(part.features)
    return {
        "auc": evaluate.auc(scores, ~part.purchased),
        "ivr_at_fpr": {str(fpr): evaluate.ivr_at_fpr(scores, part.purchased, fpr) for fpr in FPRS},
    }
