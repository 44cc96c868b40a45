"""Anomalies of a deployment, from its disagreements with the stable model in shadow: pure CUSUM arithmetic.

Per tick and series there are n users, of whom the live model withheld some whom the shadow would have billed, and
released some whom the shadow would have withheld. Two healthy models disagree in both directions alike; a model that
invalidates people does not. With d = withheld - released and an allowance k per user,

    S_i = max(0, S_(i-1) + d_i - k n_i)        (Page 1954)

and S reaches h by chance in one excursion from 0 with probability exp(-theta h) at most (Lundberg's inequality), theta
the positive root of w (e^theta - 1) + r (e^-theta - 1) = k theta, for withheld and released as Poisson counts with
rates r, as observed, and w = r + the net difference that is still tolerated. `evidence` is theta S, so its threshold
means the same at every rate of traffic and length of tick.

- `known`    users with a mature purchase: the signal to act on;
- `overall`  all users: a better model differs here too, so it only supports `known`;
- `flood`    all users, far beyond any difference between two sound models: enough alone, for traffic without purchases;
- `mirror`   the reverse of `flood`: users whom the live model bills and the shadow would have withheld. A model that
             lets robots pass does not show in the signals above;
- `hot`      the reverse over users in hot sessions, who are robots for the most part: what `mirror` sees when a quarter
             of all users is let pass, this sees when a quarter of the robots is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

ALL = "*"  # every slice together
KNOWN, EVERYONE, HOT = "known", "everyone", "hot"
THETA_MAX = 4.0  # one disagreement is never worth more than this
PRIOR_RELEASED = 1.0  # added to the count: a short series must not look free of noise


class Tick(NamedTuple):
    """One tick of one series: users seen, users the live model alone withheld, users it alone released."""

    users: int
    withheld: int
    released: int


@dataclass(frozen=True)
class Signal:
    """What one signal looks at and tolerates; shares of users."""

    name: str
    of: str  # which users: KNOWN, EVERYONE or HOT
    tolerated: float  # a net difference between sound models
    allowance: float  # taken off at every tick; detection is tuned to twice this and more
    alone: float  # evidence that raises without another signal
    together: float = math.inf  # evidence that raises with another signal
    mirrored: bool = False  # counts users released against users withheld
    of_slice: tuple[float, float] | None = None  # tolerated and allowance in a single slice, where they are others

    def limits(self, slice_: str) -> tuple[float, float]:
        """What is tolerated, and the allowance, over a slice or `ALL`."""
        return (self.tolerated, self.allowance) if slice_ == ALL or self.of_slice is None else self.of_slice


# Sound models agree on nearly all known customers who are logged in; who are not, they flip 2 to 4% of, net up to 0.9%.
SIGNALS = (
    Signal("known", KNOWN, tolerated=0.001, allowance=0.004, alone=18.0, together=10.0, of_slice=(0.01, 0.02)),
    Signal("overall", EVERYONE, tolerated=0.01, allowance=0.02, alone=math.inf, together=10.0),
    Signal("flood", EVERYONE, tolerated=0.15, allowance=0.25, alone=24.0),
    Signal("mirror", EVERYONE, tolerated=0.03, allowance=0.06, alone=24.0, mirrored=True),
    Signal("hot", HOT, tolerated=0.10, allowance=0.20, alone=24.0, mirrored=True),
)
SLICE_SURCHARGE = 4.0  # more series, more chances: about the logarithm of how many slices there are


@dataclass(frozen=True)
class Reading:
    """One signal over one slice, or over `ALL`, at the end of the series."""

    signal: str
    slice: str
    users: int
    withheld: int
    released: int
    cusum: float  # users
    theta: float
    alone: float
    together: float
    course: list[float] = field(default_factory=list)  # the CUSUM at each tick

    @property
    def evidence(self) -> float:
        """Minus the logarithm of the chance that an excursion of a sound deployment gets this far."""
        return self.theta * self.cusum


@dataclass(frozen=True)
class Alarm:
    """Why a deployment is anomalous: which signals raised it over which scope, and the slice most affected."""

    scope: str  # `ALL`, or the one slice that shows it
    slice: str
    signals: list[str]
    readings: list[Reading]


def judge(
    known: Mapping[str, Sequence[Tick]],
    everyone: Mapping[str, Sequence[Tick]],
    hot: Mapping[str, Sequence[Tick]] | None = None,
) -> Alarm | None:
    """Read every signal over every slice and over all of them; the alarm, if any.

    Each maps a slice to its ticks, in order and as many in each.
    """
    series = {KNOWN: known, EVERYONE: everyone, HOT: hot or {}}
    readings = [
        read(signal, slice_, ticks) for signal in SIGNALS for slice_, ticks in _with_all(series[signal.of]).items()
    ]
    slices = sorted({r.slice for r in readings} - {ALL})
    for scope in [ALL, *sorted(slices, key=lambda name: -_most([r for r in readings if r.slice == name]).evidence)]:
        if signals := _raising([r for r in readings if r.slice == scope]):
            witnesses = [r for r in readings if r.signal in signals and r.slice != ALL]
            return Alarm(scope, _most(witnesses).slice if scope == ALL else scope, signals, readings)
    return None


def read(signal: Signal, slice_: str, ticks: Sequence[Tick]) -> Reading:
    """One signal over the ticks of one slice."""
    users, withheld, released = (sum(column) for column in zip(*ticks, strict=True)) if ticks else (0, 0, 0)
    if signal.mirrored:
        ticks = [Tick(tick.users, tick.released, tick.withheld) for tick in ticks]
    tolerated, allowance = signal.limits(slice_)
    course = cusum(ticks, allowance)
    noise = ((withheld if signal.mirrored else released) + PRIOR_RELEASED) / max(users, 1)
    surcharge = 0.0 if slice_ == ALL else SLICE_SURCHARGE
    return Reading(
        signal=signal.name,
        slice=slice_,
        users=users,
        withheld=withheld,
        released=released,
        cusum=course[-1] if course else 0.0,
        theta=exponent(noise + tolerated, noise, allowance),
        alone=signal.alone + surcharge,
        together=signal.together + surcharge,
        course=course,
    )


def cusum(ticks: Iterable[Tick], allowance: float) -> list[float]:
    """S at each tick, in users."""
    course: list[float] = []
    level = 0.0
    for tick in ticks:
        level = max(0.0, level + tick.withheld - tick.released - allowance * tick.users)
        course.append(level)
    return course


def exponent(withheld: float, released: float, allowance: float) -> float:
    """Lundberg's exponent for Poisson rates per user; 0 where the drift is not downwards, `THETA_MAX` at most."""
    if withheld - released >= allowance:
        return 0.0

    def excess(theta: float) -> float:
        return withheld * math.expm1(theta) + released * math.expm1(-theta) - allowance * theta

    if excess(THETA_MAX) <= 0.0:
        return THETA_MAX
    low, high = 0.0, THETA_MAX  # excess is convex, 0 at 0 and falling there: one root in between
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0.0 else (low, middle)
    return low


def _with_all(slices: Mapping[str, Sequence[Tick]]) -> dict[str, Sequence[Tick]]:
    """The slices and, over them all, their sums tick by tick."""
    columns = zip(*slices.values(), strict=True)
    summed = [Tick(*(sum(numbers) for numbers in zip(*column, strict=True))) for column in columns]
    return {ALL: summed, **slices}


def _raising(readings: Sequence[Reading]) -> list[str]:
    """Names of the signals that raise over one scope: two together, or one beyond its own threshold; [] for none."""
    alone = {r.signal for r in readings if r.evidence >= r.alone}
    together = {r.signal for r in readings if r.evidence >= r.together}
    return sorted(alone | together) if alone or len(together) >= 2 else []


def _most(readings: Sequence[Reading]) -> Reading:
    return max(readings, key=lambda r: (r.evidence, r.cusum, r.slice))
