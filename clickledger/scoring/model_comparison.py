"""Comparing models: all kinds trained on one part, judged on a later one, with intervals and honest differences.

Invariants:
- nothing of the test part is looked at before the models are made: settings are chosen on the training part alone;
- the figures of a kind are those of the first seed, never of the best one; the other seeds stand beside them;
- thresholds at a false positive rate are read off the test part itself: what a curve says, for all kinds alike. What a
  calibration made earlier would have realised is another question, which `calibration` answers.

In the test part a click is human if it led to an outcome itself; that is what FPR counts, and AUC with it. RFM labels
teach, they do not judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput
from clickledger.scoring import intervals, tuning
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.model import Kind, Model

FPRS = (0.01, 0.02, 0.05)
SEEDS = 3
LABELS = {
    "train": "human: the click led to an outcome, or its account has a high RFM score by the part's own outcomes",
    "test": "human: the click led to an outcome",
}
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Entrant:
    """A kind of model with the settings chosen for it, made once with each seed."""

    kind: Kind
    choice: tuning.Choice
    models: Mapping[int, Model]  # by seed, in the order they were asked for

    @property
    def model(self) -> Model:
        """The one that is judged: of the first seed."""
        return next(iter(self.models.values()))


def enter(
    train: Dataset,
    listed: Mapping[Kind, Sequence[tuning.Candidate]] | None = None,
    seeds: Sequence[int] = tuple(range(SEEDS)),
    on_fit: tuning.OnFit = lambda: None,
) -> list[Entrant]:
    """Choose settings for every kind and train it with each seed. The velocity rule has no seed and is made once."""
    if not seeds:
        raise InvalidInput("seeds: expected at least one, got none")
    entrants = []
    for kind, own in (listed or tuning.candidates()).items():
        choice = tuning.choose(own, train, seeds[0], on_fit=on_fit)
        entrants.append(Entrant(kind, choice, _made(choice.candidate, train, seeds, on_fit)))
    return entrants


def _made(candidate: tuning.Candidate, train: Dataset, seeds: Sequence[int], on_fit: tuning.OnFit) -> dict[int, Model]:
    models = {}
    for seed in seeds if candidate.learns else seeds[:1]:
        models[seed] = candidate.train(train, seed)
        on_fit()
    return models


def judge(
    entrants: Sequence[Entrant],
    test: Dataset,
    draws: int = intervals.DRAWS,
    fprs: Sequence[float] = FPRS,
    seed: int = 0,
    on_draw: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """AUC and IVR at each FPR of every entrant on a test part, with intervals, and their differences. JSON values."""
    scores = {entrant.kind: entrant.model.score(test.features) for entrant in entrants}
    rankings = {kind: intervals.Ranking(own, test.purchased) for kind, own in scores.items()}
    drawn: dict[str, list[Floats]] = {kind: [] for kind in rankings}
    for weight in intervals.draws(test.user, test.purchased, draws, seed):
        for kind, ranking in rankings.items():
            drawn[kind].append(_figures(ranking, weight, fprs))
        on_draw()
    measured = {kind: _figures(ranking, np.ones(len(test)), fprs) for kind, ranking in rankings.items()}
    ranges = {kind: np.stack(rows) for kind, rows in drawn.items()}
    models = {
        entrant.kind: {
            **_told(measured[entrant.kind], ranges[entrant.kind], fprs),
            "threshold_at_fpr": _thresholds(scores[entrant.kind], rankings[entrant.kind], fprs),
            "settings": dict(entrant.choice.candidate.settings),
            "tried": entrant.choice.tried,
            "seeds": [_of_seed(number, model, test, fprs) for number, model in entrant.models.items()],
        }
        for entrant in entrants
    }
    differences = {
        f"{better} - {worse}": _told(measured[better] - measured[worse], ranges[better] - ranges[worse], fprs)
        for better, worse in pairwise(rankings)
    }
    bootstrap = {
        "resampled": "user",
        "users": len(np.unique(test.user)),
        "draws": draws,
        "confidence": intervals.CONFIDENCE,
        "seed": seed,
    }
    return {"models": models, "differences": differences, "bootstrap": bootstrap}


def _figures(ranking: intervals.Ranking, weight: Floats, fprs: Sequence[float]) -> Floats:
    """AUC, then IVR at each FPR."""
    return np.array([ranking.auc(weight), *(ranking.ivr(weight, ranking.cut(weight, fpr)) for fpr in fprs)])


def _told(measured: Floats, drawn: Floats, fprs: Sequence[float]) -> dict[str, Any]:
    """Figures (1 + fprs,) and their draws (draws, 1 + fprs) under the names people and scripts read."""
    bounds = [intervals.interval(column) for column in drawn.T]
    names = [str(fpr) for fpr in fprs]
    return {
        "auc": float(measured[0]),
        "auc_interval": bounds[0],
        "ivr_at_fpr": dict(zip(names, measured[1:].tolist(), strict=True)),
        "ivr_at_fpr_interval": dict(zip(names, bounds[1:], strict=True)),
    }


def _of_seed(seed: int, model: Model, test: Dataset, fprs: Sequence[float]) -> dict[str, Any]:
    ranking = intervals.Ranking(model.score(test.features), test.purchased)
    measured = _figures(ranking, np.ones(len(test)), fprs)
    course = model.metadata.get("training", {})
    ivr = dict(zip(map(str, fprs), measured[1:].tolist(), strict=True))
    return {"seed": seed, "auc": float(measured[0]), "ivr_at_fpr": ivr, "training": course}


def _thresholds(
    scores: npt.NDArray[np.float32], ranking: intervals.Ranking, fprs: Sequence[float]
) -> dict[str, float | None]:
    """The lowest score invalidated at each FPR; None where the budget allows for no step of the ranking."""
    ones = np.ones(len(scores))
    cuts = {str(fpr): ranking.cut(ones, fpr) for fpr in fprs}
    return {fpr: float(scores[ranking.step < cut].min()) if cut else None for fpr, cut in cuts.items()}
