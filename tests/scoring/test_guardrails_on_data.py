"""Each guard of data refuses the fault it is for, and four healthy weeks pass them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import simulated_evidence as simulated
from simulated_evidence import World

from clickledger.scoring import feature_spec, guardrails, guards_of_feeds, guards_of_labels, guards_of_learning, labels
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.findings import DAY_MS, DEFAULT_LIMITS, HOUR_MS, Finding
from clickledger.scoring.guardrails import Evidence
from clickledger.scoring.guards_of_feeds import Day

CLICKS, DAYS = 400_000, 30.0
AS_THEY_ARE = replace(labels.DAILY, caps=None)
Column = Callable[[Dataset], np.ndarray]


@pytest.fixture(scope="module")
def world() -> World:
    """Four mature weeks and the two days in which their outcomes became known."""
    return simulated.world(CLICKS, DAYS)


@pytest.fixture(scope="module")
def healthy(world: World) -> Evidence:
    return simulated.evidence(world, world.end_ms)


def refusing(evidence: Evidence) -> dict[str, Finding]:
    found = {finding.guard: finding for finding in guardrails.check_dataset(evidence)}
    return {guard: finding for guard, finding in found.items() if not finding.passed}


def density(evidence: Evidence) -> Finding:
    return guards_of_labels.human_density(evidence.assembled.dataset, evidence.end_ms, DEFAULT_LIMITS)


def with_feature(evidence: Evidence, name: str, column: Column) -> Dataset:
    """The set with another column of one feature."""
    built = evidence.assembled.dataset
    features = built.features.copy()
    features[:, feature_spec.INDEX[name]] = column(built)
    return replace(built, features=features)


def test_four_healthy_weeks_pass_every_guard_and_all_of_them_can_judge(healthy: Evidence) -> None:
    findings = guardrails.check_dataset(healthy)
    assert [finding.sentence() for finding in findings if not finding.passed] == []
    assert [finding.sentence() for finding in findings if finding.figure is None] == []
    assert len({finding.guard for finding in findings}) == len(findings) == 15


def test_few_days_pass_and_say_that_they_cannot_be_judged(world: World) -> None:
    young = simulated.evidence(world, simulated.START_MS + 5 * DAY_MS, days=3)
    findings = {finding.guard: finding for finding in guardrails.check_dataset(young)}
    for guard in ("human_density", "feed_arrivals", "volume", "drift", "label_maturity"):
        assert findings[guard].passed and findings[guard].figure is None
        assert "not enough history" in findings[guard].note


@pytest.mark.parametrize("hours_back", [10, 100])
def test_six_hours_without_human_labels_are_refused(world: World, healthy: Evidence, hours_back: int) -> None:
    outage = healthy.end_ms - hours_back * HOUR_MS, healthy.end_ms - (hours_back - 6) * HOUR_MS
    found = density(simulated.evidence(world, world.end_ms, withheld=[outage]))
    assert not found.passed and found.figure is not None and found.figure < 0.4
    assert found.figures["from_ms"] < outage[1] and found.figures["to_ms"] > outage[0]


def test_a_source_that_is_gone_is_refused_though_the_others_hide_it(world: World, healthy: Evidence) -> None:
    """Accounts keep their standing by earlier purchases: all labels together hardly change."""
    start_ms = healthy.end_ms - DAY_MS
    left = world.outcomes.where(world.outcomes.clicked_at_ms < start_ms)
    evidence = simulated.evidence(replace(world, outcomes=left), world.end_ms)
    found = density(evidence)
    assert not found.passed and found.figures["source"] == guards_of_labels.OUTCOMES
    day = healthy.assembled.dataset.event_time_ms >= start_ms
    before, after = (made.assembled.dataset.human[day].mean() for made in (healthy, evidence))
    assert after > 0.6 * before


def test_a_week_without_a_source_is_refused(healthy: Evidence) -> None:
    built = healthy.assembled.dataset
    only_outcomes = replace(built, human=built.purchased)
    found = guards_of_labels.human_density(only_outcomes, healthy.end_ms, DEFAULT_LIMITS)
    assert not found.passed and found.limit == DEFAULT_LIMITS.human_labels_min and found.figure == 0


def test_a_purchase_feed_that_stopped_is_refused(world: World) -> None:
    stopped_ms = world.end_ms - 8 * HOUR_MS
    left = world.outcomes.where(world.outcomes.occurred_at_ms < stopped_ms)
    refused = refusing(simulated.evidence(replace(world, outcomes=left), world.end_ms))
    assert {"feed_lag", "feed_arrivals"} <= refused.keys()
    assert 8.0 <= (refused["feed_lag"].figure or 0.0) < 9.0


def test_a_feed_that_lost_most_of_a_day_is_refused(world: World) -> None:
    occurred = world.outcomes.occurred_at_ms
    day = (occurred >= world.end_ms - 3 * DAY_MS) & (occurred < world.end_ms - 2 * DAY_MS)
    lost = day & (np.arange(len(occurred)) % 5 > 0)
    found = guards_of_feeds.arrivals(occurred[~lost], world.end_ms, DEFAULT_LIMITS)
    assert not found.passed and (found.figure or 0.0) < 0.5


def test_a_quiet_night_is_no_lag() -> None:
    every_three_hours = np.arange(0, 30 * DAY_MS, 3 * HOUR_MS)
    found = guards_of_feeds.feed_lag(every_three_hours, 30 * DAY_MS, DEFAULT_LIMITS)
    assert found.passed and "chance" in found.note


def test_labels_that_are_too_young_are_refused(world: World) -> None:
    rules = replace(labels.DAILY, maturity_ms=6 * HOUR_MS)
    refused = refusing(simulated.evidence(world, simulated.START_MS + 9 * DAY_MS, rules=rules, days=2))
    assert refused["label_age"].figure == pytest.approx(6.0, abs=0.1)
    assert (refused["label_maturity"].figure or 0.0) < 0.95


def test_a_day_without_most_of_its_clicks_is_refused(world: World, healthy: Evidence) -> None:
    day = (world.time_ms >= healthy.end_ms - 3 * DAY_MS) & (world.time_ms < healthy.end_ms - 2 * DAY_MS)
    lost = day & (np.arange(len(day)) % 3 > 0)
    evidence = simulated.evidence(world, world.end_ms, lost=lost)
    found = guards_of_feeds.volume(evidence.days, DEFAULT_LIMITS)
    assert not found.passed and "2 days before the newest" in found.what


def test_late_clicks_of_a_day_are_refused(world: World, healthy: Evidence) -> None:
    late = (world.time_ms >= healthy.end_ms - DAY_MS) & (np.arange(len(world.time_ms)) % 50 == 0)
    evidence = simulated.evidence(world, world.end_ms, undecided=late)
    found = guards_of_feeds.undecided(evidence.days, DEFAULT_LIMITS)
    assert not found.passed and found.figure == pytest.approx(0.02, abs=0.003)
    assert guards_of_feeds.undecided({0: Day(999, 999)}, DEFAULT_LIMITS).figure is None


def test_a_feature_that_lost_its_value_is_refused(healthy: Evidence) -> None:
    def some_lost(built: Dataset) -> np.ndarray:
        lost = np.arange(len(built)) % 100 == 0
        return np.where(lost, feature_spec.NO_VALUE, built.features[:, feature_spec.INDEX["ip_users"]])

    found = guards_of_feeds.null_features(with_feature(healthy, "ip_users", some_lost), healthy.end_ms, DEFAULT_LIMITS)
    assert not found.passed and found.figures["over"] == ["ip_users"]


def test_a_click_farm_that_buys_is_refused_and_capped(world: World) -> None:
    bought = simulated.poisoned(world)
    refused = refusing(simulated.evidence(bought, world.end_ms, rules=AS_THEY_ARE))
    assert {"account_labels", "ip_labels"} <= refused.keys()
    capped = simulated.evidence(bought, world.end_ms)
    assert not {"account_labels", "ip_labels"} & refusing(capped).keys()
    assert capped.assembled.capped > 1_000
    accounts = np.unique(world.user[world.of("click_farm")])
    built = capped.assembled.dataset
    assert built.human[np.isin(built.user, accounts)].mean() < 0.001


def test_a_campaign_that_has_the_labels_is_refused(healthy: Evidence) -> None:
    made = healthy.assembled
    one = np.where(np.arange(len(made.campaign)) % 5 == 0, 3, made.campaign)
    found = guards_of_labels.campaign_labels(made.dataset, one, made.campaigns, DEFAULT_LIMITS)
    assert not found.passed and found.what.endswith("campaign 3")


def test_weights_of_which_few_count_are_refused(healthy: Evidence) -> None:
    weights = healthy.weights.copy()
    weights[:20] *= 10_000.0
    assert not guards_of_learning.effective_sample(weights, DEFAULT_LIMITS).passed
    assert not guards_of_learning.largest_weight(weights, DEFAULT_LIMITS).passed


def test_a_feature_that_changed_its_unit_yesterday_is_refused(healthy: Evidence) -> None:
    def thousandfold(built: Dataset) -> np.ndarray:
        seconds = built.features[:, feature_spec.INDEX["user_session_age_ms"]]
        return np.where(built.event_time_ms >= healthy.end_ms - DAY_MS, seconds // 1_000, seconds)

    changed = with_feature(healthy, "user_session_age_ms", thousandfold)
    found = guards_of_learning.drift(changed, healthy.end_ms, DEFAULT_LIMITS)
    assert not found.passed and "user_session_age_ms" in found.what


def test_a_feature_that_knows_the_label_is_refused(healthy: Evidence) -> None:
    def account_value(built: Dataset) -> np.ndarray:
        noise = np.random.default_rng(0).random(len(built)) < 0.02
        return np.where(built.human ^ noise, 100, 1)

    found = guards_of_learning.feature_leak(with_feature(healthy, "ip_agents", account_value), DEFAULT_LIMITS)
    assert not found.passed and "ip_agents" in found.what
