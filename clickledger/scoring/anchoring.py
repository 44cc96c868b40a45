"""How far a calibration may move the invalidation rate of a slice from what is in force, and what speaks for more.

A threshold in the tail of few purchases is a draw of lots: of the people of a slice with 40 purchases, the share above
the third highest has a standard deviation of four points, so that two sound calibrations a week apart differ by more
than any guard may let pass. What is in force is the better guess there until purchases say otherwise. So every slice
stays within a step of the rates at which the pair in force invalidates the very same clicks, and its human ones.

Invariants, on the clicks a calibration is made with:
- a slice that would be stricter than its step comes back to it, which only spares people;
- one that would be milder goes down to it unless that would lose more purchases than the budget has left, or a share
  of its own above the ceiling beyond doubt, or more human clicks than its step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from clickledger.errors import InvalidInput
from clickledger.scoring import curves, decide
from clickledger.scoring.allocation import Allocation, CalibrationConfig, slice_ceiling
from clickledger.scoring.judged import Flags, Judged


@dataclass(frozen=True, eq=False)
class InForce:
    """What the pair in force says of the n clicks of a calibration, and which of them are labelled human."""

    invalid: Flags  # (n,)
    human: Flags  # (n,)
    model_version: int
    calibration_version: int


class _Slice(NamedTuple):
    """A slice's clicks, what is in force for them, and the threshold it was given."""

    clicks: Judged
    invalid: Flags
    human: Flags
    wanted: float

    @property
    def rate_in_force(self) -> float:
        return curves.invalidation_rate(self.invalid)

    def rate(self, threshold: float) -> float:
        return curves.invalidation_rate(self.clicks.score >= np.float32(threshold))

    def lost(self, threshold: float) -> int:
        """Purchases at or above a threshold."""
        return int(np.count_nonzero(self.clicks.score[self.clicks.purchased] >= np.float32(threshold)))


def near(clicks: Judged, made: Allocation, in_force: InForce, fpr_max: float, config: CalibrationConfig) -> Allocation:
    """A calibration moved to where each slice is within a step of what is in force; metadata `anchored` tells which.

    Raises InvalidInput for flags that do not fit the clicks.
    """
    if {in_force.invalid.shape, in_force.human.shape} != {clicks.score.shape}:
        raise InvalidInput(f"what is in force: expected flags {clicks.score.shape}, got {in_force.invalid.shape}")
    ceiling = slice_ceiling(fpr_max, config)
    slices = {name: _slice(clicks, name, in_force, made.thresholds) for name in np.unique(clicks.slice).tolist()}
    chosen = {name: max(one.wanted, _strictest(one, config)) for name, one in slices.items()}
    left = int(Fraction(fpr_max) * clicks.purchases) - sum(one.lost(chosen[name]) for name, one in slices.items())
    kept = dict.fromkeys(slices, "")
    down = {name: max(_mildest(one, config), _strictest(one, config)) for name, one in slices.items()}
    costs = {name: one.lost(down[name]) - one.lost(chosen[name]) for name, one in slices.items()}
    for name in sorted(slices, key=lambda name: (costs[name], name)):
        one = slices[name]
        if down[name] >= chosen[name]:
            continue
        if _beyond_doubt(one.lost(down[name]), one.clicks.purchases, config) > ceiling:
            kept[name] = "its purchases speak for it"
        elif costs[name] > max(left, 0):
            kept[name] = "the budget has no purchase left for a stricter one"
        else:
            chosen[name], left = down[name], left - costs[name]
    told = {
        name: {
            "in_force": one.rate_in_force,
            "wanted": one.rate(one.wanted),
            "rate": one.rate(chosen[name]),
            "kept": kept[name],
        }
        for name, one in slices.items()
        if kept[name] or chosen[name] != one.wanted
    }
    beside = {"model": in_force.model_version, "calibration": in_force.calibration_version}
    moved = {name: chosen[name] for name, one in slices.items() if chosen[name] != one.wanted}
    return Allocation(made.thresholds | moved, {**made.metadata, "anchored": {"beside": beside, "slices": told}})


def _slice(clicks: Judged, name: str, in_force: InForce, thresholds: Mapping[str, float]) -> _Slice:
    own = clicks.slice == name
    return _Slice(clicks.where(own), in_force.invalid[own], in_force.human[own], decide.threshold_of(thresholds, name))


def _step(rate: float, config: CalibrationConfig) -> float:
    """How far a rate may move: a share of it, a low rate counting as `step_rate_min`."""
    return config.step_max * max(rate, config.step_rate_min)


def _strictest(one: _Slice, config: CalibrationConfig) -> float:
    """The lowest threshold within the step up of all clicks and, where there are enough, of the human ones."""
    limit = _at_most(one.clicks, one.rate_in_force + _step(one.rate_in_force, config))
    humans = int(np.count_nonzero(one.human))
    if humans < config.step_humans_min:
        return limit
    before = curves.invalidation_rate(one.invalid[one.human])
    return max(limit, _at_most(one.clicks.where(one.human), before + config.step_human_max))


def _mildest(one: _Slice, config: CalibrationConfig) -> float:
    """The highest threshold within the step down."""
    count = int(np.ceil((one.rate_in_force - _step(one.rate_in_force, config)) * len(one.clicks)))
    return float(np.sort(one.clicks.score)[-count]) if count > 0 else np.inf


def _at_most(part: Judged, rate: float) -> float:
    """The lowest threshold that invalidates at most a share of the clicks; ties with the first spared stay valid."""
    count = int(rate * len(part))
    return float(np.nextafter(np.sort(part.score)[-1 - count], np.float32(np.inf))) if count < len(part) else -np.inf


def _beyond_doubt(lost: int, purchases: int, config: CalibrationConfig) -> float:
    """The share of purchases that is lost at least; 0 where there are none to tell."""
    return curves.interval(lost, purchases, config.confidence)[0] if purchases else 0.0
