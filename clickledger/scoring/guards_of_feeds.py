"""Guards of what comes in: purchases, clicks a day, features without a value, clicks that could not be decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clickledger.scoring import feature_spec, findings
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.findings import AT_LEAST, AT_MOST, DAY_MS, HOUR_MS, WEEK_MS, Finding, Limits

Ints = npt.NDArray[np.int64]

WEEK_DAYS = 7
WEEK_HOURS = 7 * 24
# No gap before a user's second click, no login status from some senders: nothing is missing there.
WITHOUT_VALUE = ("user_last_gap_ms", "user_gap_min_ms", "user_gap_max_ms", "logged_in")


@dataclass(frozen=True)
class Day:
    """Clicks recorded of one day, and those of them that were left undecided, counted too late ones included."""

    clicks: int
    undecided: int


Days = Mapping[int, Day]  # by days back from the end of the set, 0 the newest


def feed_lag(occurred_at_ms: Ints, cutoff_ms: int, limits: Limits) -> Finding:
    """Hours without an outcome up to the cut-off, refused where so many were to be expected that it is no chance."""
    guard, what, limit = "feed_lag", "hours from the newest outcome to the label cut-off", limits.feed_lag_hours_max
    if not len(occurred_at_ms):
        return findings.unjudged(guard, limit, AT_MOST, what, "no outcome is known")
    lag_ms = cutoff_ms - int(occurred_at_ms.max())
    expected = _expected(occurred_at_ms, cutoff_ms, lag_ms)
    found = findings.at_most(guard, lag_ms / HOUR_MS, limit, what, expected_outcomes=expected)
    return found if findings.chance_below(0, expected) < limits.chance_max else findings.unless_chance(found)


def _expected(occurred_at_ms: Ints, cutoff_ms: int, lag_ms: int) -> float:
    """Outcomes of the same hours a week or a day before, or by the mean rate where there is no history of that."""
    for back_ms in (WEEK_MS, DAY_MS):
        if lag_ms <= back_ms and int(occurred_at_ms.min()) <= cutoff_ms - lag_ms - back_ms:
            since, until = cutoff_ms - lag_ms - back_ms, cutoff_ms - back_ms
            return float(((occurred_at_ms > since) & (occurred_at_ms <= until)).sum())
    span_ms = max(int(occurred_at_ms.max() - occurred_at_ms.min()), HOUR_MS)
    return len(occurred_at_ms) * lag_ms / span_ms


def arrivals(occurred_at_ms: Ints, cutoff_ms: int, limits: Limits) -> Finding:
    """Outcomes of each hour of the newest week against the same hour a week before, neighbours merged."""
    guard, what = "feed_arrivals", "outcomes against the same hour a week before"
    history = (cutoff_ms - int(occurred_at_ms.min(initial=cutoff_ms))) / WEEK_MS
    if history < 2.0:
        note = f"not enough history: {history:.1f} of 2 weeks"
        return findings.unjudged(guard, limits.arrivals_min, AT_LEAST, what, note, weeks=history)
    hour = (cutoff_ms - 1 - occurred_at_ms) // HOUR_MS
    counts = np.bincount(hour[(hour >= 0) & (hour < 2 * WEEK_HOURS)], minlength=2 * WEEK_HOURS)
    now, before = counts[:WEEK_HOURS], counts[WEEK_HOURS:]
    cells = [
        (int(now[a:b].sum()), int(before[a:b].sum()), a, b)
        for a, b in findings.stretches(before, limits.human_labels_min)
    ]
    if not cells:
        note = f"fewer than {limits.human_labels_min} outcomes a week before"
        return findings.unjudged(guard, limits.arrivals_min, AT_LEAST, what, note, outcomes=int(before.sum()))
    sure = [cell for cell in cells if _short(cell[0], cell[1], limits)]
    count, earlier, first, end = min(sure or cells, key=lambda cell: cell[0] / cell[1])
    from_ms, to_ms = cutoff_ms - end * HOUR_MS, cutoff_ms - first * HOUR_MS
    found = findings.at_least(
        guard,
        count / earlier,
        limits.arrivals_min,
        f"outcomes of {findings.stretch_text(from_ms, to_ms)} against a week before",
        outcomes=count,
        a_week_before=earlier,
        stretches=len(cells),
        refused_stretches=len(sure),
    )
    return found if sure else findings.unless_chance(found)


def _short(count: int, earlier: int, limits: Limits) -> bool:
    return count < limits.arrivals_min * earlier and findings.chance_fewer(count, earlier) < limits.chance_max


def volume(days: Days, limits: Limits) -> Finding:
    """Clicks of each day of the newest week against the median of its weekday."""
    guard, what, limit = "volume", "change of a day's clicks against its weekday's median", limits.volume_change_max
    if max(days, default=-1) < limits.history_weeks * WEEK_DAYS - 1:
        note = f"not enough history: {max(days, default=-1) + 1} of {limits.history_weeks * WEEK_DAYS} days"
        return findings.unjudged(guard, limit, AT_MOST, what, note)
    clicks = np.array(
        [
            [_day(days, week * WEEK_DAYS + day).clicks for day in range(WEEK_DAYS)]
            for week in range(limits.history_weeks)
        ]
    )
    median = np.median(clicks, axis=0)
    judged = median >= limits.day_clicks_min
    if not judged.any():
        note = f"fewer than {limits.day_clicks_min} clicks a day"
        return findings.unjudged(guard, limit, AT_MOST, what, note, median=float(median.max()))
    change = np.where(judged, np.abs(clicks[0] / np.maximum(median, 1.0) - 1.0), 0.0)
    worst = int(change.argmax())
    return findings.at_most(
        guard,
        float(change[worst]),
        limit,
        f"{what}, {worst} days before the newest",
        clicks=int(clicks[0, worst]),
        median=float(median[worst]),
    )


def null_features(built: Dataset, end_ms: int, limits: Limits) -> Finding:
    """The largest share of clicks of a day without a value of a feature that every click has."""
    guard, what, limit = "null_features", "share of a day's clicks without a value", limits.null_share_max
    day = (end_ms - 1 - built.event_time_ms) // DAY_MS
    newest = (day >= 0) & (day < WEEK_DAYS)
    clicks = np.bincount(day[newest], minlength=WEEK_DAYS)
    judged = clicks >= limits.day_clicks_min
    if not judged.any():
        note = f"fewer than {limits.day_clicks_min} clicks a day"
        return findings.unjudged(guard, limit, AT_MOST, what, note, clicks=int(clicks.max()))
    shares: dict[str, float] = {}
    for i, name in enumerate(feature_spec.names_of(built.features)):
        if name in WITHOUT_VALUE:
            continue
        missing = built.features[newest, i] == feature_spec.NO_VALUE
        counts = np.bincount(day[newest][missing], minlength=WEEK_DAYS)
        shares[name] = float((counts[judged] / clicks[judged]).max())
    worst = max(shares, key=lambda name: shares[name])
    return findings.at_most(
        guard, shares[worst], limit, f"{what} of {worst}", over=[n for n, share in shares.items() if share > limit]
    )


def undecided(days: Days, limits: Limits) -> Finding:
    """The largest share of late and otherwise undecided clicks in a day of the newest week."""
    guard, what, limit = "undecided", "share of a day's clicks late or undecided", limits.undecided_share_max
    newest = {back: _day(days, back) for back in range(WEEK_DAYS)}
    judged = {back: day for back, day in newest.items() if day.clicks >= limits.day_clicks_min}
    if not judged:
        note = f"fewer than {limits.day_clicks_min} clicks a day"
        clicks = max(day.clicks for day in newest.values())
        return findings.unjudged(guard, limit, AT_MOST, what, note, clicks=clicks)
    worst = max(judged, key=lambda back: judged[back].undecided / judged[back].clicks)
    found = judged[worst]
    return findings.at_most(
        guard,
        found.undecided / found.clicks,
        limit,
        f"{what}, {worst} days before the newest",
        clicks=found.clicks,
        undecided=found.undecided,
    )


def _day(days: Days, back: int) -> Day:
    return days.get(back, Day(0, 0))
