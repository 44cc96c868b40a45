"""Weeks of simulated traffic as guardrails would find them in the ledger, without one: counted, labelled, weighted.

A `World` is made once; `evidence` is what a training at some moment would see of it, with faults on request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clickledger.scoring import feature_replay, feature_spec, labels, recent_clicks, training
from clickledger.scoring.dataset import Assembled, Dataset
from clickledger.scoring.findings import DAY_MS, DEFAULT_LIMITS, WEEK_MS
from clickledger.scoring.guardrails import Evidence
from clickledger.scoring.guards_of_feeds import Day
from clickledger.scoring.labels import LabelRules, Outcomes, Stretch
from clickledger.scoring.recent_clicks import RecentClicks
from clickledger.scoring.simulation import SimulationConfig, simulate
from clickledger.scoring.simulation_truth import KINDS as TRUE_KINDS
from clickledger.scoring.simulation_world import DEVICE_KIND, KINDS

START_MS = 1_767_571_200_000  # 2026-01-05, a Monday
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class World:
    """n clicks as they were counted, m outcomes as they became known, and what nobody who learns may see."""

    time_ms: Ints
    features: npt.NDArray[np.int32]
    user: Ints
    ip: Ints
    campaign: Ints
    slice: npt.NDArray[np.str_]
    outcomes: Outcomes
    kind: npt.NDArray[np.int8]  # the truth, an index into `simulation_truth.KINDS`

    @property
    def end_ms(self) -> int:
        """The day after the last one."""
        return START_MS + -(-(int(self.time_ms.max()) - START_MS) // DAY_MS) * DAY_MS

    def of(self, kind: str) -> Flags:
        """The clicks of one kind of actor."""
        return self.kind == TRUE_KINDS.index(kind)


def world(clicks: int, days: float, seed: int = 1) -> World:
    """Simulate and count."""
    traffic, truth = simulate(SimulationConfig(clicks, START_MS, days * 24.0, seed=seed))
    records = np.zeros(len(traffic), dtype=feature_spec.CLICK_DTYPE)
    records["user_key"], records["ip_key"] = _keys(traffic.user), _keys(traffic.ip)
    records["event_time_ms"] = traffic.event_time_ms
    records["campaign"], records["session"] = traffic.campaign, traffic.session & 0xFFFF
    records["user_slot"] = traffic.user % feature_spec.IP_USER_SLOTS
    records["agent_slot"] = traffic.device % feature_spec.IP_AGENT_SLOTS
    records["ip_slot"] = traffic.ip % feature_spec.USER_IP_SLOTS
    records["logged_in"] = traffic.logged_in
    kind = DEVICE_KIND[traffic.device]
    records["device_kind"] = np.array([feature_spec.device_kind_code(name) for name in KINDS])[kind]
    user = np.unique(traffic.user, return_inverse=True)[1]
    bought = traffic.purchases
    return World(
        time_ms=traffic.event_time_ms,
        features=feature_replay.recompute_encoded(records.tobytes()),
        user=user,
        ip=np.unique(traffic.ip, return_inverse=True)[1],
        campaign=traffic.campaign,
        slice=np.char.add(np.array(KINDS)[kind], np.where(traffic.logged_in, "/in", "/out")),
        outcomes=Outcomes(
            bought.click, user[bought.click], traffic.event_time_ms[bought.click], bought.occurred_at_ms,
            bought.value_micros,
        ),
        kind=truth.kind,
    )  # fmt: skip


def evidence(
    source: World,
    cutoff_ms: int,
    *,
    rules: LabelRules = labels.DAILY,
    withheld: Sequence[Stretch] = (),
    days: int = 28,
    lost: Flags | None = None,
    undecided: Flags | None = None,
) -> Evidence:
    """What a training with this label cut-off sees of the last `days` mature days.

    `withheld` labels; clicks that were `lost` (n,) before they were counted; clicks left `undecided` (n,).
    """
    end_ms = cutoff_ms - rules.maturity_ms
    inside = (source.time_ms >= end_ms - days * DAY_MS) & (source.time_ms < end_ms)
    rows = np.flatnonzero(inside if lost is None else inside & ~lost)
    place = np.full(len(source.time_ms), -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    known = source.outcomes.where(source.outcomes.occurred_at_ms <= cutoff_ms)
    known = replace(known, click=place[known.click])
    clicks = labels.Clicks(
        click_id=[row.to_bytes(16) for row in rows.tolist()],
        time_ms=source.time_ms[rows],
        user=source.user[rows],
        ip=source.ip[rows],
    )
    labelled = labels.label(clicks, known, rules, withheld)
    built = Dataset(
        source.features[rows], labelled.human, labelled.purchased, clicks.user, source.slice[rows], clicks.time_ms
    )
    made = Assembled(
        dataset=built,
        outcomes=known,
        ip=clicks.ip,
        campaign=source.campaign[rows],
        users=_names(source.user),
        ips=_names(source.ip),
        campaigns=[f"campaign {i}" for i in range(int(source.campaign.max()) + 1)],
        capped=labelled.capped,
    )
    back = (end_ms - 1 - clicks.time_ms) // DAY_MS
    late = np.zeros(len(rows), dtype=np.int64) if undecided is None else undecided[rows]
    counts = zip(np.bincount(back).tolist(), np.bincount(back, weights=late).astype(int).tolist(), strict=True)
    by_day = {i: Day(clicks, undecided) for i, (clicks, undecided) in enumerate(counts)}
    weights = training.sample_weights(built.features, built.human, training.DEFAULT_CONFIG.weight_cap)
    return Evidence(made, end_ms, cutoff_ms, by_day, weights)


def recent(source: World, at_ms: int, days: int = 7) -> RecentClicks:
    """What guards of behaviour see at that moment: the newest days, and the outcomes known by then."""
    rows = np.flatnonzero((source.time_ms >= at_ms - days * DAY_MS) & (source.time_ms < at_ms))
    outcomes = source.outcomes.where(source.outcomes.occurred_at_ms <= at_ms)
    bought = np.zeros(len(source.time_ms), dtype=np.bool_)
    bought[outcomes.click] = True
    known = recent_clicks.known_customers(outcomes, source.user[rows], source.time_ms[rows], DEFAULT_LIMITS)
    columns = (source.features, bought, source.user, source.slice, source.time_ms)
    features, purchased, user, slices, time_ms = (column[rows] for column in columns)
    return RecentClicks(features, purchased, known, user, slices, time_ms, at_ms - days * DAY_MS, 0, 1.0)


def poisoned(source: World, share: float = 0.3, seed: int = 0) -> World:
    """The click farm buys: a share of its clicks led to purchases within the hour."""
    farm = np.flatnonzero(source.of("click_farm"))
    rows = np.random.default_rng(seed).choice(farm, int(share * len(farm)), replace=False)
    at_ms, value = source.time_ms[rows], np.full(len(rows), 30_000_000)
    bought = Outcomes(rows, source.user[rows], at_ms, at_ms + 600_000, value)
    return replace(source, outcomes=joined(source.outcomes, bought))


def joined(one: Outcomes, other: Outcomes) -> Outcomes:
    """Both."""
    columns = ("click", "user", "clicked_at_ms", "occurred_at_ms", "value_micros")
    return Outcomes(*(np.concatenate([getattr(one, name), getattr(other, name)]) for name in columns))


def _keys(numbers: Ints) -> npt.NDArray[np.void]:
    pairs = np.zeros((len(numbers), 2), dtype=np.int64)
    pairs[:, 0] = numbers
    return pairs.view("V16")[:, 0]


def _names(indices: Ints) -> list[bytes]:
    return [i.to_bytes(16) for i in range(int(indices.max()) + 1)]


__all__ = ["START_MS", "WEEK_MS", "World", "evidence", "joined", "poisoned", "recent", "world"]
