"""How sound models differ on simulated traffic: the rates that six months of ticks are drawn from.

Networks are trained day after day on four weeks of simulated traffic and judged on the last two weeks, each against its
neighbour as its shadow: what a daily retraining does. Their thresholds are those of equal FPR over the judged weeks: a
site with as many clicks as are drawn later would calibrate them as exactly, and these simulated weeks would not. A pair
that flips more known customers than the guardrail on behaviour lets pass is not deployed, and left out. Slices in which
few users were seen take part of their rates from all slices. Counted as detection counts:
users once a tick of ten seconds and slice.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks import calibration as calibrated
from clickledger.scoring import calibration, feature_spec, judged, labels, simulation, training
from clickledger.scoring.simulation_world import DEVICE_KIND, KINDS

DAYS, JUDGED_DAYS, TRAIN_DAYS, STEP_DAYS = 45, 14, 28, 1
DAY_MS = 24 * feature_spec.HOUR_MS
TICK_MS = 10_000
FPR_MAX = 0.01
PRIOR_USERS = 2_000
KNOWN_FLIPPED_MAX = 0.004  # what the guardrail on behaviour lets pass
GROUPS = ("known", "everyone", "hot")
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rates:
    """What was measured. Shares of users by slice for each pair of sound models; counts by hour and slice for pages."""

    slices: list[str]
    share: Floats  # (slices,) of all tick-users
    of_group: dict[str, Floats]  # (slices,) of a slice's tick-users who are in the group
    withheld: dict[str, Floats]  # (pairs, slices) of a group's users
    released: dict[str, Floats]
    human: Floats  # (slices,) of a slice's users who are people
    users_per_click: float
    pairs: int  # of models compared; those that passed the guardrail are rows of `withheld` and `released`
    hours: dict[str, Floats]  # counts by (day, hour of day, slice) of the judged days


def measure(clicks: int, seed: int, models: int = 4) -> Rates:
    """Simulate, train, and count disagreements. `clicks` over `DAYS` days."""
    began = time.monotonic()
    told, truth = simulation.simulate(
        simulation.SimulationConfig(clicks=clicks, start_ms=calibrated.START_MS, duration_hours=24.0 * DAYS, seed=seed)
    )
    traffic = calibrated.draw(clicks, 24.0 * DAYS, seed, 24.0 * DAYS)
    start = calibrated.START_MS
    trained = []
    for number in range(models):
        first = start + number * STEP_DAYS * DAY_MS
        trained.append(training.train_network(traffic.dataset.between(first, first + TRAIN_DAYS * DAY_MS)))
        print(f"  model {number + 1} of {models} after {time.monotonic() - began:.0f} s", file=sys.stderr)
    rows = told.event_time_ms >= start + (DAYS - JUDGED_DAYS) * DAY_MS
    features, bought = traffic.dataset.features[rows], traffic.dataset.purchased[rows]
    scores = [model.score(features) for model in trained]
    invalid = np.stack([own >= calibration.threshold_within(own, bought, FPR_MAX) for own in scores])
    purchases = _purchases_before(told)[rows]
    return _counted(told, rows, truth.robot[rows], purchases, features, invalid)


def _purchases_before(told: simulation.Simulated) -> Ints:
    """For each click, how many purchases its account had made a day and more before."""
    users, user = np.unique(told.user, return_inverse=True)
    bought_user, bought_at = user[told.purchases.click], told.purchases.occurred_at_ms
    order = np.lexsort((bought_at, bought_user))
    keys = bought_user[order].astype(np.int64) * (1 << 44) + bought_at[order]
    first = np.searchsorted(keys, np.arange(len(users), dtype=np.int64) * (1 << 44))
    upto = np.searchsorted(keys, user.astype(np.int64) * (1 << 44) + told.event_time_ms - DAY_MS)
    return np.maximum(0, upto - first[user])


def _counted(
    told: simulation.Simulated, rows: npt.NDArray[np.bool_], robot: npt.NDArray[np.bool_], purchases: Ints,
    features: npt.NDArray[np.int32], invalid: npt.NDArray[np.bool_],
) -> Rates:  # fmt: skip
    kind = np.array(KINDS)[DEVICE_KIND[told.device[rows]]]
    slice_ = np.char.add(kind, np.where(told.logged_in[rows], "/in", "/out"))
    slices, place = np.unique(slice_, return_inverse=True)
    n = len(slices)
    tick = told.event_time_ms[rows] // TICK_MS
    key = np.stack([tick, place.astype(np.int64), told.user[rows].astype(np.int64)])
    _, first, cell = np.unique(key, axis=1, return_index=True, return_inverse=True)
    cell = cell.reshape(-1)
    hot = features[:, feature_spec.INDEX["user_session_clicks_1h"]] > judged.SESSION_CLICKS_MAX
    at = place[first]
    group = {"known": _any(cell, purchases > 0), "everyone": np.ones(len(first), np.bool_), "hot": _any(cell, hot)}
    pairs = [(a, b) for a in range(len(invalid)) for b in range(len(invalid)) if abs(a - b) == 1]
    withheld: dict[str, list[Floats]] = {name: [] for name in GROUPS}
    released: dict[str, list[Floats]] = {name: [] for name in GROUPS}
    for live, shadow in pairs:
        taken, freed = _any(cell, invalid[live] & ~invalid[shadow]), _any(cell, ~invalid[live] & invalid[shadow])
        for name, member in group.items():
            withheld[name].append(_shares(at, member, taken, n))
            released[name].append(_shares(at, member, freed, n))
    total = np.bincount(at, minlength=n)
    users = np.bincount(at, group["known"], n)
    flipped = (np.stack(withheld["known"]) + np.stack(released["known"])) @ users / users.sum()
    kept = np.flatnonzero(flipped <= KNOWN_FLIPPED_MAX)
    if not len(kept):
        raise SystemExit(f"no pair of models passes the guardrail: expected one at most {KNOWN_FLIPPED_MAX}, {flipped}")
    loyal = purchases >= labels.DEFAULT_RFM.outcomes_min
    live = invalid[-1]
    day = (told.event_time_ms[rows] - told.event_time_ms[rows][0] // DAY_MS * DAY_MS) // feature_spec.HOUR_MS

    def by_hour(flag: npt.NDArray[np.bool_]) -> Floats:
        counts = np.zeros((JUDGED_DAYS * 24, n))
        np.add.at(counts, (np.minimum(day, JUDGED_DAYS * 24 - 1), place), flag)
        return counts.reshape(JUDGED_DAYS, 24, n)

    everything = np.ones(len(place), np.bool_)
    return Rates(
        slices=[str(name) for name in slices],
        share=total / total.sum(),
        of_group={name: np.bincount(at, member, n) / np.maximum(total, 1) for name, member in group.items()},
        withheld={name: np.stack(values)[kept] for name, values in withheld.items()},
        released={name: np.stack(values)[kept] for name, values in released.items()},
        human=1.0 - np.bincount(at, robot[first], n) / np.maximum(total, 1),
        users_per_click=len(first) / len(place),
        pairs=len(pairs),
        hours={
            "clicks": by_hour(everything),
            "invalid": by_hour(live),
            "hot": by_hour(hot),
            "hot_invalid": by_hour(hot & live),
            "loyal": by_hour(loyal),
            "loyal_invalid": by_hour(loyal & live),
        },
    )


def _shares(at: Ints, member: npt.NDArray[np.bool_], flipped: npt.NDArray[np.bool_], n: int) -> Floats:
    """Share of a group's users flipped, by slice, each drawn towards that of all slices as if by `PRIOR_USERS`."""
    overall = (member & flipped).sum() / max(member.sum(), 1)
    counts = np.bincount(at, member & flipped, n) + PRIOR_USERS * overall
    return np.asarray(counts / (np.bincount(at, member, n) + PRIOR_USERS))


def _any(cell: Ints, flag: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.bincount(cell, flag) > 0


def describe(rates: Rates) -> list[str]:
    """What was measured, in lines."""
    lines = [
        f"slices {', '.join(f'{name} {share:.1%}' for name, share in zip(rates.slices, rates.share, strict=True))}",
        f"{rates.users_per_click:.3f} users a tick and slice for each click",
        f"{len(rates.withheld['known'])} of {rates.pairs} pairs of models flip at most {KNOWN_FLIPPED_MAX:.1%} of the "
        "known customers",
    ]
    for name in GROUPS:
        weight = rates.share * rates.of_group[name]
        weight = weight / weight.sum()
        net = (rates.withheld[name] - rates.released[name]) @ weight
        flips = (rates.withheld[name] + rates.released[name]) @ weight
        lines.append(
            f"{name}: {float(rates.share @ rates.of_group[name]):.1%} of users; sound models flip "
            f"{flips.min():.2%} to {flips.max():.2%} of them, net {net.min():+.2%} to {net.max():+.2%}; "
            f"by slice net at most {np.abs(rates.withheld[name] - rates.released[name]).max():.2%}"
        )
    return lines
