"""A model against what else could be learnt from its set: the regression, and the same recipe with another seed.

Both are trained on the very part that the model was trained on, made again from its entry and compared by digest. A
model of which that cannot be done is refused: nobody can say where it came from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from clickledger.errors import ClickledgerError, VerificationFailed
from clickledger.ledger import database, deployments
from clickledger.scoring import calibration, dataset, guards_of_behaviour, learn, training
from clickledger.scoring import findings as guards
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.findings import AT_LEAST, AT_MOST, Finding, Limits
from clickledger.scoring.model import Model
from clickledger.scoring.recent_clicks import RecentClicks

REGRESSION, VELOCITY = "logistic_regression", "velocity"
TRAINERS = {
    "network": training.train_network,
    "deep_cross": training.train_deep_cross,
    REGRESSION: training.train_logistic_regression,
}


class Parts(NamedTuple):
    """The part of its set that a model was trained on, and the rest, later."""

    train: Dataset
    later: Dataset


def findings(
    conn: database.Connection,
    pair: tuple[int, int],
    challenger: Model,
    clicks: RecentClicks,
    limits: Limits,
    tell: Callable[[str], None],
) -> list[Finding]:
    """What the guards `baseline` and `seeds` say of a registered model."""
    try:
        tell("making its training set again")
        parts = parts_of(conn, pair[0], challenger)
    except ClickledgerError as error:
        return [
            _refused("baseline", 0.0, AT_LEAST, error),
            _refused("seeds", limits.seed_disagreement_max, AT_MOST, error),
        ]
    fpr = deployments.calibration_entry(conn, *pair).payload["metadata"].get("fpr_max", learn.FPR_MAX)
    return [
        baseline(challenger, parts, clicks, limits, tell),
        seeds(challenger, parts, clicks, float(fpr), limits, tell),
    ]


def parts_of(conn: database.Connection, model_version: int, challenger: Model) -> Parts:
    """The parts of a model's set. Raises VerificationFailed naming what cannot be made again."""
    stated: dict[str, Any] = deployments.registration(conn, model_version).payload["metadata"]
    position = stated.get("dataset_position")
    if position is None:
        raise VerificationFailed(f"model {model_version}: expected the data set it is made from, its entry names none")
    built = dataset.rebuild(conn, position)
    trained = challenger.metadata.get("dataset")
    by_share = Parts(*learn.split(built))
    if trained is None:  # a rule learns nothing from its set
        return by_share
    early = built.event_time_ms <= trained["to_ms"]
    for parts in (by_share, Parts(built.where(early), built.where(~early))):
        if parts.train.digest() == trained["digest"]:
            return parts
    raise VerificationFailed(f"model {model_version}: no part of the set of entry {position} is what it was trained on")


def baseline(
    challenger: Model, parts: Parts, clicks: RecentClicks, limits: Limits, tell: Callable[[str], None]
) -> Finding:
    """`guards_of_behaviour.baseline` against a regression trained here."""
    if challenger.kind == REGRESSION:
        note = "it is the baseline"
        return guards.unjudged("baseline", 0.0, AT_LEAST, "AUC over its own", note)
    tell(f"training a logistic regression on {len(parts.train):,} clicks")
    regression = training.train_logistic_regression(parts.train)
    scores = challenger.score(clicks.features), regression.score(clicks.features)
    return guards_of_behaviour.baseline(*scores, clicks.purchased, clicks.user, limits)


def seeds(
    challenger: Model, parts: Parts, clicks: RecentClicks, fpr: float, limits: Limits, tell: Callable[[str], None]
) -> Finding:
    """`guards_of_behaviour.seeds`: the same recipe with the next seed, both cut by one threshold at the same FPR.

    Not by slices: which form of calibration wins is another draw of lots, and `slice_ivr` looks at what ships.
    """
    limit, what = limits.seed_disagreement_max, "share of verdicts on which two seeds disagree"
    if challenger.kind == VELOCITY:
        return guards.unjudged("seeds", limit, AT_MOST, what, "a rule has no seed")
    if not parts.later.purchased.any():
        return guards.unjudged("seeds", limit, AT_MOST, what, "no purchase to set a threshold by")
    tell(f"training the same recipe with another seed on {len(parts.train):,} clicks")
    twin = again(challenger, parts.train)
    verdicts = []
    for one in (challenger, twin):
        threshold = calibration.threshold_within(one.score(parts.later.features), parts.later.purchased, fpr)
        verdicts.append(one.score(clicks.features) >= np.float32(threshold))
    return guards_of_behaviour.seeds(verdicts[0], verdicts[1], limits)


def again(challenger: Model, train: Dataset) -> Model:
    """The recipe that an artefact states, with the next seed. Raises VerificationFailed where it states none."""
    try:
        stated = challenger.metadata["config"]
        config = replace(training.TrainingConfig(**stated), hidden=tuple(stated["hidden"]))
        seed = int(challenger.metadata["seed"]) + 1
    except (KeyError, TypeError, ValueError) as error:
        raise VerificationFailed(
            f"{challenger.kind}: expected seed and configuration in the artefact: {error!r}"
        ) from error
    return TRAINERS[challenger.kind](train, config, seed)


def _refused(guard: str, limit: float, relation: str, error: ClickledgerError) -> Finding:
    return Finding(guard, False, None, limit, relation, "a second training on its set", str(error))
