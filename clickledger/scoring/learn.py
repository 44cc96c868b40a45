"""From the ledger to a registered, calibrated model: data set, training, calibration, evaluation, each an entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

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
)
from clickledger.scoring import model as models_
from clickledger.scoring.dataset import Dataset, Stretch
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
    "velocity": lambda _: training.velocity_model(),
}


@dataclass(frozen=True, slots=True)
class Learned:
    """A registered model with its calibration and what they did on the calibration part."""

    model_version: int
    calibration_version: int
    metrics: dict[str, Any]
    rows: int
    purchases: int


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
    if kind not in TRAINERS:
        raise errors.InvalidInput(f"kind: expected one of {sorted(TRAINERS)}, got {kind!r}")
    head = log.head(conn)
    bound = head.position if up_to_position is None else up_to_position
    cutoff = int(head.recorded_at.timestamp() * 1000) if label_cutoff_ms is None else label_cutoff_ms
    recipe = Recipe(bound, cutoff, after_position, rules, tuple(withheld))
    if guarding is not None and guarding.overridden is not None:
        recipe = guardrails.overridden_recipe(conn, guarding.overridden)
    made = dataset.gather(conn, recipe)
    built = made.dataset
    train, calibrate = split(built)
    _check_labels(train, calibrate)
    weights = training.sample_weights(built.features, built.human, training.DEFAULT_CONFIG.weight_cap)
    entry = dataset.record_built(conn, built, recipe, actor=actor, reason=reason, weights=weights, cold=made.cold)
    verdict: log.Entry | None = None
    if guarding is not None:
        findings = guardrails.check_dataset(guardrails.gather(conn, recipe, made, weights), guarding.limits)
        verdict = guardrails.enforce(conn, findings, entry, actor=actor, reason=reason, guarding=guarding)
    trained = TRAINERS[kind](train)
    scores = trained.score(calibrate.features)
    chosen = replace(config, slice_purchases_min=slice_purchases_min)
    found = calibration.of_clicks(_judged(calibrate, scores, chosen), fpr_max, chosen)
    metrics = evaluate.metrics(scores, calibrate.human, calibrate.purchased, found.metadata["fpr_max"])
    made_from = {
        "dataset_position": entry.position,
        "metrics": metrics,
        "guardrails_position": verdict and verdict.position,
    }
    version = deployments.register_model(
        conn, models_.to_artefact(trained), trained.kind, {**trained.metadata, **made_from}, actor, reason
    )
    calibrated = deployments.set_calibration(conn, version, found.thresholds, found.metadata, actor, reason)
    return Learned(version, calibrated, metrics, len(built), int(built.purchased.sum()))


def split(built: Dataset, calibration_share: float = CALIBRATION_SHARE) -> tuple[Dataset, Dataset]:
    """The part to train on and the later part to calibrate on, by event time."""
    order = np.argsort(built.event_time_ms, kind="stable")
    boundary = int(len(order) * (1 - calibration_share))
    earlier = np.zeros(len(order), dtype=np.bool_)
    earlier[order[:boundary]] = True
    return built.where(earlier), built.where(~earlier)


def _judged(part: Dataset, scores: judged.Scores, config: allocation.CalibrationConfig) -> judged.Judged:
    hot = judged.hot(part.features, config.session_clicks_max)
    return judged.Judged(scores, part.purchased, hot, part.slice, part.event_time_ms)


def _check_labels(train: Dataset, calibrate: Dataset) -> None:
    for name, part in (("training", train), ("calibration", calibrate)):
        if not part.purchased.any():
            raise errors.Refused(f"{name} part of {len(part)} clicks: expected clicks that led to an outcome, got none")
