"""What a replay would change, estimated from parts of its range chosen at random (a cluster sample): flips and money.

Neighbouring clicks resemble each other, so the interval comes from how parts differ (the ratio estimator of Cochran,
Sampling Techniques, chapter 6), not from how clicks do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clickledger.recovery.redecide import Clicks
from clickledger.scoring import decide

NORMAL_95 = 1.96
MISSED = 0.05  # a sample without any flip is not to be surer than this that there are none
GROUPS_MAX = 20  # slices and advertisers that are told apart


class Unit(NamedTuple):
    """One sampled part of a range: its clicks, and what the replay would change in it; money in micros by currency."""

    clicks: int
    to_valid: int
    to_invalid: int
    to_undecided: int
    change_micros: dict[str, int]  # signed: below 0 credits the advertisers
    by_slice: dict[tuple[str, str], int]  # (slice, currency)
    by_advertiser: dict[tuple[str, str], int]


class Interval(NamedTuple):
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """What a replay of the whole range would change; exact when every part was looked at."""

    sampled_clicks: int
    to_valid: Interval
    to_invalid: Interval
    to_undecided: Interval
    change_micros: dict[str, Interval]  # by currency
    by_slice: dict[str, dict[str, Interval]]  # slice -> currency
    by_advertiser: dict[str, dict[str, Interval]]  # advertiser -> currency, those with most at stake

    @property
    def flips(self) -> float:
        """Decisions that would change."""
        return self.to_valid.value + self.to_invalid.value + self.to_undecided.value


def changes(clicks: Clicks, after: Sequence[str], before: Sequence[str]) -> Unit:
    """What becomes of n clicks, from their verdicts in force to those of the replay."""
    change: Counter[str] = Counter()
    by_slice: Counter[tuple[str, str]] = Counter()
    by_advertiser: Counter[tuple[str, str]] = Counter()
    for i, (new, old) in enumerate(zip(after, before, strict=True)):
        micros = ((new == decide.VALID) - (old == decide.VALID)) * clicks.cost_micros[i]
        change[clicks.currency[i]] += micros
        by_slice[clicks.slice[i], clicks.currency[i]] += micros
        by_advertiser[clicks.advertiser_id[i], clicks.currency[i]] += micros
    flipped = [new for new, old in zip(after, before, strict=True) if new != old]
    to_valid, to_invalid, to_undecided = (flipped.count(v) for v in (decide.VALID, decide.INVALID, decide.UNDECIDED))
    return Unit(len(clicks), to_valid, to_invalid, to_undecided, change, by_slice, by_advertiser)


def estimate(sample: Sequence[Unit], units: int, clicks: int) -> Estimate:
    """Totals over a range of `units` parts with `clicks` clicks, of which `sample` was looked at."""
    sizes = [unit.clicks for unit in sample]

    def total(values: Sequence[int]) -> Interval:
        return ratio_total(values, sizes, units, clicks)

    def count(values: Sequence[int]) -> Interval:
        return total(values) if any(values) else none_seen(len(sizes), units, clicks)

    currencies = sorted({currency for unit in sample for currency in unit.change_micros})

    def grouped(of: Callable[[Unit], dict[tuple[str, str], int]]) -> dict[str, dict[str, Interval]]:
        found: dict[str, dict[str, Interval]] = {}
        for name, currency in sorted({key for unit in sample for key in of(unit)}):
            values = [of(unit).get((name, currency), 0) for unit in sample]
            found.setdefault(name, {})[currency] = total(values)
        most = sorted(found, key=lambda name: -max(abs(i.value) for i in found[name].values()))[:GROUPS_MAX]
        return {name: found[name] for name in sorted(most)}

    return Estimate(
        sampled_clicks=sum(sizes),
        to_valid=count([unit.to_valid for unit in sample]),
        to_invalid=count([unit.to_invalid for unit in sample]),
        to_undecided=count([unit.to_undecided for unit in sample]),
        change_micros={c: total([unit.change_micros.get(c, 0) for unit in sample]) for c in currencies},
        by_slice=grouped(lambda unit: unit.by_slice),
        by_advertiser=grouped(lambda unit: unit.by_advertiser),
    )


def ratio_total(values: Sequence[int], sizes: Sequence[int], units: int, clicks: int) -> Interval:
    """The total of a quantity over all clicks, from its sums and the numbers of clicks in n sampled parts."""
    n, sampled = len(sizes), sum(sizes)
    if not sampled:
        return Interval(0.0, -math.inf, math.inf)
    rate = sum(values) / sampled
    if n == units:
        return Interval(rate * clicks, rate * clicks, rate * clicks)
    if n < 2:
        return Interval(rate * clicks, -math.inf, math.inf)
    spread = sum((v - rate * s) ** 2 for v, s in zip(values, sizes, strict=True)) / (n - 1)
    error = clicks * math.sqrt((1 - n / units) * spread / n) / (sampled / n)
    return Interval(rate * clicks, rate * clicks - NORMAL_95 * error, rate * clicks + NORMAL_95 * error)


def none_seen(n: int, units: int, clicks: int) -> Interval:
    """A number of clicks of which n parts of `units`, chosen at random, have none.

    Were a share p of the parts concerned, n parts would miss them with probability (1 - p)^n, which 95% confidence puts
    at `MISSED` (Hanley and Lippman-Hand, JAMA 1983); a part that is concerned may be so as a whole.
    """
    return Interval(0.0, 0.0, 0.0 if n == units else clicks * (1 - MISSED ** (1 / n)) if n else math.inf)
