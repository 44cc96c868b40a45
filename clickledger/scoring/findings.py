"""What a guard says: its figure, the limit, whether it passed; and the limits of all guards.

A guard that cannot judge, for want of history or of numbers, passes and says so in its note.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS
AT_LEAST, AT_MOST = "at least", "at most"


@dataclass(frozen=True)
class Limits:
    """When guards refuse, of data and then of behaviour. Shares and ratios are 0..1 unless they can be more."""

    human_density_min: float = 0.4  # of the hour's median over `history_weeks`
    human_labels_min: int = 30  # to judge a stretch of hours, and of a source in a week
    history_weeks: int = 4
    feed_lag_hours_max: float = 2.0
    arrivals_min: float = 0.5  # of last week's same hour
    label_age_hours_min: float = 48.0
    maturity_min: float = 0.95  # share of the expected outcomes that is known
    maturity_horizon_days: int = 7  # nearly all outcomes come within
    volume_change_max: float = 0.4  # of a day against the weekday's median
    day_clicks_min: int = 1_000  # to judge a day
    null_share_max: float = 0.005
    undecided_share_max: float = 0.01
    account_labels_per_day_max: int = 20
    ip_label_share_max: float = 0.01
    ip_labels_min: int = 50  # to judge an IP by its share
    campaign_label_share_max: float = 0.1
    campaign_labels_min: int = 50
    effective_sample_min: float = 0.1
    weight_max: float = 50.0  # times the median
    drift_max: float = 0.25  # population stability index of a feature
    feature_auc_max: float = 0.95
    sample_rows_max: int = 200_000  # for drift and AUC: every n-th click of more
    chance_max: float = 1e-6  # refused only where chance alone would do it more rarely

    behaviour_days: int = 7  # the newest clicks that two models are compared on
    behaviour_clicks_min: int = 1_000  # to compare them; to judge a slice; to judge an hour of the day, a tenth
    known_flips_max: float = 0.004  # net, of the clicks of known customers
    known_age_hours: float = 48.0  # a customer is known so long after the first purchase
    ivr_change_max: float = 0.15
    slice_ivr_change_max: float = 0.3
    slice_ivr_min: float = 0.05  # a slice's change is told as if the stable model invalidated so much of it
    hourly_range_max: float = 2.0  # times the stable model's
    hourly_range_min: float = 0.05  # a smaller range of the stable model counts as so much
    purchases_min: int = 30  # to judge an AUC
    baseline_chance_max: float = 1e-3  # of accounts drawn anew: an AUC on few purchases never is sure to 1e-6
    seed_disagreement_max: float = 0.05
    seed_disagreement_relative_max: float = 0.5  # of what either seed invalidates
    robot_recall_drop_max: float = 0.05
    robot_kind_recall_drop_max: float = 0.5  # of one kind: it is lost


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Finding:
    """One guard's judgement. `figure` is None where it could not judge; `note` says why then."""

    guard: str
    passed: bool
    figure: float | None
    limit: float
    relation: str  # AT_LEAST or AT_MOST
    what: str  # what the figure is of, in words
    note: str = ""
    figures: dict[str, Any] = field(default_factory=dict)  # further ones, JSON values

    def to_payload(self) -> dict[str, Any]:
        """JSON values for an entry."""
        return {
            "guard": self.guard,
            "passed": self.passed,
            "figure": self.figure,
            "limit": self.limit,
            "relation": self.relation,
            "what": self.what,
            "note": self.note,
            "figures": self.figures,
        }

    def sentence(self) -> str:
        """The figure and what it should have been."""
        if self.figure is None:
            return f"{self.guard}: {self.what}: {self.note}"
        return f"{self.guard}: {self.what}: expected {self.relation} {self.limit:g}, got {self.figure:.4g}"


def at_least(guard: str, figure: float, limit: float, what: str, **figures: Any) -> Finding:
    """Passed if the figure reaches the limit."""
    return Finding(guard, bool(figure >= limit), float(figure), float(limit), AT_LEAST, what, figures=figures)


def at_most(guard: str, figure: float, limit: float, what: str, **figures: Any) -> Finding:
    """Passed if the figure does not exceed the limit."""
    return Finding(guard, bool(figure <= limit), float(figure), float(limit), AT_MOST, what, figures=figures)


def unjudged(guard: str, limit: float, relation: str, what: str, note: str, **figures: Any) -> Finding:
    """Passed, because there is too little to judge by; the note says so."""
    return Finding(guard, True, None, float(limit), relation, what, note, figures)


def unless_chance(found: Finding) -> Finding:
    """The finding; if beyond its limit, passed all the same, as so few counts may come to that by themselves."""
    return found if found.passed else replace(found, passed=True, note="beyond the limit, but chance may do that")


def chance_below(count: float, expected: float) -> float:
    """At most how likely a count this far under an expected one is (Chernoff's bound for Poisson counts)."""
    if count >= expected:
        return 1.0
    return math.exp(count - expected + (count * math.log(expected / count) if count else 0.0))


def chance_fewer(count: int, other: int) -> float:
    """At most how likely two counts of one rate are this far apart (Chernoff's bound for a fair coin)."""
    total = count + other
    if count >= other:
        return 1.0
    share = count / total
    divergence = math.log(2.0) + sum(p * math.log(p) for p in (share, 1.0 - share) if p > 0.0)
    return math.exp(-total * divergence)


def chance_beyond(deviations: float) -> float:
    """How likely a normal figure is so many standard deviations on one side of its mean, or more."""
    return 0.5 * math.erfc(deviations / math.sqrt(2.0))


def stretches(expected: npt.NDArray[np.number], least: float) -> list[tuple[int, int]]:
    """The shortest neighbours [first, end) from each on that come to `least` together, and to four times as much.

    The short ones show where nothing came at all, the long ones where much of what should have come for long did not.
    """
    return [found for times in (1, 4) for found in _merged(expected, times * least)]


def _merged(expected: npt.NDArray[np.number], least: float) -> list[tuple[int, int]]:
    sums = np.concatenate([[0.0], np.cumsum(expected)])
    ends = np.searchsorted(sums, sums[:-1] + least, side="left")
    return [(first, int(end)) for first, end in enumerate(ends) if end < len(sums)]


def time_text(at_ms: int) -> str:
    """A time to the minute, UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%MZ")


def stretch_text(from_ms: int, to_ms: int) -> str:
    """From when to when."""
    return f"{time_text(from_ms)} to {time_text(to_ms)}"
