"""Months of ticks drawn from measured rates, and the detectors' arithmetic over whole arrays of them.

`evidence` is what `detection.read` gives after each tick of a deployment, and `page_evidence` what `paging.read_share`
gives after each minute; the benchmark compares them on samples at every run, so that what is counted here is the
product's arithmetic. (Without shortening: the product judges deployments older than a few hours in longer ticks, which
only takes evidence away.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.detection_rates import GROUPS, Floats, Rates
from clickledger.recovery import detection, paging
from clickledger.recovery.detection import Signal, Tick

TICKS_A_DAY = 8_640
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Drawn:
    """One deployment's ticks: (ticks, slices) of users, withheld and released, by group."""

    users: dict[str, Array]
    withheld: dict[str, Array]
    released: dict[str, Array]


def draw(
    rates: Rates, rate: float, ticks: int, random: np.random.Generator, *, start_hour: float = 0.0, more: float = 0.0
) -> Drawn:
    """Ticks of 10 s at `rate` clicks/s on average, under a pair of sound models; `more` of the people withheld beside.

    The day's rhythm and its differences between days are those of a random simulated day.
    """
    clicks = rates.hours["clicks"]
    day = clicks[random.integers(len(clicks))].sum(axis=1)
    hour = (start_hour + np.arange(ticks) / 360.0) % 24
    relative = day[hour.astype(int)] / clicks.sum(axis=2).mean()
    mean = 10.0 * rate * rates.users_per_click * relative[:, None] * rates.share[None, :]
    everyone = random.poisson(mean)
    pair = random.integers(len(rates.withheld["everyone"]))
    users, withheld, released = {}, {}, {}
    for name in GROUPS:
        size = everyone if name == "everyone" else random.binomial(everyone, np.clip(rates.of_group[name], 0, 1))
        bad = more * {"known": 1.0, "everyone": rates.human, "hot": 0.0}[name]
        users[name] = size
        withheld[name] = random.binomial(size, np.clip(rates.withheld[name][pair] + bad, 0, 1))
        released[name] = random.binomial(size, np.clip(rates.released[name][pair], 0, 1))
    return Drawn(users, withheld, released)


def evidence(signal: Signal, slice_: str, users: Array, withheld: Array, released: Array) -> Floats:
    """What `detection.read` would give after each tick of one series (ticks,)."""
    tolerated, allowance = signal.limits(slice_)
    if signal.mirrored:
        withheld, released = released, withheld
    walk = np.cumsum(withheld - released - allowance * users)
    level = walk - np.minimum(np.minimum.accumulate(walk), 0.0)
    noise = (np.cumsum(released) + detection.PRIOR_RELEASED) / np.maximum(np.cumsum(users), 1)
    found = np.zeros(len(users))
    needed = min(signal.alone, signal.together) / detection.THETA_MAX
    ticks = _worth_reading(level, needed)
    found[ticks] = level[ticks] * _exponents(noise[ticks] + tolerated, noise[ticks], allowance)
    return found


def _exponents(withheld: Floats, released: Floats, allowance: float) -> Floats:
    """`detection.exponent` of many rates at once (n,)."""
    low, high = np.zeros(len(withheld)), np.full(len(withheld), detection.THETA_MAX)

    def excess(theta: Floats) -> Floats:
        return np.asarray(withheld * np.expm1(theta) + released * np.expm1(-theta) - allowance * theta)

    highest = excess(high) <= 0.0
    for _ in range(50):
        middle = (low + high) / 2
        below = excess(middle) < 0.0
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    found = np.where(highest, detection.THETA_MAX, low)
    return np.where(withheld - released >= allowance, 0.0, found)


def _worth_reading(level: Array, needed: float) -> Array:
    """Ticks at which the CUSUM is high enough to matter at all, and rises."""
    rises = np.diff(level, prepend=0.0) > 0.0
    return np.flatnonzero(rises & (level >= needed))


def first_alarm(drawn: Drawn) -> dict[str, int]:
    """For each signal alone, and for the detector (`any`): the first tick at which it raises; absent if never."""
    slices = drawn.users["everyone"].shape[1]
    raised: dict[str, list[int]] = {}
    for column in [None, *range(slices)]:
        surcharge = 0.0 if column is None else detection.SLICE_SURCHARGE
        alone, together = [], []
        for signal in detection.SIGNALS:
            series = [
                part[signal.of].sum(axis=1) if column is None else part[signal.of][:, column]
                for part in (drawn.users, drawn.withheld, drawn.released)
            ]
            read = evidence(signal, detection.ALL if column is None else str(column), *series)
            alone.append(read >= signal.alone + surcharge)
            together.append(read >= signal.together + surcharge)
            if alone[-1].any():
                raised.setdefault(signal.name, []).append(int(alone[-1].argmax()))
        either = np.any(alone, axis=0) | (np.sum(together, axis=0) >= 2)
        if either.any():
            raised.setdefault("any", []).append(int(either.argmax()))
    return {name: min(found) for name, found in raised.items()}


def check(drawn: Drawn, random: np.random.Generator) -> None:
    """Raise AssertionError unless the arrays give what the product gives, at ticks chosen by chance."""
    for signal in detection.SIGNALS:
        parts = [part[signal.of] for part in (drawn.users, drawn.withheld, drawn.released)]
        for slice_, series in (
            (detection.ALL, [part.sum(axis=1) for part in parts]),
            ("first", [part[:, 0] for part in parts]),
        ):
            mine = evidence(signal, slice_, *series)
            for tick in random.choice(np.flatnonzero(mine), min(2, int((mine > 0).sum())), replace=False):
                ticks = [Tick(*map(int, row)) for row in zip(*(c[: tick + 1] for c in series), strict=True)]
                theirs = detection.read(signal, slice_, ticks).evidence
                if not np.isclose(mine[tick], theirs):
                    raise AssertionError(f"{signal.name}: expected evidence {theirs}, got {mine[tick]}")


# Pages: counts by (week, minute of the week).


def draw_weeks(
    rates: Rates, rate: float, weeks: int, random: np.random.Generator, more: Floats | None = None
) -> dict[str, Array]:
    """Counts of all slices together by (weeks, 10,080 minutes). `more` (weeks, minutes): share of people withheld."""
    days = random.integers(0, len(rates.hours["clicks"]) // 7, (weeks, 7)) * 7 + np.arange(7)
    hours = {name: counts.sum(axis=2)[days] for name, counts in rates.hours.items()}  # (weeks, 7, 24)
    scale = 60.0 * rate / rates.hours["clicks"].sum(axis=2).mean()
    minutes = {name: np.repeat(counts.reshape(weeks, 168), 60, axis=1) for name, counts in hours.items()}
    clicks = random.poisson(minutes["clicks"] * scale)
    added = np.zeros(clicks.shape) if more is None else more
    human = float(rates.share @ rates.human)
    return {
        "clicks": clicks,
        "invalid": _part(random, clicks, minutes["invalid"], minutes["clicks"], added * human),
        **_nested(random, clicks, minutes, "hot", np.zeros(clicks.shape)),
        **_nested(random, clicks, minutes, "loyal", added),
    }


def _nested(
    random: np.random.Generator, clicks: Array, minutes: dict[str, Array], name: str, added: Floats
) -> dict[str, Array]:
    whole = _part(random, clicks, minutes[name], minutes["clicks"], np.zeros(clicks.shape))
    return {name: whole, f"{name}_invalid": _part(random, whole, minutes[f"{name}_invalid"], minutes[name], added)}


def _part(random: np.random.Generator, of: Array, part: Array, whole: Array, added: Floats) -> Array:
    share = np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
    return random.binomial(of, np.clip(share + added, 0, 1))


def page_evidence(share: paging.Share, direction: str, counts: dict[str, Array], first_week: int = 1) -> Floats:
    """Evidence after each minute from `first_week` on, (weeks * minutes,), each hour beside the four weeks before."""
    x, n = counts[share.part].astype(float), counts[share.whole].astype(float)
    weeks = len(x)
    excess, slope = np.zeros(x.shape), np.zeros(x.shape)
    sign = 1.0 if direction == paging.UP else -1.0
    for week in range(first_week, weeks):
        past = slice(max(0, week - 4), week)
        p, phi, judged = _baseline(x[past].reshape(-1, 168, 60), n[past].reshape(-1, 168, 60), share.floor)
        p, phi, judged = (np.repeat(column, 60) for column in (p, phi, judged))
        excess[week] = np.where(judged, sign * (x[week] - n[week] * p) - share.allowance * n[week] * p, 0.0)
        slope[week] = 2.0 * (share.allowance - share.tolerated) / (phi * np.maximum(1.0 - p, 1e-9))
    walk = np.cumsum(excess[first_week:])
    level = walk - np.minimum(np.minimum.accumulate(walk), 0.0)
    return level * slope[first_week:].reshape(-1)


def _baseline(x: Array, n: Array, floor: float) -> tuple[Array, Array, Array]:
    """`paging.baseline` of each hour of the week at once; (weeks, 168, 60) counts."""
    of = n.sum(axis=(0, 2))
    p = np.maximum(np.maximum(x.sum(axis=(0, 2)) / np.maximum(of, 1), floor), 1.0 / np.maximum(of, 1))
    p = np.minimum(p, paging.SHARE_MAX)
    phis = [_dispersion(x, n, p)]
    blocks = [counts.reshape(*counts.shape[:2], -1, paging.BLOCK_MINUTES).sum(axis=3) for counts in (x, n)]
    phis.append(_dispersion(*blocks, p))
    return p, np.maximum(np.maximum(*phis), 1.0), (of >= paging.BASELINE_MIN) & (p < 1.0)


def _dispersion(x: Array, n: Array, p: Array) -> Array:
    expected = n * p[None, :, None]
    spread = expected * (1.0 - p[None, :, None])
    squares = np.divide((x - expected) ** 2, spread, out=np.zeros(x.shape), where=spread > 0)
    seen = np.maximum((n > 0).sum(axis=(0, 2)), 1)
    return np.asarray(squares.sum(axis=(0, 2)) / seen)


def pages(found: Floats) -> list[int]:
    """Minutes at which a page is sent, with hysteresis and cooldown, as `paging.transitions` has it."""
    sent: list[int] = []
    standing, since = False, -np.inf
    for minute in np.flatnonzero(found >= paging.EVIDENCE_PAGES):
        if standing:
            over = np.flatnonzero(found[int(since) : minute] <= paging.EVIDENCE_CLEARS)
            if not len(over):
                continue
            standing, since = False, since + over[0]
        if minute - since >= paging.COOLDOWN_SECONDS / 60 or not sent:
            sent.append(int(minute))
            standing, since = True, float(minute)
    return sent
