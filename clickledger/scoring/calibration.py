"""From scores to thresholds: as many clicks invalidated as a budget of wrongly invalidated purchases allows.

Invariants, on the clicks a calibration was made with:
- over all of them FPR (invalidated purchasing clicks / purchasing clicks) is at most the budget: purchases are counted
  in whole numbers and ties with the last one allowed stay valid;
- every threshold is a finite float32 value, so that what is stored compares as what was computed;
- the order of the clicks has no influence, and no outcome of a solver can invalidate everything.

How: slices with few purchases are merged (`slice_groups`), the budget is divided between the groups by a convex
programme in two forms (`convex`, `allocation`), both compete with one global threshold on held-out later clicks
(`contest`), and the winner is made again from all clicks. Beside a pair in force no slice moves by more than a step
(`anchoring`). All that was decided, and why, is in the metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput, InvariantBroken, Refused
from clickledger.scoring import allocation, anchoring, contest, convex, curves, decide, slice_groups
from clickledger.scoring.allocation import DEFAULT_CONFIG, Allocation, CalibrationConfig, Groups
from clickledger.scoring.anchoring import InForce
from clickledger.scoring.judged import Flags, Judged, Scores

SLICE_PURCHASES_MIN = DEFAULT_CONFIG.slice_purchases_min


@dataclass(frozen=True)
class Calibration:
    """Thresholds by slice, "*" among them, and what was decided about them and why (JSON values)."""

    thresholds: dict[str, float]
    metadata: dict[str, Any]


def calibrate(
    scores: Scores,
    purchased: Flags,
    slices: Sequence[str],
    fpr_max: float | None,
    slice_purchases_min: int = SLICE_PURCHASES_MIN,
    *,
    hot: Flags | None = None,
    event_time_ms: npt.NDArray[np.int64] | None = None,
    config: CalibrationConfig = DEFAULT_CONFIG,
) -> Calibration:
    """Thresholds for a model from its scores (n,) of clicks, which of them purchased (n,), and their slices.

    `hot` flags clicks of crowded sessions (n,), see `judged.hot`: without them no slice has a floor of coverage.
    Without times no fold can be held out, so there is no contest and the global threshold ships. `fpr_max` None is the
    FPR at the knee of the curve of all clicks. Take clicks later than those the model was trained on.
    Raises InvalidInput for columns that do not fit or a budget outside [0, 1), Refused when no click purchased or the
    coverage floors cannot be had within the budget.
    """
    slice_of = np.asarray(slices, dtype=np.str_)
    flags = np.zeros(len(scores), dtype=np.bool_) if hot is None else hot
    times = np.zeros(len(scores), dtype=np.int64) if event_time_ms is None else event_time_ms
    clicks = Judged(scores, purchased, flags, slice_of, times)
    return of_clicks(clicks, fpr_max, replace(config, slice_purchases_min=slice_purchases_min))


def of_clicks(
    clicks: Judged,
    fpr_max: float | None,
    config: CalibrationConfig = DEFAULT_CONFIG,
    in_force: InForce | None = None,
) -> Calibration:
    """`calibrate`, for clicks in one piece; with what is `in_force`, no slice moves further from it than a step."""
    knee = curves.knee(curves.curve(clicks))
    share = knee.fpr if fpr_max is None else fpr_max
    if not 0.0 <= share < 1.0:
        raise InvalidInput(f"fpr_max: expected a share from 0 to below 1, got {share}")
    groups = groups_of(clicks, config)
    held = contest.hold(clicks, groups, share, config)
    made, winner, why = _made(clicks, groups, share, held, config)
    if in_force is not None:
        made = anchoring.near(clicks, made, in_force, share, config)
    _check(clicks, made, share)
    told = rates(clicks.score, clicks.purchased, clicks.slice.tolist(), made.thresholds)
    return Calibration(
        made.thresholds,
        {
            "fpr_max": share,
            "fpr_max_from": "knee" if fpr_max is None else "given",
            "form": winner,
            "why": why,
            "config": asdict(config),
            "knee": asdict(knee),
            "merged": {name: list(own) for name, own in groups.items() if list(own) != [name]},
            "contest": held.metadata,
            "allocation": made.metadata,
            "slices": told,
        },
    )


def groups_of(clicks: Judged, config: CalibrationConfig = DEFAULT_CONFIG) -> Groups:
    """Which slices share a threshold, by their purchases among these clicks."""
    names, index = np.unique(clicks.slice, return_inverse=True)
    purchases = np.bincount(index, weights=clicks.purchased, minlength=len(names)).astype(np.int64)
    counted = dict(zip(names.tolist(), purchases.tolist(), strict=True))
    return slice_groups.groups(counted, config.slice_purchases_min)


def threshold_within(scores: Scores, purchased: Flags, fpr_max: float) -> float:
    """The lowest threshold that invalidates at most a share `fpr_max` of the purchasing clicks; some must be there."""
    purchases = scores[purchased]
    keep = len(purchases) - 1 - int(Fraction(fpr_max) * len(purchases))
    highest_valid = np.partition(purchases, keep)[keep]
    return float(np.nextafter(highest_valid, np.float32(np.inf)))


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


def _made(
    clicks: Judged, groups: Groups, fpr_max: float, held: contest.Outcome, config: CalibrationConfig
) -> tuple[Allocation, str, str]:
    """The winner's thresholds from all clicks. Raises Refused when the floors break even the budget without margin."""
    within = allocation.budget(fpr_max, clicks.purchases, config.overshoot_z)
    if len(groups) > 1:
        allocation.check_floors(clicks, groups, allocation.budget(fpr_max, clicks.purchases, 0.0), config)
    for form in convex.FORMS:
        if held.winner == form:
            try:
                return allocation.by_slice(clicks, groups, within, form, config), form, held.why
            except Refused as error:
                return allocation.everywhere(clicks, within, config), contest.GLOBAL, f"{form} won but: {error}"
    return allocation.everywhere(clicks, within, config), contest.GLOBAL, held.why


def _check(clicks: Judged, made: Allocation, fpr_max: float) -> None:
    """The promise, counted again from the thresholds themselves."""
    wrongly = int(np.count_nonzero(clicks.invalid(made.thresholds) & clicks.purchased))
    if wrongly > Fraction(fpr_max) * clicks.purchases:
        raise InvariantBroken(
            f"calibration: expected at most {fpr_max:g} of {clicks.purchases} purchases lost, got {wrongly}"
        )


def _rates(invalid: Flags, purchased: Flags) -> dict[str, float | int | None]:
    return {
        "clicks": len(invalid),
        "purchases": int(np.count_nonzero(purchased)),
        "ivr": curves.invalidation_rate(invalid),
        "fpr": curves.share_of(invalid, purchased),
    }
