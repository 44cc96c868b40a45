"""Intervals by bootstrap: how far AUC and IVR at an FPR would move with other users.

Invariants:
- whole users are drawn, with all their clicks (the cluster bootstrap; Davison and Hinkley, Bootstrap Methods and their
  Application, 1997, section 3.8; for ROC areas of clustered data Obuchowski, Biometrics 53, 1997). The clicks of a user
  share counters and label: drawn one by one they would pass for independent and the interval would be too narrow.
  What users of one address share is not covered;
- all models are judged on the same draws, so their differences have intervals of their own, far narrower than those of
  the figures: what is common to all of them, the few purchases, cancels out;
- the figure of a draw is the one `evaluate` would give for its clicks, each as often as it was drawn.

Intervals are the percentile ones (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput

CONFIDENCE = 0.95
DRAWS = 1000

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Ranking:
    """The clicks of a test in the order of one model's scores (n,), from the most robotic down; ties are one step."""

    def __init__(self, scores: npt.NDArray[np.float32], purchased: Flags) -> None:
        steps, index = np.unique(-scores, return_inverse=True)
        self.step = index  # (n,) of each click
        self.steps = len(steps)
        self._purchases = np.flatnonzero(purchased)
        self._purchase_step = index[self._purchases]

    def auc(self, weight: Floats) -> float:
        """The chance that a click without outcome scores above one with it, ties counted half; clicks weigh (n,)."""
        clicks, bought = self._clicks(weight), self._bought(weight)
        others, below = clicks - bought, bought.sum() - np.cumsum(bought)
        return float((others * (below + bought / 2.0)).sum() / (others.sum() * bought.sum()))

    def cut(self, weight: Floats, fpr: float) -> int:
        """How many steps may be invalidated when at most a share `fpr` of the purchasing clicks is."""
        bought = np.cumsum(self._bought(weight))
        allowed = int(Fraction(fpr) * round(bought[-1]))
        return int(np.searchsorted(bought, allowed, side="right"))

    def ivr(self, weight: Floats, cut: int) -> float:
        """Share of the clicks in the first `cut` steps."""
        clicks = self._clicks(weight)
        return float(clicks[:cut].sum() / clicks.sum())

    def _clicks(self, weight: Floats) -> Floats:
        return np.asarray(np.bincount(self.step, weight, minlength=self.steps), dtype=np.float64)

    def _bought(self, weight: Floats) -> Floats:
        bought = np.bincount(self._purchase_step, weight[self._purchases], minlength=self.steps)
        return np.asarray(bought, dtype=np.float64)


def draws(user: npt.NDArray[np.int64], purchased: Flags, count: int, seed: int) -> Iterator[Floats]:
    """Draw as many users as there are, with replacement, `count` times: yields how often each click is in (n,).

    A draw without clicks of both kinds has no figure and is made again. Raises InvalidInput where none could have them.
    """
    if purchased.all() or not purchased.any():
        raise InvalidInput(f"test part: expected clicks with and without outcome, got {purchased.sum()} with one")
    random = np.random.default_rng(seed)
    _, index = np.unique(user, return_inverse=True)
    users = int(index.max()) + 1
    made = 0
    while made < count:
        weight = np.bincount(random.integers(0, users, users), minlength=users)[index].astype(np.float64)
        bought = weight[purchased].sum()
        if 0 < bought < weight.sum():
            made += 1
            yield weight


def interval(values: npt.ArrayLike, confidence: float = CONFIDENCE) -> list[float]:
    """The middle share `confidence` of drawn values: lowest and highest."""
    tail = (1.0 - confidence) / 2.0
    return [float(bound) for bound in np.quantile(np.asarray(values), [tail, 1.0 - tail])]
