"""From the ledger to a registered, calibrated model: data set, training, calibration, evaluation, each an entry.

`learn` does all of it at once; its steps are what the daily loop (`daily`) takes one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from clickledger import errors
from clickledger.ledger import database, deployments, log
from clickledger.scoring import (
    allocation,
    calibration,
    dataset,
    evaluate,
    guardrails,
    judged,
    labels,
    options,
    training,
    velocity,
)
from clickledger.scoring import model as models_
from clickledger.scoring.anchoring import InForce
from clickledger.scoring.dataset import Assembled, Dataset, Stretch
from clickledger.scoring.findings import time_text
from clickledger.scoring.guardrails import Guarding
from clickledger.scoring.labels import LabelRules
from clickledger.scoring.recipe import Recipe

FPR_MAX = 0.01  # of purchasing clicks, on the calibration part
CALIBRATION_SHARE = 0.3  # the last clicks in time; the model is trained on those before
Trainer = Callable[[Dataset], models_.Model]
TRAINERS: dict[str, Trainer] = {
    "network": training.train_network,
    "deep_cross": training.train_deep_cross,
    "auto": options.best_network,
    "logistic_regression": training.train_logistic_regression,
    "velocity": lambda _: velocity.velocity_model(),
}


@dataclass(frozen=True, slots=True)
class Learned:
    """A registered model with its calibration and what they did on the calibration part."""

    model_version: int
    calibration_version: int
    metrics: dict[str, Any]
    rows: int
    purchases: int
    too_little: tuple[str, ...] = ()  # what could not be judged or promised for want of data, in words


@dataclass(frozen=True, eq=False)
class Beside:
    """The pair in force, as far as a calibration looks at it."""

    versions: tuple[int, int]  # model, calibration
    model: models_.Model
    thresholds: Mapping[str, float]

    def of(self, part: Dataset) -> InForce:
        """What it says of the clicks of a calibration part."""
        invalid = judged.reaching(self.model.score(part.features), part.slice, self.thresholds)
        return InForce(invalid, part.human, *self.versions)


@dataclass(frozen=True, eq=False)
class Material:
    """A set in two parts by time, and the weights a trainer would use."""

    recipe: Recipe
    made: Assembled
    train: Dataset
    calibrate: Dataset
    weights: npt.NDArray[np.float32]  # (n,) of the whole set


def learn(
    conn: database.Connection,
    *,
    actor: str,
    reason: str,
    kind: str = "network",
    up_to_position: int | None = None,
    after_position: int = 0,
    label_cutoff_ms: int | None = None,
    fpr_max: float | None = FPR_MAX,
    slice_purchases_min: int = calibration.SLICE_PURCHASES_MIN,
    config: allocation.CalibrationConfig = allocation.DEFAULT_CONFIG,
    withheld: Sequence[Stretch] = (),
    rules: LabelRules = labels.AS_RECORDED,
    guarding: Guarding | None = None,
) -> Learned:
    """Build a data set from the ledger, train, calibrate on its last part and register both.

    Without a bound it reads everything up to the head. `fpr_max` None is the FPR at the knee of the curve. `withheld`
    injects the fault of missing labels (see `labels.label`). With `guarding` the set is judged first; if that names an
    override, the set is the overridden one, and bounds and rules are its own. Raises InvalidInput for an unknown kind,
    Refused when the labels are too few, a guardrail refuses, or the coverage floors do not fit the budget: what is in
    force then stays in force.
    """
    check_kind(kind)
    head = log.head(conn)
    bound = head.position if up_to_position is None else up_to_position
    cutoff = int(head.recorded_at.timestamp() * 1000) if label_cutoff_ms is None else label_cutoff_ms
    schema = dataset.schema_for(conn, bound, after_position)
    recipe = Recipe(bound, cutoff, after_position, rules, tuple(withheld), schema)
    if guarding is not None and guarding.overridden is not None:
        recipe = guardrails.overridden_recipe(conn, guarding.overridden)
    material = prepare(conn, recipe)
    entry = record_set(conn, material, actor=actor, reason=reason)
    verdict = judge_set(conn, material, entry, guarding, actor=actor, reason=reason) if guarding else None
    trained = TRAINERS[kind](material.train)
    chosen = replace(config, slice_purchases_min=slice_purchases_min)
    scores, found = calibrated(trained, material.calibrate, fpr_max, chosen)
    metrics = evaluate.metrics(
        scores, material.calibrate.human, material.calibrate.purchased, found.metadata["fpr_max"]
    )
    version = register(conn, trained, entry, verdict, actor=actor, reason=reason, told={"metrics": metrics})
    version_of = deployments.set_calibration(conn, version, found.thresholds, found.metadata, actor, reason)
    built = material.made.dataset
    return Learned(version, version_of, metrics, len(built), int(built.purchased.sum()), too_little(verdict, found))


def check_kind(kind: str) -> None:
    """Raise InvalidInput for a kind of model that nobody can train."""
    if kind not in TRAINERS:
        raise errors.InvalidInput(f"kind: expected one of {sorted(TRAINERS)}, got {kind!r}")


def recipe_as_of(
    conn: database.Connection, as_of_ms: int, rules: LabelRules = labels.DAILY, days: int | None = None
) -> Recipe:
    """The set as it would have been made at a moment: what was recorded by then, labels cut off then.

    Of `days` mature days, by when clicks were recorded; None: of all there are. Raises InvalidInput for a moment that
    has not come, or before the ledger began.
    """
    moment = datetime.fromtimestamp(as_of_ms / 1000, UTC)
    if moment > datetime.now(UTC):
        raise errors.InvalidInput(f"as of {time_text(as_of_ms)}: expected a time that has passed")
    bound = log.position_at(conn, moment)
    if not bound:
        began = time_text(log.entry(conn, 1).recorded_at_ms)
        raise errors.InvalidInput(f"as of {time_text(as_of_ms)}: expected a time after {began}, when the ledger began")
    first = moment - timedelta(milliseconds=rules.maturity_ms, days=days or 0)
    after = log.position_at(conn, first) if days else 0
    return Recipe(bound, as_of_ms, after, rules, feature_schema=dataset.schema_for(conn, bound, after))


def prepare(conn: database.Connection, recipe: Recipe) -> Material:
    """The set of a recipe, in its parts. Raises Refused when it has too few labels to learn from."""
    made = dataset.gather(conn, recipe)
    train, calibrate = split(made.dataset)
    for name, part in (("training", train), ("calibration", calibrate)):
        if not part.purchased.any():
            raise errors.Refused(_too_little(name, len(part), recipe))
    weights = training.sample_weights(made.dataset.features, made.dataset.human, training.DEFAULT_CONFIG.weight_cap)
    return Material(recipe, made, train, calibrate, weights)


def record_set(
    conn: database.Connection, material: Material, *, actor: str, reason: str, told: Mapping[str, Any] | None = None
) -> log.Entry:
    """The entry `dataset_built` of a set; `told` goes into its payload as well."""
    built, weights = material.made.dataset, material.weights
    return dataset.record_built(
        conn, built, material.recipe, actor=actor, reason=reason, weights=weights, cold=material.made.cold, told=told
    )


def judge_set(
    conn: database.Connection, material: Material, built: log.Entry, guarding: Guarding, *, actor: str, reason: str
) -> log.Entry:
    """Let guardrails judge a set: the entry `guardrails_passed`. Raises Refused, after its entry, when one refuses."""
    evidence = guardrails.gather(conn, material.recipe, material.made, material.weights)
    findings = guardrails.check_dataset(evidence, guarding.limits)
    return guardrails.enforce(conn, findings, built, actor=actor, reason=reason, guarding=guarding)


def calibrated(
    trained: models_.Model,
    part: Dataset,
    fpr_max: float | None,
    config: allocation.CalibrationConfig,
    beside: Beside | None = None,
) -> tuple[judged.Scores, calibration.Calibration]:
    """A model's scores of clicks it was not trained on, and the thresholds they give, `beside` a pair in force.

    Raises Refused, see above.
    """
    scores = trained.score(part.features)
    hot = judged.hot(part.features, config.session_clicks_max)
    clicks = judged.Judged(scores, part.purchased, hot, part.slice, part.event_time_ms)
    return scores, calibration.of_clicks(clicks, fpr_max, config, beside.of(part) if beside else None)


def register(
    conn: database.Connection,
    trained: models_.Model,
    built: log.Entry,
    verdict: log.Entry | None,
    *,
    actor: str,
    reason: str,
    told: Mapping[str, Any],
) -> int:
    """Keep a trained model, with what it was made from: its version."""
    made_from = {"dataset_position": built.position, "guardrails_position": verdict and verdict.position, **told}
    metadata = {**trained.metadata, **made_from}
    return deployments.register_model(conn, models_.to_artefact(trained), trained.kind, metadata, actor, reason)


def too_little(verdict: log.Entry | None, found: calibration.Calibration) -> tuple[str, ...]:
    """What guards could not judge for want of history or numbers, and what a calibration could not promise."""
    findings = verdict.payload["findings"] if verdict else []
    missed = [f"{each['guard']}: {each['note']}" for each in findings if each["figure"] is None]
    budget = found.metadata["allocation"].get("budget", {})
    if budget.get("fpr_within") == 0:
        missed.append(
            f"calibration: {budget['purchases']} clicks with outcomes are too few for a budget of "
            f"{budget['fpr_max']:g}, so none of them may be lost"
        )
    return tuple(missed)


def split(built: Dataset, calibration_share: float = CALIBRATION_SHARE) -> tuple[Dataset, Dataset]:
    """The part to train on and the later part to calibrate on, by event time."""
    order = np.argsort(built.event_time_ms, kind="stable")
    boundary = int(len(order) * (1 - calibration_share))
    earlier = np.zeros(len(order), dtype=np.bool_)
    earlier[order[:boundary]] = True
    return built.where(earlier), built.where(~earlier)


def _too_little(name: str, clicks: int, recipe: Recipe) -> str:
    """Why a part cannot be learnt from; clicks that are too young are the usual reason."""
    wanted = f"{name} part of {clicks} clicks: expected clicks that led to an outcome, got none"
    if not recipe.rules.maturity_ms:
        return wanted
    hours = recipe.rules.maturity_ms // labels.HOUR_MS
    return (
        f"{wanted}; too little data as of {time_text(recipe.label_cutoff_ms)}: only clicks from before "
        f"{time_text(recipe.end_ms)}, {hours} h earlier, are used"
    )
