"""The IVR-FPR curve of some clicks, exact: what each whole number of wrongly invalidated purchases buys.

Invariants:
- point k invalidates at most k of the m purchases: its threshold lies just above the highest score that must stay
  valid, and purchases tied with that one stay valid too;
- k ends at m - 1: no point of a curve invalidates every purchase, let alone every click;
- thresholds never rise and invalidated clicks never fall from one point to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from clickledger.errors import InvariantBroken, Refused
from clickledger.scoring.judged import Flags, Ints, Judged, Scores

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """m points, one for each whole number of purchases 0..m-1 that may be invalidated."""

    clicks: int
    hot_clicks: int
    threshold: Scores  # (m,)
    wrongly: Ints  # (m,) purchases really invalidated: fewer than allowed where scores tie
    invalidated: Ints  # (m,) clicks
    hot_invalidated: Ints  # (m,) hot clicks

    @property
    def purchases(self) -> int:
        """m, how many purchases the clicks led to."""
        return len(self.threshold)

    @property
    def fpr(self) -> Floats:
        """Share of purchasing clicks invalidated at each point (m,) (SLIDR row 4)."""
        return self.wrongly / self.purchases

    @property
    def ivr(self) -> Floats:
        """Share of clicks invalidated at each point (m,) (SLIDR row 3)."""
        return self.invalidated / self.clicks

    @property
    def coverage(self) -> Floats | None:
        """Robotic coverage at each point (m,): share invalidated of the hot clicks (SLIDR row 5); None without any."""
        return self.hot_invalidated / self.hot_clicks if self.hot_clicks else None

    def threshold_at(self, allowed: int) -> float:
        """The lowest threshold that invalidates at most so many purchases; all of them are never allowed."""
        if not 0 <= allowed < self.purchases:
            raise InvariantBroken(f"curve: expected 0 to {self.purchases - 1} purchases allowed, got {allowed}")
        return float(self.threshold[allowed])


@dataclass(frozen=True)
class Knee:
    """Where a curve bends most."""

    allowed: int  # purchases
    fpr: float
    ivr: float
    threshold: float


def curve(judged: Judged) -> Curve:
    """The curve of some clicks. Raises Refused when none of them purchased."""
    if not judged.purchases:
        raise Refused(f"no purchase among {len(judged)} clicks: expected at least one to calibrate on")
    bought = np.sort(judged.score[judged.purchased])
    threshold = np.nextafter(bought[::-1], np.float32(np.inf))
    return Curve(
        clicks=len(judged),
        hot_clicks=int(np.count_nonzero(judged.hot)),
        threshold=threshold,
        wrongly=_reaching(bought, threshold),
        invalidated=_reaching(np.sort(judged.score), threshold),
        hot_invalidated=_reaching(np.sort(judged.score[judged.hot]), threshold),
    )


def knee(of: Curve) -> Knee:
    """The point farthest above the chord from (FPR 0, IVR 0) to (1, 1); of equals the first.

    Definition: Satopaa, Albrecht, Irwin, Raghavan, "Finding a 'Kneedle' in a Haystack", ICDCS Workshops 2011: on the
    unit square the largest vertical distance from the diagonal, which is where the perpendicular one is largest, too.
    """
    at = int(np.argmax(of.ivr - of.fpr))
    return Knee(at, float(of.fpr[at]), float(of.ivr[at]), float(of.threshold[at]))


def invalidation_rate(invalid: Flags) -> float:
    """IVR of flags (n,); 0 for no clicks."""
    return float(np.count_nonzero(invalid) / len(invalid)) if len(invalid) else 0.0


def share_of(invalid: Flags, among: Flags) -> float | None:
    """Share invalidated among some clicks, both flags (n,): FPR among purchases, coverage among hot ones; or None."""
    total = int(np.count_nonzero(among))
    return int(np.count_nonzero(invalid & among)) / total if total else None


def interval(count: int, of: int, confidence: float) -> tuple[float, float]:
    """Clopper-Pearson interval of a share: where the true one lies with at least that confidence; (0, 1) of none."""
    tail = (1.0 - confidence) / 2
    low = float(beta.ppf(tail, count, of - count + 1)) if count else 0.0
    high = float(beta.ppf(1.0 - tail, count + 1, of - count)) if count < of else 1.0
    return low, high


def _reaching(ascending: Scores, threshold: Scores) -> Ints:
    """How many of the scores, sorted, reach each threshold."""
    below = np.searchsorted(ascending, threshold, side="left")
    return np.asarray(len(ascending) - below, dtype=np.int64)
