"""Rates that somebody should look at, beside what the same hour of the week used to bring: pure CUSUM arithmetic.

These signals page and never act: they move with advertisers, robots and holidays as well as with a bad model. The
paired signals of `detection` act.

Per minute, n is what a share is of and x how many of them; p is the share of that hour of the week in the weeks
before, phi how many times larger than binomial its variance was there, over whole hours (bursts last longer
than a minute). With an allowance a and a difference t that a sound day brings, both relative to p,

    S_i = max(0, S_(i-1) + (x_i - n_i p) - a n_i p),    evidence = S 2 (a - t) / (phi (1 - p))

which for normal increments of drift -(a - t) n p and variance phi n p (1 - p) is minus the logarithm of the chance of
an excursion from 0 that high (Lundberg, as in `detection`). Falls are the same with the sign changed.

- `loyal`      share invalidated of the clicks of accounts with several purchases
- `ivr`        share invalidated of all clicks
- `coverage`   share invalidated of the clicks in hot sessions
- `undecided`  share that could not be decided: the decision rate is what is left
- `incomplete` share without a login status
- `lagging`    share recorded long after it happened
- `rate`       clicks a minute
- `scores`     distribution of the live model's scores, by PSI, against its day before

Hysteresis: a page stands until its evidence has fallen to a quarter; cooldown: for an hour the same signal of the same
slice pages nobody again. Warm-up: nothing is judged before an hour of the week has its clicks in an earlier week.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

EVIDENCE_PAGES = 25.0  # calibrated: docs/detection.md
EVIDENCE_CLEARS = EVIDENCE_PAGES / 4
COOLDOWN_SECONDS = 3600.0
BASELINE_MIN = 300  # clicks (or accounts' clicks, or hot ones) of that hour in earlier weeks
BLOCK_MINUTES = 60  # whole hours: what lasts as long as a burst differs from week to week by more than minutes tell
SHARE_MAX = 0.98  # a share is never taken for higher: of a handful of clicks all may be invalid
PSI_PAGES, PSI_CLEARS = 0.25, 0.10
PSI_CLICKS_MIN = 5_000
Direction = Literal["up", "down"]
UP: Direction = "up"
DOWN: Direction = "down"


class Minute(NamedTuple):
    """What one minute of one slice brought; `at` is Unix time in minutes."""

    at: int
    first_position: int
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Share:
    """A signal: `part` of `whole`, in counts of a minute; differences relative to the share before."""

    name: str
    part: str
    whole: str
    directions: tuple[Direction, ...]
    tolerated: float
    allowance: float
    floor: float = 0.0  # a share is never taken for lower than this


SHARES = (
    Share("loyal", "loyal_invalid", "loyal", (UP,), 0.2, 0.5, floor=0.005),
    Share("ivr", "invalid", "clicks", (UP, DOWN), 0.15, 0.4, floor=0.005),
    Share("coverage", "hot_invalid", "hot", (DOWN,), 0.15, 0.3),
    Share("undecided", "undecided", "clicks", (UP,), 0.5, 1.0, floor=0.005),
    Share("incomplete", "incomplete", "clicks", (UP,), 0.2, 0.5, floor=0.005),
    Share("lagging", "lagging", "clicks", (UP,), 0.5, 1.0, floor=0.005),
)
RATE_TOLERATED, RATE_ALLOWANCE = 0.25, 0.4


@dataclass(frozen=True)
class Baseline:
    """An hour of the week in the weeks before: the share and its dispersion."""

    of: int  # clicks it rests on
    share: float
    dispersion: float  # 1 where minutes differ as binomial draws do


@dataclass(frozen=True)
class Reading:
    """One signal of one slice in one direction at the end of the series."""

    signal: str
    slice: str
    direction: Direction
    evidence: float
    observed: float  # since the onset
    expected: float
    onset_position: int  # of the first click after the CUSUM's last zero
    pages_at: float
    clears_at: float

    @property
    def key(self) -> tuple[str, str, str]:
        """What a page is about."""
        return self.signal, self.slice, self.direction


def baseline(minutes: Sequence[Minute], share: Share) -> Baseline | None:
    """The baseline of one hour of the week; None while there is too little of it."""
    pairs = [(m.counts[share.part], m.counts[share.whole]) for m in minutes]
    of = sum(n for _, n in pairs)
    if of < BASELINE_MIN:
        return None
    p = min(max(sum(x for x, _ in pairs) / of, share.floor, 1.0 / of), SHARE_MAX)
    blocks: dict[int, list[int]] = {}
    for minute, (x, n) in zip(minutes, pairs, strict=True):
        block = blocks.setdefault(minute.at // BLOCK_MINUTES, [0, 0])
        block[0] += x
        block[1] += n
    return Baseline(of, p, max(_dispersion([tuple(b) for b in blocks.values()], p), _dispersion(pairs, p), 1.0))


def _dispersion(pairs: Sequence[tuple[int, ...]], p: float) -> float:
    squares = [(x - n * p) ** 2 / (n * p * (1.0 - p)) for x, n in pairs if n and p < 1.0]
    return sum(squares) / len(squares) if squares else 1.0


def hour_of_week(minute: int) -> int:
    """0 to 167 of a Unix time in minutes, UTC; 0 is Thursday's first, with which Unix time begins."""
    return minute // 60 % 168


def read_share(
    share: Share, slice_: str, minutes: Sequence[Minute], hours: Mapping[int, Baseline | None]
) -> list[Reading]:
    """A share over the minutes of one slice, `hours` mapping the hour of the week to its baseline."""
    found = []
    for direction in share.directions:
        sign = 1.0 if direction == UP else -1.0
        level = observed = expected = 0.0
        evidence, onset = 0.0, minutes[0].first_position if minutes else 0
        for minute in minutes:
            base = hours.get(hour_of_week(minute.at))
            if base is None or base.share >= 1.0:
                continue
            x, n = minute.counts[share.part], minute.counts[share.whole]
            level = max(0.0, level + sign * (x - n * base.share) - share.allowance * n * base.share)
            if level == 0.0:
                observed, expected, onset = 0.0, 0.0, minute.first_position
                evidence = 0.0
                continue
            observed, expected = observed + x, expected + n * base.share
            slope = 2.0 * (share.allowance - share.tolerated) / (base.dispersion * (1.0 - base.share))
            evidence = level * slope
        found.append(
            Reading(share.name, slice_, direction, evidence, observed, expected, onset, EVIDENCE_PAGES, EVIDENCE_CLEARS)
        )
    return found


def read_rate(slice_: str, minutes: Sequence[Minute], before: Mapping[int, Sequence[int]]) -> list[Reading]:
    """Clicks a minute, both ways; `before` maps the hour of the week to the clicks of its minutes in earlier weeks."""
    found = []
    for direction in (UP, DOWN):
        sign = 1.0 if direction == UP else -1.0
        level = observed = expected = evidence = 0.0
        onset = minutes[0].first_position if minutes else 0
        for minute in minutes:
            counts = before.get(hour_of_week(minute.at), ())
            if sum(counts) < BASELINE_MIN:
                continue
            mean = sum(counts) / len(counts)
            dispersion = max(1.0, sum((c - mean) ** 2 for c in counts) / len(counts) / mean)
            level = max(0.0, level + sign * (minute.counts["clicks"] - mean) - RATE_ALLOWANCE * mean)
            if level == 0.0:
                observed = expected = evidence = 0.0
                onset = minute.first_position
                continue
            observed, expected = observed + minute.counts["clicks"], expected + mean
            evidence = level * 2.0 * (RATE_ALLOWANCE - RATE_TOLERATED) / dispersion
        found.append(
            Reading("rate", slice_, direction, evidence, observed, expected, onset, EVIDENCE_PAGES, EVIDENCE_CLEARS)
        )
    return found


def read_scores(now: Sequence[int], before: Sequence[int], first_position: int) -> Reading | None:
    """PSI of two histograms of scores; None while either is small."""
    if min(sum(now), sum(before)) < PSI_CLICKS_MIN:
        return None
    index = psi(now, before)
    return Reading(
        "scores", "*", "up", index, float(sum(now)), float(sum(before)), first_position, PSI_PAGES, PSI_CLEARS
    )


def psi(now: Sequence[int], before: Sequence[int]) -> float:
    """Population stability index of two histograms of as many bins; half a click is added to each bin."""
    total_now, total_before = sum(now) + 0.5 * len(now), sum(before) + 0.5 * len(before)
    shares = [((a + 0.5) / total_now, (b + 0.5) / total_before) for a, b in zip(now, before, strict=True)]
    return sum((a - b) * math.log(a / b) for a, b in shares)


@dataclass(frozen=True)
class Standing:
    """A page that was sent: whether it still stands, and when it was sent or cleared last (Unix time, seconds)."""

    open: bool
    since: float


def transitions(
    readings: Sequence[Reading], standing: Mapping[tuple[str, str, str], Standing], now: float
) -> tuple[list[Reading], list[Reading]]:
    """What to page and what is over, with hysteresis and cooldown."""
    pages, over = [], []
    for reading in readings:
        known = standing.get(reading.key)
        if known is not None and known.open:
            if reading.evidence <= reading.clears_at:
                over.append(reading)
        elif reading.evidence >= reading.pages_at and (known is None or now - known.since >= COOLDOWN_SECONDS):
            pages.append(reading)
    return pages, over
