"""From a budget to thresholds: one for all clicks, or one for each group of slices by the convex programme.

Invariants, on the clicks they are made from:
- invalidated purchases are at most the budget's whole number, over all clicks and within each group's bounds;
- every threshold is a finite float32 value, so that what is stored compares as what was computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import sqrt
from typing import Any

import numpy as np

from clickledger.errors import Refused
from clickledger.scoring import convex, curves, decide, judged, slice_groups
from clickledger.scoring.convex import Form
from clickledger.scoring.curves import Curve
from clickledger.scoring.judged import Ints, Judged

Groups = Mapping[str, Sequence[str]]  # slices of each group


@dataclass(frozen=True)
class CalibrationConfig:
    """Choices of a calibration. Shares are of 1; `docs/models.md` says why each is what it is."""

    slice_purchases_min: int = 300  # at a budget of 1% three purchases: below, a threshold rests on one or two clicks
    overshoot_z: float = 1.28  # standard deviations kept from the budget: the 90% quantile
    fpr_slice_max: float = 0.05  # no slice's and no login status's FPR above this (or the budget, if that is larger),
    ceiling_purchases_min: int = 60  # if it has so many purchases: at a budget of 1% three of them
    coverage_min: float = 0.3  # of a slice's hot clicks
    hot_clicks_min: int = 100  # a slice with fewer has shown no robots
    floors_factor_min: float = 0.5  # floors scaled below this are none
    session_clicks_max: int = judged.SESSION_CLICKS_MAX
    held_out_share: float = 0.4  # the last clicks in time
    ivr_change_max: float = 0.3  # relative, from the fold a calibration is made on to the held-out one
    confidence: float = 0.95


DEFAULT_CONFIG = CalibrationConfig()


@dataclass(frozen=True)
class Budget:
    """What may be invalidated of some purchases: a share, the part of it kept back, and whole purchases."""

    fpr_max: float
    purchases: int
    margin: float
    allowed: int

    def ceiling_of(self, config: CalibrationConfig) -> float:
        """The largest FPR of any slice. It does not grow with the budget: what one slice gains no other loses."""
        return max(config.fpr_slice_max, self.fpr_max)

    def as_json(self) -> dict[str, Any]:
        """Values for metadata."""
        kept = {"fpr_max": self.fpr_max, "margin": self.margin, "fpr_within": max(0.0, self.fpr_max - self.margin)}
        return {**kept, "purchases": self.purchases, "purchases_allowed": self.allowed}


@dataclass(frozen=True, eq=False)
class Allocation:
    """Thresholds by slice, "*" among them, and how the budget was divided (JSON values)."""

    thresholds: dict[str, float]
    metadata: dict[str, Any]


def budget(fpr_max: float, purchases: int, overshoot_z: float) -> Budget:
    """B' = B - z sqrt(B (1 - B) / purchases), in whole purchases: what is set on n of them comes out higher later.

    As a fraction, since 0.29 x 100 is 28.999999999999996 in floats.
    """
    margin = overshoot_z * sqrt(fpr_max * (1.0 - fpr_max) / purchases)
    allowed = int(Fraction(max(0.0, fpr_max - margin)) * purchases)
    return Budget(fpr_max, purchases, margin, allowed)


def everywhere(clicks: Judged, within: Budget, config: CalibrationConfig) -> Allocation:
    """One threshold for all clicks, as low as the budget and the ceiling of every slice and login status allow."""
    most = ceiling(clicks, within.ceiling_of(config), config)
    allowed = min(within.allowed, most)
    threshold = curves.curve(clicks).threshold_at(allowed)
    return Allocation(
        {decide.ANY_SLICE: threshold}, {"budget": within.as_json(), "ceiling": most, "purchases_lost_at_most": allowed}
    )


def ceiling(clicks: Judged, fpr_max: float, config: CalibrationConfig) -> int:
    """The most purchases that one threshold may lose so that no part of the clicks loses more than a share of its own.

    Purchases of people who are not logged in are few: by the overall FPR alone they would be sacrificed. A ceiling
    only ever spares people, so it may rest on fewer purchases than a threshold.
    """
    limits = [_limit(part, fpr_max) for part in parts(clicks, config).values()]
    lost = int(np.count_nonzero(clicks.score[clicks.purchased] >= max(limits)))
    return min(lost, clicks.purchases - 1)


def parts(clicks: Judged, config: CalibrationConfig) -> dict[str, Judged]:
    """What a ceiling protects: all of the clicks, and each slice and login status with enough purchases."""
    names = np.unique(clicks.slice).tolist()
    pools = {
        parent: {n for n in names if slice_groups.parent_of(n) == parent}
        for parent in map(slice_groups.parent_of, names)
    }
    cut = {name: clicks.in_slices(own) for name, own in ({name: {name} for name in names} | pools).items()}
    enough = {name: part for name, part in cut.items() if part.purchases >= max(config.ceiling_purchases_min, 1)}
    return enough | {slice_groups.ROOT: clicks}


def by_slice(clicks: Judged, groups: Groups, within: Budget, form: Form, config: CalibrationConfig) -> Allocation:
    """A threshold for each group's slices, and the global one for slices that are in none.

    Raises Refused naming the groups when the coverage floors do not fit the budget even when scaled, or when a group
    has no purchase, or when there is no optimum.
    """
    names = list(groups)
    of = [curves.curve(clicks.in_slices(set(groups[name]))) for name in names]
    upper = _upper(clicks, groups, within, config)
    wanted = floors(of, upper, hot_among_people(clicks, config), config)
    lower, factor = scaled(dict(zip(names, wanted.tolist(), strict=True)), within, config)
    problem = convex.Problem(of, lower, upper, within.allowed)
    counts = convex.solve(problem, form)
    thresholds = everywhere(clicks, within, config).thresholds
    for name, curve, allowed in zip(names, of, counts.tolist(), strict=True):
        thresholds |= dict.fromkeys(groups[name], curve.threshold_at(allowed))
    columns = zip(names, of, wanted.tolist(), lower.tolist(), upper.tolist(), counts.tolist(), strict=True)
    metadata = {
        "budget": within.as_json(),
        "floors_factor": factor,
        "groups": {name: _told(list(groups[name]), *row) for name, *row in columns},
    }
    return Allocation(thresholds, metadata)


def check_floors(clicks: Judged, groups: Groups, within: Budget, config: CalibrationConfig) -> None:
    """Raise Refused naming the groups if a budget cannot hold the coverage floors, scaled or not."""
    of = [curves.curve(clicks.in_slices(set(slices))) for slices in groups.values()]
    wanted = floors(of, _upper(clicks, groups, within, config), hot_among_people(clicks, config), config)
    scaled(dict(zip(groups, wanted.tolist(), strict=True)), within, config)


def hot_among_people(clicks: Judged, config: CalibrationConfig) -> float:
    """The share of hot clicks that people explain: at most that among purchasing clicks, at the end of its interval.

    Without this a slice of nobody but people would be held to invalidate its busiest ones.
    """
    return curves.interval(int(np.count_nonzero(clicks.hot & clicks.purchased)), clicks.purchases, config.confidence)[1]


def floors(of: Sequence[Curve], upper: Ints, hot_share_max: float, config: CalibrationConfig) -> Ints:
    """L (groups,): the fewest purchases at which a group's coverage reaches the least wanted, its upper bound at most.

    0 for a group that has shown no robots: too few hot clicks, or no larger a share of them than people have.
    """
    return np.array(
        [_floor(curve, int(most), hot_share_max, config) for curve, most in zip(of, upper, strict=True)], dtype=np.int64
    )


def scaled(wanted: Mapping[str, int], within: Budget, config: CalibrationConfig) -> tuple[Ints, float]:
    """Floors that fit the budget, all scaled by one factor, 1 where they do. Raises Refused below the least factor."""
    counts, total = np.array(list(wanted.values()), dtype=np.int64), sum(wanted.values())
    factor = min(1.0, within.allowed / total) if total else 1.0
    if factor < config.floors_factor_min:
        raise Refused(
            f"coverage of {config.coverage_min:g} in {', '.join(name for name, count in wanted.items() if count)}: "
            f"expected to lose at most {within.allowed} of {within.purchases} purchases, "
            f"got {total} ({', '.join(f'{name} {count}' for name, count in wanted.items() if count)})"
        )
    return np.floor(counts * factor).astype(np.int64), factor


def _floor(curve: Curve, most: int, hot_share_max: float, config: CalibrationConfig) -> int:
    coverage = curve.coverage
    if coverage is None or curve.hot_clicks < max(config.hot_clicks_min, hot_share_max * curve.clicks):
        return 0
    return min(int(np.searchsorted(coverage, config.coverage_min)), most)


def _upper(clicks: Judged, groups: Groups, within: Budget, config: CalibrationConfig) -> Ints:
    """U (groups,): each group's ceiling in whole purchases."""
    share = within.ceiling_of(config)
    return np.array([ceiling(clicks.in_slices(set(own)), share, config) for own in groups.values()], dtype=np.int64)


def _limit(part: Judged, fpr_max: float) -> float:
    """The lowest threshold under which a part loses at most a share of its purchases."""
    return curves.curve(part).threshold_at(min(int(Fraction(fpr_max) * part.purchases), part.purchases - 1))


def _told(slices: list[str], curve: Curve, wanted: int, lower: int, upper: int, allowed: int) -> dict[str, Any]:
    return {
        "slices": slices,
        "clicks": curve.clicks,
        "purchases": curve.purchases,
        "hot_clicks": curve.hot_clicks,
        "floor_wanted": wanted,
        "floor": lower,
        "ceiling": upper,
        "allowed": allowed,
        "fpr": float(curve.fpr[allowed]),
        "ivr": float(curve.ivr[allowed]),
        "coverage": None if curve.coverage is None else float(curve.coverage[allowed]),
    }
