"""What calibration by slice changes: thresholds made on the earlier half of a test part, judged on the later half.

Three sets of thresholds for one model: one for all clicks at the budget, which is what there is before any
calibration; what a calibration ships; and, since the two realise different FPRs, one for all clicks that loses exactly
as many of the later purchases as the calibration does. The last two differ only in how the loss is divided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clickledger.errors import Refused
from clickledger.scoring import allocation, calibration, curves, judged, realised
from clickledger.scoring.curves import Curve
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.judged import Flags, Judged
from clickledger.scoring.model import Model

GLOBAL, EQUAL, SHIPPED = "global", "global_at_equal_fpr", "by_slice"
LATER_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Trial:
    """Thresholds by name, the later clicks that judged them, the curve of each part there, and the figures (JSON)."""

    thresholds: dict[str, dict[str, float]]
    later: Judged
    curves: dict[str, Curve]  # by part with purchases
    fields: dict[str, Any]


def judged_of(model: Model, clicks: Dataset) -> Judged:
    """Some clicks with a model's scores."""
    hot = judged.hot(clicks.features)
    return Judged(model.score(clicks.features), clicks.purchased, hot, clicks.slice, clicks.event_time_ms)


def hold(clicks: Judged, fpr_max: float, robot: Flags | None = None) -> Trial:
    """Calibrate and judge. `robot` (n,) is the truth where it is known; nothing is made from it.

    Raises Refused where a half has no purchase, or a calibration is refused.
    """
    earlier, later = clicks.split(LATER_SHARE)
    if not earlier.purchases or not later.purchases:
        raise Refused(f"calibration: expected purchases in both halves, got {earlier.purchases} and {later.purchases}")
    truth = None if robot is None else robot[clicks.event_time_ms >= later.event_time_ms.min()]
    made = calibration.of_clicks(earlier, fpr_max, allocation.DEFAULT_CONFIG)
    lost = int(np.count_nonzero(later.invalid(made.thresholds) & later.purchased))
    thresholds = {
        GLOBAL: {"*": calibration.threshold_within(earlier.score, earlier.purchased, fpr_max)},
        EQUAL: {"*": curves.curve(later).threshold_at(min(lost, later.purchases - 1))},
        SHIPPED: made.thresholds,
    }
    told = {name: realised.figures(later, own, truth) for name, own in thresholds.items()}
    of_parts = {name: later.where(rows) for name, rows in realised.parts(later).items()}
    drawn = {name: curves.curve(part) for name, part in of_parts.items() if part.purchases}
    fields = {
        "fpr_max": fpr_max,
        "form": made.metadata["form"],
        "why": made.metadata["why"],
        "merged": made.metadata["merged"],
        "calibrated_on": _counts(earlier),
        "judged_on": _counts(later),
        "confidence": realised.CONFIDENCE,
        "thresholds": thresholds,
        "figures": told,
        "worst": {name: realised.worst(own) for name, own in told.items()},
        "knees": {name: curves.knee(curve).__dict__ for name, curve in drawn.items()},
    }
    return Trial(thresholds, later, drawn, fields)


def _counts(clicks: Judged) -> dict[str, int]:
    times = clicks.event_time_ms
    return {
        "clicks": len(clicks),
        "purchases": clicks.purchases,
        "from_ms": int(times.min()),
        "to_ms": int(times.max()),
    }
