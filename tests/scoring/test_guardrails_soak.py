"""Weeks of healthy days without a false refusal: a daily check of the last four weeks, day after day.

`make soak-guardrails` runs eight weeks of them on three seeds, and trains networks on poisoned labels; it takes some
minutes. The suite runs two days of one seed.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import simulated_evidence as simulated

from clickledger.scoring import calibration, guardrails, labels, training
from clickledger.scoring.findings import DAY_MS
from clickledger.scoring.labels import LabelRules

WEEKS = int(os.environ.get("CLICKLEDGER_SOAK_WEEKS", "0"))
CHECKS = WEEKS * 7 or 2
CLICKS_A_DAY = 35_000 if WEEKS else 14_000
FIRST_CHECK = 30  # four weeks, and two days in which their labels mature


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
