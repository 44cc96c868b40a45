"""Weeks of healthy days without a false refusal: of data, day after day, and of the model that each day makes.

`make soak-guardrails` runs eight weeks of them: data of every day on three seeds, in minutes, and a network a week on
one, in a quarter of an hour of processor time. It also trains networks on poisoned labels. The suite runs two days
of data. CLICKLEDGER_SOAK_STRIDE_DAYS=1 makes a network for every day, in hours; CLICKLEDGER_SOAK_SEEDS=1,2 names seeds.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np
import pytest
import simulated_evidence as simulated
from daily_challengers import trained

from clickledger.scoring import (
    behaviour,
    calibration,
    daily,
    dataset,
    guardrails,
    labels,
    learn,
    robot_probes,
    second_training,
    simulation_probes,
    training,
)
from clickledger.scoring.findings import DAY_MS, DEFAULT_LIMITS, Finding
from clickledger.scoring.labels import LabelRules

WEEKS = int(os.environ.get("CLICKLEDGER_SOAK_WEEKS", "0"))
CHECKS = WEEKS * 7 or 2
CLICKS_A_DAY = 35_000 if WEEKS else 14_000
CHALLENGED_CLICKS_A_DAY = int(os.environ.get("CLICKLEDGER_SOAK_CLICKS_A_DAY", "25000"))  # with fewer, models vary more
STRIDE_DAYS = int(os.environ.get("CLICKLEDGER_SOAK_STRIDE_DAYS", "7"))  # from one challenger to the next
SEEDS = [int(seed) for seed in os.environ.get("CLICKLEDGER_SOAK_SEEDS", "1").split(",")]
TWINS_DAYS = 14  # how often a regression and another seed are trained as well
FIRST_CHECK = 30  # four weeks, and two days in which their labels mature
FIRST_STABLE = daily.WINDOW_DAYS + 2


@pytest.mark.parametrize("seed", [1, 2, 3] if WEEKS else [1])
def test_healthy_days_pass_every_guard(seed: int) -> None:
    days = FIRST_CHECK + CHECKS - 1
    world = simulated.world(CLICKS_A_DAY * days, days, seed)
    refused = []
    for day in range(FIRST_CHECK, days + 1):
        findings = guardrails.check_dataset(simulated.evidence(world, simulated.START_MS + day * DAY_MS))
        assert all(finding.figure is not None for finding in findings), "four weeks are enough to judge by"
        refused += [f"day {day}: {finding.sentence()}" for finding in findings if not finding.passed]
    assert refused == []


@pytest.mark.skipif(not WEEKS, reason="a quarter of an hour: make soak-guardrails")
@pytest.mark.parametrize("seed", SEEDS)
def test_every_challenger_passes_every_guard_of_behaviour(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Each network beside the one before it, and calibrated so; every other week the other two guards as well."""
    days = FIRST_STABLE + WEEKS * 7
    world = simulated.world(CHALLENGED_CLICKS_A_DAY * days, days, seed)
    stable = trained(world, simulated.START_MS + FIRST_STABLE * DAY_MS, days=daily.WINDOW_DAYS)
    refused: list[str] = []
    for day in range(FIRST_STABLE + STRIDE_DAYS, days + 1, STRIDE_DAYS):
        at_ms = simulated.START_MS + day * DAY_MS
        challenger = trained(world, at_ms, days=daily.WINDOW_DAYS, beside=stable)
        clicks = simulated.recent(world, at_ms)
        findings = behaviour.beside_stable(challenger.judge, stable.judge, clicks, DEFAULT_LIMITS)
        if (day - FIRST_STABLE) % TWINS_DAYS == 0:
            about = challenger.judge.model, challenger.parts, clicks
            findings.append(second_training.baseline(*about, DEFAULT_LIMITS, str))
            findings.append(second_training.seeds(*about, learn.FPR_MAX, DEFAULT_LIMITS, str))
        with capsys.disabled():
            print(_told(seed, day, findings), flush=True)
        refused += [f"seed {seed}, day {day}: {finding.sentence()}" for finding in findings if not finding.passed]
        stable = challenger
    assert refused == []


def _told(seed: int, day: int, findings: list[Finding]) -> str:
    """What each guard says of a challenger, and by slice the clicks and the rates of stable and challenger."""
    lines = [f"seed {seed}, day {day}, after {time.process_time():.0f} s of processor time:"]
    for found in findings:
        lines.append(f"  {'passed ' if found.passed else 'REFUSED'} {found.sentence()} {found.note}")
        for name, figures in found.figures.get("slices", {}).items():
            lines.append(f"    {name}: {figures['clicks']} clicks, {figures['stable']:.4f} {figures['challenger']:.4f}")
    return "\n".join(lines)


@pytest.mark.skipif(not WEEKS, reason="minutes: make soak-guardrails")
@pytest.mark.parametrize(
    ("hours", "seen_by"),
    [
        ((18, 24), {"known_customers", "robot_recall"}),  # evenings are so much of the day that its range hardly grows
        ((0, 6), {"known_customers", "robot_recall", "hourly_range"}),
    ],
)
def test_thresholds_near_those_in_force_do_not_hide_missing_labels(
    hours: tuple[int, int], seen_by: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A calibration holds the rates of slices; whom they withhold, and when, is the model's, and the guards see it."""
    days = FIRST_STABLE + 7
    world = simulated.world(CHALLENGED_CLICKS_A_DAY * days, days)
    at_ms = simulated.START_MS + days * DAY_MS
    stable = trained(world, at_ms - 7 * DAY_MS, days=daily.WINDOW_DAYS)
    outage = dataset.hours_of_each_day(*hours, simulated.START_MS, at_ms)
    challenger = trained(world, at_ms, days=daily.WINDOW_DAYS, withheld=outage, beside=stable)
    clicks = simulated.recent(world, at_ms)
    findings = behaviour.beside_stable(challenger.judge, stable.judge, clicks, DEFAULT_LIMITS)
    with capsys.disabled():
        print(_told(1, days, findings), flush=True)
    refused = {finding.guard: finding for finding in findings if not finding.passed}
    assert refused.keys() >= seen_by


@pytest.mark.skipif(not WEEKS, reason="a minute: make soak-guardrails")
def test_known_robots_are_the_ones_the_simulator_makes() -> None:
    assert simulation_probes.make() == robot_probes.FILE.read_bytes()


@pytest.mark.skipif(not WEEKS, reason="minutes: make soak-guardrails")
def test_a_click_farm_that_buys_is_still_found(capsys: pytest.CaptureFixture[str]) -> None:
    """Trained on three weeks, judged on the fourth, at 1% of people's purchases invalidated."""
    honest = simulated.world(400_000, 30.0)
    uncapped = replace(labels.DAILY, caps=None)
    recalls = {
        "honest, no caps": _farm_recall(honest, honest, uncapped),
        "poisoned, no caps": _farm_recall(simulated.poisoned(honest), honest, uncapped),
        "poisoned, caps": _farm_recall(simulated.poisoned(honest), honest, labels.DAILY),
        "poisoned slowly, caps": _farm_recall(simulated.poisoned(honest, share=0.01), honest, labels.DAILY),
    }
    with capsys.disabled():
        print({name: round(recall, 3) for name, recall in recalls.items()})
    assert recalls["poisoned, no caps"] < 0.1
    assert recalls["poisoned, caps"] > recalls["honest, no caps"] - 0.1


def _farm_recall(told: simulated.World, honest: simulated.World, rules: LabelRules) -> float:
    since_ms = simulated.START_MS + 21 * DAY_MS
    known = simulated.evidence(told, since_ms + rules.maturity_ms, rules=rules, days=21).assembled.dataset
    model = training.train_network(known, training.TrainingConfig(epochs_max=12))
    later = (honest.time_ms >= since_ms) & (honest.time_ms < since_ms + 7 * DAY_MS)
    bought = np.zeros(len(later), dtype=np.bool_)
    bought[honest.outcomes.click] = True
    scores = model.score(honest.features[later])
    threshold = calibration.threshold_within(scores, bought[later], 0.01)
    return float((scores >= np.float32(threshold))[honest.of("click_farm")[later]].mean())
