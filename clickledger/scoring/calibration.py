"""From scores to thresholds: as many clicks invalidated as a budget of wrongly invalidated purchases allows.

Invariants, on the clicks a calibration was made with:
- over all of them and within every slice with a threshold of its own, FPR (invalidated purchasing clicks / purchasing
  clicks) is at most the budget: purchases are counted in whole numbers and ties with the last one allowed stay valid;
- every threshold is a finite float32 value, so that what is stored compares as what was computed.

Slices with too few purchases share the threshold of "*", which unknown slices get as well: the global one, or a
stricter one where the budget left over by the slices with their own would not cover these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput, Refused
from clickledger.scoring import decide

SLICE_PURCHASES_MIN = 300  # at a budget of 1% three purchases: below, a threshold would rest on one or two clicks

Scores = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Calibration:
    """Thresholds by slice, "*" among them, and what they did on the clicks they were made with (JSON values)."""

    thresholds: dict[str, float]
    metadata: dict[str, Any]


def calibrate(
    scores: Scores,
    purchased: Flags,
    slices: Sequence[str],
    fpr_max: float,
    slice_purchases_min: int = SLICE_PURCHASES_MIN,
) -> Calibration:
    """Thresholds for a model from its scores (n,) of clicks, which of them purchased (n,), and their slices.

    Raises InvalidInput for columns that do not fit or a budget outside [0, 1), Refused when no click purchased.
    """
    slice_of = np.asarray(slices, dtype=np.str_)
    _check(scores, purchased, slice_of, fpr_max)
    own = [str(s) for s in np.unique(slice_of) if purchased[slice_of == s].sum() >= max(slice_purchases_min, 1)]
    thresholds = {s: threshold_within(scores[slice_of == s], purchased[slice_of == s], fpr_max) for s in own}
    thresholds[decide.ANY_SLICE] = _fallback(scores, purchased, slice_of, own, fpr_max)
    metadata = {
        "fpr_max": fpr_max,
        "slice_purchases_min": slice_purchases_min,
        "merged": sorted(set(slice_of.tolist()) - set(own)),
        "slices": rates(scores, purchased, slice_of.tolist(), thresholds),
    }
    return Calibration(thresholds, metadata)


def threshold_within(scores: Scores, purchased: Flags, fpr_max: float) -> float:
    """The lowest threshold that invalidates at most a share `fpr_max` of the purchasing clicks; some must be there."""
    return _threshold(scores[purchased], _allowed(fpr_max, purchased))


def rates(
    scores: Scores, purchased: Flags, slices: Sequence[str], thresholds: Mapping[str, float]
) -> dict[str, dict[str, float | int | None]]:
    """What thresholds do to clicks, by slice and, as "*", over all: clicks, purchases, IVR, FPR.

    IVR = invalidated clicks / clicks; FPR = invalidated purchasing clicks / purchasing clicks, None without any.
    """
    slice_of = np.asarray(slices, dtype=np.str_)
    names, index = np.unique(slice_of, return_inverse=True)
    limits = np.array([decide.threshold_of(thresholds, str(name)) for name in names], dtype=np.float32)
    invalid = scores >= limits[index]
    by_slice = {str(name): _rates(invalid[index == i], purchased[index == i]) for i, name in enumerate(names)}
    return {decide.ANY_SLICE: _rates(invalid, purchased), **by_slice}


def _fallback(
    scores: Scores, purchased: Flags, slice_of: npt.NDArray[np.str_], own: list[str], fpr_max: float
) -> float:
    """The global threshold, or a stricter one for the merged slices if their part of the whole budget asks for it."""
    everywhere = threshold_within(scores, purchased, fpr_max)
    merged = ~np.isin(slice_of, own)
    if not own or not purchased[merged].any():
        return everywhere
    spent = sum(_allowed(fpr_max, purchased[slice_of == s]) for s in own)
    left = _allowed(fpr_max, purchased) - spent
    return max(everywhere, _threshold(scores[merged & purchased], left))


def _threshold(purchase_scores: Scores, allowed: int) -> float:
    """Just above the highest score that must stay valid when `allowed` purchases may be invalidated."""
    if allowed >= len(purchase_scores):
        return -np.inf
    keep = len(purchase_scores) - 1 - allowed
    highest_valid = np.partition(purchase_scores, keep)[keep]
    return float(np.nextafter(highest_valid, np.float32(np.inf)))


def _allowed(fpr_max: float, purchased: Flags) -> int:
    """Whole purchases within the budget; as a fraction, since in floats the parts can come to more than the whole."""
    return int(Fraction(fpr_max) * int(np.count_nonzero(purchased)))


def _rates(invalid: Flags, purchased: Flags) -> dict[str, float | int | None]:
    clicks, purchases = len(invalid), int(np.count_nonzero(purchased))
    wrongly = int(np.count_nonzero(invalid & purchased))
    return {
        "clicks": clicks,
        "purchases": purchases,
        "ivr": float(np.count_nonzero(invalid) / clicks) if clicks else 0.0,
        "fpr": wrongly / purchases if purchases else None,
    }


def _check(scores: Scores, purchased: Flags, slice_of: npt.NDArray[np.str_], fpr_max: float) -> None:
    if not 0.0 <= fpr_max < 1.0:
        raise InvalidInput(f"fpr_max: expected a share from 0 to below 1, got {fpr_max}")
    if scores.dtype != np.float32 or not np.isfinite(scores).all():
        raise InvalidInput(f"scores: expected finite float32, got {scores.dtype}")
    if scores.shape != purchased.shape or scores.shape != slice_of.shape:
        raise InvalidInput(f"expected columns of {scores.shape}, got {purchased.shape} and {slice_of.shape}")
    if not purchased.any():
        raise Refused(f"no purchase among {len(scores)} clicks: expected at least one to calibrate on")
