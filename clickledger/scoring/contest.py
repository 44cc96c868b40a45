"""Which calibration ships: two forms by slice against one threshold for all, on later clicks than they were made from.

Candidates realise different FPRs there, so each is measured against the same yardstick at its own: the global threshold
that hindsight would have set on the held-out clicks, to lose as many purchases, but in no slice a larger share than the
ceiling or than the candidate's worst. So nobody gains by losing more people, neither overall nor among the few who are
not logged in. A form wins if it passes its checks, lies closer to its yardstick than the global threshold to its own,
and covers the robots of the worst slice as well; otherwise the global threshold ships.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clickledger.errors import Refused
from clickledger.scoring import allocation, convex, curves
from clickledger.scoring.allocation import Allocation, CalibrationConfig, Groups
from clickledger.scoring.judged import Judged

GLOBAL = "global"


@dataclass(frozen=True)
class Outcome:
    """Who won, why, and every candidate's figures (JSON values)."""

    winner: str  # a convex.Form, or GLOBAL
    why: str
    metadata: dict[str, Any]


def hold(clicks: Judged, groups: Groups, fpr_max: float, config: CalibrationConfig) -> Outcome:
    """Make each candidate from the earlier clicks and compare them on the later ones."""
    earlier, later = clicks.split(config.held_out_share)
    if reason := _cannot_be_held(earlier, later, groups):
        return Outcome(GLOBAL, reason, {})
    within = allocation.budget(fpr_max, earlier.purchases, config.overshoot_z)
    figures: dict[str, dict[str, Any]] = {}
    for name in (*convex.FORMS, GLOBAL):
        try:
            made = _candidate(name, earlier, groups, within, config)
        except Refused as error:
            figures[name] = {"out": str(error)}
        else:
            figures[name] = _judge(made, earlier, later, groups, within, config)
    winner, why = _winner(figures)
    told = {"earlier": _counts(earlier), "held_out": _counts(later), "budget": within.as_json(), "candidates": figures}
    return Outcome(winner, why, told)


def _cannot_be_held(earlier: Judged, later: Judged, groups: Groups) -> str:
    if len(groups) < 2:
        return "all slices are merged into one: there are too few purchases to tell them apart"
    for name, fold in (("earlier", earlier), ("held-out", later)):
        for group, slices in groups.items():
            if not fold.in_slices(set(slices)).purchases:
                return f"no purchase in {group} among the {name} clicks"
    return ""


def _candidate(
    name: str, earlier: Judged, groups: Groups, within: allocation.Budget, config: CalibrationConfig
) -> Allocation:
    for form in convex.FORMS:
        if name == form:
            return allocation.by_slice(earlier, groups, within, form, config)
    return allocation.everywhere(earlier, within, config)


def _judge(
    made: Allocation,
    earlier: Judged,
    later: Judged,
    groups: Groups,
    within: allocation.Budget,
    config: CalibrationConfig,
) -> dict[str, Any]:
    """A candidate's figures on the held-out fold, and which of its checks failed."""
    before, after = earlier.invalid(made.thresholds), later.invalid(made.thresholds)
    wrongly = int(np.count_nonzero(after & later.purchased))
    ivr_before, ivr = curves.invalidation_rate(before), curves.invalidation_rate(after)
    by_group = _by_group(made, earlier, later, groups, config)
    lost = max(folds["held_out"]["fpr"] for folds in by_group.values())
    figures: dict[str, Any] = {
        "ivr_earlier": ivr_before,
        "ivr": ivr,
        "ivr_in_hindsight": _ivr_in_hindsight(later, wrongly, max(lost, within.ceiling_of(config)), config),
        "fpr": wrongly / later.purchases,
        "fpr_worst": lost,
        "fpr_interval": list(curves.interval(wrongly, later.purchases, config.confidence)),
        "coverage": curves.share_of(after, later.hot),
        "coverage_worst": _worst_coverage(made, later, config),
        "groups": by_group,
    }
    return figures | {"failed": _failed(figures, within.fpr_max, config)}


def _by_group(
    made: Allocation, earlier: Judged, later: Judged, groups: Groups, config: CalibrationConfig
) -> dict[str, dict[str, Any]]:
    """FPR of each group on both folds with intervals, wider the more groups there are (Bonferroni)."""
    confidence = 1.0 - (1.0 - config.confidence) / len(groups)
    told: dict[str, dict[str, Any]] = {}
    for name, slices in groups.items():
        told[name] = {}
        for fold, clicks in (("earlier", earlier), ("held_out", later)):
            own = clicks.in_slices(set(slices))
            invalid = own.invalid(made.thresholds)
            wrongly = int(np.count_nonzero(invalid & own.purchased))
            told[name][fold] = {
                "ivr": curves.invalidation_rate(invalid),
                "fpr": wrongly / own.purchases,
                "fpr_interval": list(curves.interval(wrongly, own.purchases, confidence)),
                "coverage": curves.share_of(invalid, own.hot),
            }
    return told


def _failed(figures: Mapping[str, Any], fpr_max: float, config: CalibrationConfig) -> list[str]:
    """Which checks a candidate fails: FPR over all, FPR of each group, change of IVR."""
    failed = []
    low = figures["fpr_interval"][0]
    if low > fpr_max:
        failed.append(f"FPR: expected an interval that reaches down to {fpr_max:g}, got one from {low:.4g}")
    for name, folds in figures["groups"].items():
        high, low = folds["earlier"]["fpr_interval"][1], folds["held_out"]["fpr_interval"][0]
        if low > high:
            failed.append(f"FPR of {name}: expected at most {high:.4g}, got an interval from {low:.4g}")
    before, ivr = figures["ivr_earlier"], figures["ivr"]
    if abs(ivr - before) > config.ivr_change_max * before:
        failed.append(f"IVR: expected {before:.4g} within {config.ivr_change_max:.0%}, got {ivr:.4g}")
    return failed


def _winner(figures: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """The form closest to hindsight, if it is closer than the global threshold."""
    gains = {
        form: figures[form]["ivr"] - figures[form]["ivr_in_hindsight"]
        for form in convex.FORMS
        if "out" not in figures[form] and not figures[form]["failed"]
    }
    if not gains:
        return GLOBAL, "no form by slice passed its checks on the held-out clicks"
    best = max(gains, key=lambda form: gains[form])
    to_beat = figures[GLOBAL]["ivr"] - figures[GLOBAL]["ivr_in_hindsight"]
    least, got = figures[GLOBAL]["coverage_worst"], figures[best]["coverage_worst"]
    if got < least:
        return GLOBAL, f"worst coverage of a slice on held-out clicks: {best} {got:.4f}, global {least:.4f}"
    said = (
        f"IVR on held-out clicks, against hindsight at the same FPR: {best} {gains[best]:+.4f}, global {to_beat:+.4f}"
    )
    return (best, said) if gains[best] > to_beat else (GLOBAL, said)


def _worst_coverage(made: Allocation, later: Judged, config: CalibrationConfig) -> float:
    """The lowest coverage of a slice that has shown robots; 1 where none has."""
    explained = allocation.hot_among_people(later, config)
    slices = [later.in_slices({name}) for name in np.unique(later.slice).tolist()]
    crowded = [own for own in slices if own.hot.sum() >= max(config.hot_clicks_min, explained * len(own))]
    return min((curves.share_of(own.invalid(made.thresholds), own.hot) or 0.0 for own in crowded), default=1.0)


def _ivr_in_hindsight(later: Judged, wrongly: int, fpr_worst: float, config: CalibrationConfig) -> float:
    """IVR of the global threshold that loses so many of the held-out purchases and in no part more than a share."""
    return curves.invalidation_rate(later.invalid(allocation.capped(later, wrongly, fpr_worst, config)))


def _counts(clicks: Judged) -> dict[str, int]:
    return {"clicks": len(clicks), "purchases": clicks.purchases}
