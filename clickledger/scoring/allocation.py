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
    ceiling_purchases_min: int = 20  # if it has so many purchases: one of them
    coverage_min: float = 0.3  # of a slice's hot clicks
    hot_clicks_min: int = 100  # a slice with fewer has shown no robots
    hot_share_factor: float = 2.0  # and so has one whose share of hot clicks is below this many times people's
    floors_factor_min: float = 0.5  # floors scaled below this are none
    session_clicks_max: int = judged.SESSION_CLICKS_MAX
    held_out_share: float = 0.4  # the last clicks in time
    ivr_change_max: float = 0.3  # relative, from the fold a calibration is made on to the held-out one
    step_max: float = 0.1  # of the rate in force, how far a calibration beside it may move a slice (`anchoring`);
    step_rate_min: float = 0.05  # a lower rate counts as this,
    step_human_max: float = 0.003  # and its human clicks may be invalidated by so much more,
    step_humans_min: int = 1000  # if it has so many
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
        return slice_ceiling(self.fpr_max, config)

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


def slice_ceiling(fpr_max: float, config: CalibrationConfig) -> float:
    """The largest FPR of any slice under a budget."""
    return max(config.fpr_slice_max, fpr_max)


def everywhere(clicks: Judged, within: Budget, config: CalibrationConfig) -> Allocation:
    """One threshold for all clicks, but for slices that would lose more than their ceiling: theirs are higher."""
    thresholds = capped(clicks, within.allowed, within.ceiling_of(config), config)
    return Allocation(thresholds, {"budget": within.as_json(), "capped": sorted(set(thresholds) - {decide.ANY_SLICE})})


def capped(clicks: Judged, allowed: int, fpr_slice_max: float, config: CalibrationConfig) -> dict[str, float]:
    """The lowest threshold that loses at most so many purchases, and that of each slice whose ceiling is stricter."""
    limits = caps(clicks, fpr_slice_max, config)
    reached = np.sort(clicks.score[clicks.invalid(limits) & clicks.purchased])[::-1]
    lowest = np.nextafter(reached[allowed], np.float32(np.inf)) if len(reached) > allowed else min(limits.values())
    threshold = float(lowest)
    return {decide.ANY_SLICE: threshold} | {name: limit for name, limit in limits.items() if limit > threshold}


def caps(clicks: Judged, fpr_slice_max: float, config: CalibrationConfig) -> dict[str, float]:
    """The lowest threshold of each slice under which it loses at most a share of its own purchases.

    A slice that has shown no robots keeps a margin from its share, as the budget does: a few of its purchases say
    little of its people, and there is next to nothing to gain. One with too few purchases has the cap of its login
    status, or of all clicks; but it loses one of its own at most, as the smallest with enough does, or one purchase
    more or less would move its threshold far. Purchases of people who are not logged in are few: by the overall FPR
    alone they would be sacrificed. A cap only ever spares people, so it may rest on fewer purchases than a threshold.
    """
    explained = hot_among_people(clicks, config)
    limits = {
        name: _limit(part, _ceiling(part, fpr_slice_max, explained, config))
        for name, part in parts(clicks, config).items()
    }
    everyone = limits[slice_groups.ROOT]
    return {
        name: limits[name]
        if name in limits
        else max(limits.get(slice_groups.parent_of(name), everyone), _losing_one(clicks.in_slices({name})))
        for name in np.unique(clicks.slice).tolist()
    }


def _ceiling(part: Judged, fpr_max: float, hot_share_max: float, config: CalibrationConfig) -> float:
    """The ceiling of a slice; one that has shown no robots keeps a margin from it, as a budget does."""
    if shown_robots(len(part), int(np.count_nonzero(part.hot)), hot_share_max, config):
        return fpr_max
    return max(0.0, fpr_max - config.overshoot_z * sqrt(fpr_max * (1.0 - fpr_max) / part.purchases))


def shown_robots(clicks: int, hot_clicks: int, hot_share_max: float, config: CalibrationConfig) -> bool:
    """Whether a slice has more hot clicks than people explain, and enough of them to say so."""
    return hot_clicks >= max(config.hot_clicks_min, hot_share_max * clicks)


def _losing_one(part: Judged) -> float:
    """The lowest threshold under which a part loses one purchase; of a single purchase, or none, nothing follows."""
    return curves.curve(part).threshold_at(1) if part.purchases > 1 else -np.inf


def parts(clicks: Judged, config: CalibrationConfig) -> dict[str, Judged]:
    """What a ceiling protects: each slice and login status with enough purchases, and all of the clicks."""
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
    upper = _upper(of, within.ceiling_of(config))
    wanted = floors(of, upper, hot_among_people(clicks, config), config)
    lower, factor = scaled(dict(zip(names, wanted.tolist(), strict=True)), within, config)
    problem = convex.Problem(of, lower, upper, within.allowed)
    counts = convex.solve(problem, form)
    thresholds = everywhere(clicks, within, config).thresholds
    limits = caps(clicks, within.ceiling_of(config), config)
    for name, curve, allowed in zip(names, of, counts.tolist(), strict=True):
        own = curve.threshold_at(allowed)
        thresholds |= {slice_: max(own, limits[slice_]) for slice_ in groups[name]}
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
    wanted = floors(of, _upper(of, within.ceiling_of(config)), hot_among_people(clicks, config), config)
    scaled(dict(zip(groups, wanted.tolist(), strict=True)), within, config)


def hot_among_people(clicks: Judged, config: CalibrationConfig) -> float:
    """The share of hot clicks that people explain: some times that among purchasing clicks, its interval's upper end.

    Without this a slice of nobody but people would be held to invalidate its busiest ones.
    """
    hot_purchases = int(np.count_nonzero(clicks.hot & clicks.purchased))
    return config.hot_share_factor * curves.interval(hot_purchases, clicks.purchases, config.confidence)[1]


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
    if coverage is None or not shown_robots(curve.clicks, curve.hot_clicks, hot_share_max, config):
        return 0
    return min(int(np.searchsorted(coverage, config.coverage_min)), most)


def _upper(of: Sequence[Curve], fpr_slice_max: float) -> Ints:
    """U (groups,): whole purchases within the ceiling, and never all of them."""
    return np.array([min(int(Fraction(fpr_slice_max) * c.purchases), c.purchases - 1) for c in of], dtype=np.int64)


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
