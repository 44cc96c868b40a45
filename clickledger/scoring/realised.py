"""What thresholds did to some clicks: over all, by login status and by slice, each share with its exact interval.

Intervals are Clopper and Pearson's, which take clicks for independent. Purchases nearly are; the clicks of a session
are not, so the intervals of IVR and coverage are narrower than they should be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from clickledger.scoring import curves, slice_groups
from clickledger.scoring.judged import Flags, Judged

CONFIDENCE = 0.95
FPR_PURCHASES_MIN = 30  # of a slice, for its FPR to be anything but one click or none
COVERAGE_CLICKS_MIN = 100  # hot ones


def figures(clicks: Judged, thresholds: Mapping[str, float], robot: Flags | None = None) -> dict[str, dict[str, Any]]:
    """Rates by part, JSON values: "*" is all, "*/in" a login status, "app/in" a slice.

    `robot` (n,) is the truth where it is known: then `people` is the share of people invalidated, `recall` of robots.
    """
    invalid = clicks.invalid(thresholds)
    told = {}
    for name, rows in parts(clicks).items():
        truth = {} if robot is None else _truth(invalid[rows], robot[rows])
        told[name] = {**_rates(invalid[rows], clicks.where(rows)), **truth}
    return told


def parts(clicks: Judged) -> dict[str, Flags]:
    """The clicks (n,) of each part: all of them, each login status, each slice."""
    names = np.unique(clicks.slice).tolist()
    parents = {name: slice_groups.parent_of(name) for name in names}
    found: dict[str, Flags] = {slice_groups.ROOT: np.ones(len(clicks), dtype=np.bool_)}
    for parent in sorted(set(parents.values()) - {slice_groups.ROOT}):
        found[parent] = np.isin(clicks.slice, [name for name in names if parents[name] == parent])
    return found | {name: clicks.slice == name for name in names}


def worst(told: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any] | None]:
    """The slice with the highest FPR and the one with the lowest coverage, among those with clicks enough to tell."""
    slices = {name: rates for name, rates in told.items() if not name.startswith(slice_groups.ROOT)}
    fprs = {name: r["fpr"] for name, r in slices.items() if r["purchases"] >= FPR_PURCHASES_MIN}
    coverages = {name: r["coverage"] for name, r in slices.items() if r["hot_clicks"] >= COVERAGE_CLICKS_MIN}
    return {
        "fpr": _named(fprs, max(fprs, key=lambda name: fprs[name], default=None)),
        "coverage": _named(coverages, min(coverages, key=lambda name: coverages[name], default=None)),
    }


def _named(values: Mapping[str, float], name: str | None) -> dict[str, Any] | None:
    return None if name is None else {"slice": name, "value": values[name]}


def share(count: int, of: int) -> dict[str, Any]:
    """A share with its interval; None of nothing."""
    return {
        "value": count / of if of else None,
        "interval": list(curves.interval(count, of, CONFIDENCE)) if of else None,
    }


def _rates(invalid: Flags, clicks: Judged) -> dict[str, Any]:
    rates: dict[str, Any] = {}
    sides = {"ivr": np.ones(len(clicks), dtype=np.bool_), "fpr": clicks.purchased, "coverage": clicks.hot}
    for name, among in sides.items():
        told = share(int(np.count_nonzero(invalid & among)), int(np.count_nonzero(among)))
        rates |= {name: told["value"], f"{name}_interval": told["interval"]}
    counts = {"clicks": len(clicks), "purchases": clicks.purchases, "hot_clicks": int(np.count_nonzero(clicks.hot))}
    return {**counts, **rates}


def _truth(invalid: Flags, robot: Flags) -> dict[str, Any]:
    return {"people": curves.share_of(invalid, ~robot), "recall": curves.share_of(invalid, robot)}
