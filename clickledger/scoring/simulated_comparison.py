"""The comparison on simulated traffic, where the truth is known: what share of the robots each model catches, by kind.

Invariants:
- the truth meets the models here for the first time, after they were made: they are trained and tuned on labels alone;
- all models are judged at the same realised false positive rate: the threshold is the lowest that invalidates at most
  that share of the purchasing clicks of the test part;
- settings are chosen once, on the training part of the first seed, and hold for all of them.

A purchase vouches for few people, and most buyers are logged in: so beside FPR stands the share of all human clicks
that were invalidated, which only a simulation can know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvariantBroken
from clickledger.scoring import (
    evaluate,
    feature_spec,
    intervals,
    model_comparison,
    offline_dataset,
    options,
    simulation,
    tuning,
)
from clickledger.scoring import simulation_truth as truths
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.model import Kind, Model
from clickledger.scoring.options import Part
from clickledger.scoring.pseudonyms import Pseudonyms
from clickledger.scoring.simulation import SimulationConfig

FPR = 0.01
CLICKS = 700_000
DAYS = 10.0
START_MS = 1_759_104_000_000  # Monday 2025-09-29 00:00 UTC
TEST_SHARE = 0.3
PSEUDONYMS = Pseudonyms(bytes(32))  # of clicks that nobody made: a fixed key gives the same features everywhere


Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stage:
    """One run of traffic, cut in time. `kind` of each test click (n,), an index into `simulation_truth.KINDS`."""

    train: Dataset
    test: Dataset
    kind: npt.NDArray[np.int8]
    parts: tuple[Part, Part]  # the same clicks as options see them

    @property
    def robot(self) -> npt.NDArray[np.bool_]:
        """Whether each test click (n,) was made by a robot."""
        return truths.Truth(self.kind).robot


OnRun = Callable[[Stage, Sequence[model_comparison.Entrant]], None]


def config_of(clicks: int = CLICKS, days: float = DAYS, seed: int = 1) -> SimulationConfig:
    """Whole days from a Monday on."""
    return SimulationConfig(clicks=clicks, start_ms=START_MS, duration_hours=24.0 * days, seed=seed)


def stage(config: SimulationConfig, test_share: float = TEST_SHARE) -> Stage:
    """Simulate, count and label."""
    traffic, truth = simulation.simulate(config)
    clicks = traffic.to_clicks(PSEUDONYMS)
    recounted = offline_dataset.recount(clicks, traffic.to_outcomes(clicks))
    if len(recounted.clicks) != len(truth.kind):
        raise InvariantBroken(
            f"simulation: expected {len(truth.kind)} clicks of their own, got {len(recounted.clicks)}"
        )
    train, test, _ = offline_dataset.split_in_time(recounted, test_share, feature_spec.LONGEST_WINDOW_MS)
    return Stage(train, test, truth.kind[-len(test) :], options.parts(recounted.clicks, train, test))


def compete(
    configs: Sequence[SimulationConfig],
    test_share: float = TEST_SHARE,
    fpr: float = FPR,
    listed: Mapping[Kind, Sequence[tuning.Candidate]] | None = None,
    on_fit: tuning.OnFit = lambda: None,
    draws: int = 0,
    on_run: OnRun = lambda _made, _entrants: None,
    with_options: bool = False,
) -> dict[str, Any]:
    """Train every kind on each run and measure it against the truth of its last part. JSON values.

    `on_run` is shown each run with its models; nothing of a run is kept otherwise. `draws` of users make intervals.
    With options, those of the network are compared with it on each run as well (see `options`).
    """
    remaining = dict(listed or tuning.candidates())
    runs: list[dict[str, Any]] = []
    tried: dict[str, list[dict[str, Any]]] = {}
    crossed = tuning.cross_candidates()
    for config in configs:
        made = stage(config, test_share)
        entrants = model_comparison.enter(made.train, remaining, seeds=(config.seed,), on_fit=on_fit)
        tried = tried or {entrant.kind: entrant.choice.tried for entrant in entrants}
        remaining = {entrant.kind: (entrant.choice.candidate,) for entrant in entrants}
        runs.append(_run(config, made, entrants, fpr, draws))
        if with_options:
            plain = tuning.network_config(runs[-1]["models"]["network"]["settings"])
            one = (config.seed,)
            runs[-1]["options"] = options.compare(*made.parts, plain, one, on_fit=on_fit, crossed=crossed)
            crossed = (tuning.cross_candidate(runs[-1]["options"]["options"]["deep_cross"]["settings"]),)
        on_run(made, entrants)
    return {"fpr": fpr, "runs": runs, "tried": tried, "summary": summary(runs)}


def measure(model: Model, made: Stage, fpr: float, draws: int = 0) -> dict[str, Any]:
    """What a model invalidates of each kind of clicker at a realised `fpr`: recall, precision, human clicks lost.

    With `draws`, each share has an interval: users are drawn, and the threshold is set anew each time.
    """
    scores = model.score(made.test.features)
    ranking = intervals.Ranking(scores, made.test.purchased)
    ones = np.ones(len(scores))
    invalid = ranking.step < ranking.cut(ones, fpr)
    told = _shares(made.kind, invalid, ones)
    measured = {
        **told,
        "invalidated_by_kind": truths.Truth(made.kind[invalid]).counts(),
        "ivr": float(invalid.mean()),
        "fpr": float(invalid[made.test.purchased].mean()),
        "auc": ranking.auc(ones),
        "auc_of_truth": evaluate.auc(scores, made.robot),
    }
    if draws:
        drawn = []
        for weight in intervals.draws(made.test.user, made.test.purchased, draws, seed=0):
            drawn.append(_shares(made.kind, ranking.step < ranking.cut(weight, fpr), weight))
        measured["intervals"] = _intervals(drawn)
    return measured


def _shares(kind: npt.NDArray[np.int8], invalid: npt.NDArray[np.bool_], weight: Floats) -> dict[str, Any]:
    """Recall, precision and people lost, clicks weighing (n,); None where there is nothing to take a share of."""
    clicks = np.bincount(kind, weight, minlength=len(truths.KINDS))
    lost = np.bincount(kind, weight * invalid, minlength=len(truths.KINDS))
    human = truths.KINDS.index(truths.HUMAN)
    robots = [code for code in range(len(truths.KINDS)) if code != human]
    return {
        "recall": _share(lost[robots].sum(), clicks[robots].sum()),
        "recall_by_kind": {truths.KINDS[code]: _share(lost[code], clicks[code]) for code in robots},
        "precision": _share(lost[robots].sum(), lost.sum()),
        "people_invalidated": _share(lost[human], clicks[human]),
    }


def _share(part: float, of: float) -> float | None:
    return float(part / of) if of else None


def _intervals(drawn: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The middle of drawn shares, under the names of the shares."""
    names = ("recall", "precision", "people_invalidated")
    kinds = drawn[0]["recall_by_kind"]
    by_kind = {kind: _interval([each["recall_by_kind"][kind] for each in drawn]) for kind in kinds}
    return {**{name: _interval([each[name] for each in drawn]) for name in names}, "recall_by_kind": by_kind}


def _interval(values: Sequence[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return intervals.interval(known) if known else None


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over all runs: the least recall of the network, and its least lead over the regression."""
    network = [run["models"]["network"]["recall"] for run in runs if "network" in run["models"]]
    pairs = [
        run["models"]["network"]["recall"] - run["models"]["logistic_regression"]["recall"]
        for run in runs
        if {"network", "logistic_regression"} <= run["models"].keys()
    ]
    return {"network_recall_min": min(network, default=None), "lead_over_regression_min": min(pairs, default=None)}


def of_seeds(config: SimulationConfig, seeds: int) -> list[SimulationConfig]:
    """The same run with `seeds` seeds, from the one it names on."""
    return [replace(config, seed=config.seed + number) for number in range(seeds)]


def _run(
    config: SimulationConfig, made: Stage, entrants: Sequence[model_comparison.Entrant], fpr: float, draws: int
) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "train": made.train.summary(),
        "test": made.test.summary(),
        "test_kinds": truths.Truth(made.kind).counts(),
        "models": {
            entrant.kind: {
                **measure(entrant.model, made, fpr, draws),
                "settings": dict(entrant.choice.candidate.settings),
                "training": entrant.model.metadata.get("training", {}),
            }
            for entrant in entrants
        },
    }
