"""Traffic made day by day: any day by itself, the same people and robots on all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clickledger.errors import InvalidInput
from clickledger.scoring import simulation_days
from clickledger.scoring.simulation import Fault, RobotsConfig, SimulationConfig
from clickledger.scoring.simulation_config import FaultKind
from clickledger.scoring.simulation_days import DAY_MS, Day, Run
from clickledger.scoring.simulation_traffic import COLUMNS
from clickledger.scoring.simulation_truth import KINDS

CONFIG = SimulationConfig(clicks=60_000, start_ms=1_759_104_000_000, duration_hours=24 * 10, seed=5)  # from a Monday on
DAYS = list(Run(CONFIG))


def clicks_of(day: Day, kind: str, column: str) -> np.ndarray:
    """A column of the clicks of one kind."""
    return np.asarray(getattr(day.traffic, column)[day.truth.kind == KINDS.index(kind)])


def buying_clicks(days: list[Day]) -> np.ndarray:
    """The ids of clicks that led to a purchase, sorted."""
    return np.sort(np.concatenate([day.traffic.click[day.traffic.purchases.click] for day in days]))


def test_a_day_by_itself_is_that_day_of_the_run() -> None:
    for number in (0, 7):
        alone = Run(CONFIG).day(number)
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(alone.traffic, name), getattr(DAYS[number].traffic, name))
        np.testing.assert_array_equal(alone.truth.kind, DAYS[number].truth.kind)
    other = Run(replace(CONFIG, seed=6)).day(0)
    assert not np.array_equal(other.traffic.user[:100], DAYS[0].traffic.user[:100])


def test_days_follow_each_other_and_hold_the_clicks_of_the_run() -> None:
    for number, day in enumerate(DAYS):
        inside = day.traffic.event_time_ms - CONFIG.start_ms - number * DAY_MS
        assert (np.diff(inside) >= 0).all() and inside[0] >= 0 and inside[-1] < DAY_MS
    total = sum(len(day.traffic) for day in DAYS)
    assert total == pytest.approx(CONFIG.clicks, rel=0.03)
    assert len(np.unique(np.concatenate([day.traffic.click for day in DAYS]))) == total


def test_each_kind_has_its_share_over_the_run() -> None:
    counts = {kind: sum(day.truth.counts()[kind] for day in DAYS) / CONFIG.clicks for kind in KINDS}
    robots = RobotsConfig()
    stated = (robots.burst_share, robots.competitor_share, robots.botnet_share, robots.farm_share, robots.scraper_share)
    shares = dict(zip(KINDS, (1 - robots.share, *stated, robots.adware_share), strict=True))
    assert counts == pytest.approx(shares, abs=0.02)


def test_the_same_people_and_robots_come_back() -> None:
    first, later = DAYS[0], DAYS[4]
    for kind, column in (("click_farm", "user"), ("botnet", "ip"), ("gateway_scraper", "ip")):
        again = np.isin(clicks_of(later, kind, column), clicks_of(first, kind, column))
        assert again.mean() > 0.9, kind
    assert np.isin(clicks_of(later, "human", "user"), clicks_of(first, "human", "user")).mean() > 0.4
    assert not np.isin(clicks_of(later, "botnet", "user"), clicks_of(first, "botnet", "user")).any()


def test_a_second_wave_of_robots_joins_the_botnet() -> None:
    per_day = [day.truth.counts()["botnet"] for day in DAYS]
    assert max(per_day[:6]) * 2 < min(per_day[6:])


def test_weekends_are_busier() -> None:
    people = [day.truth.counts()["human"] for day in DAYS]
    assert people[5] == pytest.approx(1.25 * people[0], rel=0.01)


def test_an_attack_that_passes_midnight_goes_on() -> None:
    run = Run(replace(CONFIG, clicks=400_000))
    passing = next(e for e in run._attacks if int(e.start_ms // DAY_MS) < int((e.start_ms + e.duration_ms) // DAY_MS))
    before = run.day(int(passing.start_ms // DAY_MS))
    after = run.day(before.number + 1)
    shared = np.intersect1d(clicks_of(before, "competitor", "user"), clicks_of(after, "competitor", "user"))
    assert len(shared) > 0


def test_late_and_repeated_clicks_come_with_the_day_they_are_sent_on() -> None:
    everywhere = (CONFIG.start_ms, CONFIG.end_ms)
    faults = (Fault(FaultKind.LATE_CLICKS, *everywhere, 0.3), Fault(FaultKind.RETRIES, *everywhere, 0.3))
    config = replace(CONFIG, clicks=6_000, duration_hours=72, faults=faults)
    made, sent = list(Run(config)), list(simulation_days.as_sent(iter(Run(config))))
    times = np.concatenate([day.traffic.sent_at_ms for day in sent])
    assert (np.diff(times) >= 0).all()
    for name in ("click", "sent_at_ms"):
        one, other = (np.sort(np.concatenate([getattr(d.traffic, name) for d in side])) for side in (made, sent))
        np.testing.assert_array_equal(one, other)
    bought = [
        np.sort(np.concatenate([d.traffic.click[d.traffic.purchases.click] for d in side])) for side in (made, sent)
    ]
    np.testing.assert_array_equal(*bought)
    assert any((day.traffic.event_time_ms < day.traffic.config.start_ms).any() for day in sent[1:])


def test_days_that_are_not_whole_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"simulation: days: expected whole ones, got 1\.5"):
        Run(replace(CONFIG, duration_hours=36))
    with pytest.raises(InvalidInput, match="simulation: day: expected 0 to 9, got 10"):
        Run(CONFIG).day(10)
