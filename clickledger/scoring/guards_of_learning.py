"""Guards of what a trainer would make of a set: sample weights, drift of features, a feature that knows the label."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clickledger.scoring import evaluate, feature_spec, findings
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.findings import AT_LEAST, AT_MOST, DAY_MS, HOUR_MS, WEEK_MS, Finding, Limits

Floats = npt.NDArray[np.float64]

WEEK_DAYS = 7
BINS = 10
# Of the calendar, not of the clicker: a day has another share of them than a month by its date alone.
CALENDAR = ("minute_of_week",)
ROUNDING = 1e-5  # of weights in float32


def effective_sample(weights: npt.NDArray[np.float32], limits: Limits) -> Finding:
    """(sum of weights)^2 / sum of squares / n: as what share of its clicks a weighted set counts."""
    guard, what, limit = "effective_sample", "effective sample as a share of the clicks", limits.effective_sample_min
    if not len(weights):
        return findings.unjudged(guard, limit, AT_LEAST, what, "the set is empty")
    exact = weights.astype(np.float64)
    return findings.at_least(guard, float(exact.sum() ** 2 / (exact**2).sum() / len(exact)), limit, what)


def largest_weight(weights: npt.NDArray[np.float32], limits: Limits) -> Finding:
    """The largest weight in times the median."""
    guard, what = "largest_weight", "largest sample weight in times the median"
    if not len(weights):
        return findings.unjudged(guard, limits.weight_max, AT_MOST, what, "the set is empty")
    figure = float(weights.max()) / float(np.median(weights))
    # A cap holds exactly; what it leaves in float32 may be above it by a rounding.
    figure = limits.weight_max if 0.0 < figure - limits.weight_max < limits.weight_max * ROUNDING else figure
    return findings.at_most(guard, figure, limits.weight_max, what)


def drift(built: Dataset, end_ms: int, limits: Limits) -> Finding:
    """Population stability index of each feature: the newest day against the same weekday of the weeks before.

    All of a month would not do: counts by address are a quarter higher at weekends.
    """
    guard, what = "drift", "population stability index of a feature, newest day against its weekday before"
    day = (end_ms - 1 - built.event_time_ms) // DAY_MS
    weeks = (end_ms - int(built.event_time_ms.min(initial=end_ms))) / WEEK_MS
    if weeks < limits.history_weeks - HOUR_MS / WEEK_MS:
        note = f"not enough history: {weeks:.1f} of {limits.history_weeks} weeks"
        return findings.unjudged(guard, limits.drift_max, AT_MOST, what, note)
    newest, earlier = day == 0, (day > 0) & (day % WEEK_DAYS == 0)
    if (clicks := int(min(newest.sum(), earlier.sum()))) < limits.day_clicks_min:
        note = f"fewer than {limits.day_clicks_min} clicks in a day"
        return findings.unjudged(guard, limits.drift_max, AT_MOST, what, note, clicks=clicks)
    before = _sample(built.features[earlier], limits.sample_rows_max)
    now = _sample(built.features[newest], limits.sample_rows_max)
    indices = {
        name: stability_index(before[:, i], now[:, i])
        for i, name in enumerate(feature_spec.names_of(built.features))
        if name not in CALENDAR
    }
    worst = max(indices, key=lambda name: indices[name])
    return findings.at_most(
        guard, indices[worst], limits.drift_max, f"population stability index of {worst}", features=indices
    )


def feature_leak(built: Dataset, limits: Limits) -> Finding:
    """The best AUC that one feature reaches by itself, either way round."""
    guard, what = "feature_leak", "AUC of one feature by itself"
    rows = slice(None, None, 1 + (len(built) - 1) // limits.sample_rows_max if len(built) else 1)
    features, human = built.features[rows], built.human[rows]
    humans = int(human.sum())
    if min(humans, len(human) - humans) < limits.human_labels_min:
        note = f"{humans} human labels among {len(human)} clicks"
        return findings.unjudged(guard, limits.feature_auc_max, AT_MOST, what, note)
    found = {
        name: evaluate.auc(features[:, i].astype(np.float32), ~human)
        for i, name in enumerate(feature_spec.names_of(features))
    }
    separation = {name: max(auc, 1.0 - auc) for name, auc in found.items()}
    worst = max(separation, key=lambda name: separation[name])
    return findings.at_most(
        guard, separation[worst], limits.feature_auc_max, f"AUC of {worst} by itself", features=separation
    )


def stability_index(before: npt.NDArray[np.int32], now: npt.NDArray[np.int32]) -> float:
    """Sum of (q - p) ln(q / p) over tenths of what was before, p and q the shares before and now of values (n,), (m,).

    Counts are taken half a click higher, so that an empty tenth is no infinity.
    """
    edges = np.unique(np.quantile(before, np.linspace(0.0, 1.0, BINS + 1)[1:-1], method="lower"))
    p, q = (_shares(np.searchsorted(edges, values, side="left"), len(edges) + 1) for values in (before, now))
    return float(((q - p) * np.log(q / p)).sum())


def _shares(bins: npt.NDArray[np.intp], count: int) -> Floats:
    counts = np.bincount(bins, minlength=count) + 0.5
    shares: Floats = counts / counts.sum()
    return shares


def _sample(rows: npt.NDArray[np.int32], rows_max: int) -> npt.NDArray[np.int32]:
    """Every n-th row, so that no more than `rows_max` are left."""
    return rows[:: 1 + (len(rows) - 1) // rows_max] if len(rows) else rows
