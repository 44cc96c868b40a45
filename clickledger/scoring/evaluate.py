"""How well a model separates: AUC, invalidation rate at a false positive rate, rates by slice.

Purchases stand for humans (SLIDR row 4), so FPR here is that of purchasing clicks, not a share of all humans lost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput
from clickledger.scoring import calibration


def auc(scores: npt.NDArray[np.float32], robotic: npt.NDArray[np.bool_]) -> float:
    """The chance that a robotic click scores above another one, ties counted half (Mann-Whitney). Both must occur."""
    robots = int(np.count_nonzero(robotic))
    others = len(robotic) - robots
    if not robots or not others:
        raise InvalidInput(f"auc: expected clicks of both kinds, got {robots} robotic and {others} others")
    _, index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(counts) - (counts - 1) / 2.0
    return float((middle_rank[index[robotic]].sum() - robots * (robots + 1) / 2.0) / (robots * others))


def ivr_at_fpr(scores: npt.NDArray[np.float32], purchased: npt.NDArray[np.bool_], fpr: float) -> float:
    """Share of clicks invalidated by the one threshold that invalidates at most `fpr` of the purchasing clicks."""
    threshold = np.float32(calibration.threshold_within(scores, purchased, fpr))
    return float(np.mean(scores >= threshold))


def metrics(
    scores: npt.NDArray[np.float32], human: npt.NDArray[np.bool_], purchased: npt.NDArray[np.bool_], fpr: float = 0.01
) -> dict[str, Any]:
    """What an artefact says of itself, JSON values: AUC against weak labels, IVR at `fpr`; None where undefined."""
    both = bool(human.any() and not human.all())
    return {
        "rows": len(human),
        "auc": auc(scores, ~human) if both else None,
        "fpr": fpr,
        "ivr_at_fpr": ivr_at_fpr(scores, purchased, fpr) if purchased.any() else None,
    }
