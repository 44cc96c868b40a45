"""Thresholds keep the promise of their budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_clicks import draw, shuffled

from clickledger.errors import InvalidInput, Refused
from clickledger.ledger import canonical
from clickledger.scoring import allocation, calibration, convex, decide
from clickledger.scoring.allocation import DEFAULT_CONFIG
from clickledger.scoring.judged import Judged

THIN = replace(DEFAULT_CONFIG, slice_purchases_min=20, hot_clicks_min=20, coverage_min=0.1)
seeds = st.integers(0, 2**32 - 1)


def of(clicks: Judged, fpr_max: float, config: allocation.CalibrationConfig = THIN) -> calibration.Calibration:
    """A calibration, or without floors where they do not fit."""
    try:
        return calibration.of_clicks(clicks, fpr_max, config)
    except Refused:
        return calibration.of_clicks(clicks, fpr_max, replace(config, coverage_min=0.0))


@given(seeds, st.integers(20, 1200), st.booleans(), st.floats(0, 0.999))
@settings(max_examples=30, deadline=None)
def test_no_more_purchases_are_lost_than_the_budget_allows(seed: int, rows: int, tied: bool, fpr_max: float) -> None:
    clicks = draw(seed, rows, tied, purchase_share=0.5)
    if not clicks.purchases:
        return
    made = of(clicks, fpr_max)
    invalid = clicks.invalid(made.thresholds)
    assert np.count_nonzero(invalid & clicks.purchased) <= fpr_max * clicks.purchases
    assert all(np.float32(value) == value and np.isfinite(value) for value in made.thresholds.values())


@pytest.mark.parametrize("form", convex.FORMS)
@given(seeds, st.booleans(), st.floats(0.005, 0.15))
@settings(max_examples=8, deadline=None)
def test_each_form_keeps_the_budget_its_floors_and_its_ceilings(
    form: convex.Form, seed: int, tied: bool, fpr_max: float
) -> None:
    clicks = draw(seed, 3_000, tied, purchase_share=0.5)
    groups = {name: [name] for name in np.unique(clicks.slice).tolist()}
    within = allocation.budget(fpr_max, clicks.purchases, 0.0)
    made = allocation.by_slice(clicks, groups, within, form, replace(THIN, floors_factor_min=0.0))
    told = made.metadata["groups"]
    assert sum(group["allowed"] for group in told.values()) <= within.allowed
    for name, group in told.items():
        own = clicks.in_slices({name})
        lost = np.count_nonzero(own.invalid(made.thresholds) & own.purchased)
        assert group["floor"] <= group["allowed"] <= group["ceiling"] <= max(0.05, fpr_max) * own.purchases
        assert lost <= group["allowed"]


@pytest.mark.parametrize("form", convex.FORMS)
@given(seeds, st.floats(0.005, 0.03), st.floats(0, 0.02))
@settings(max_examples=6, deadline=None)
def test_a_larger_budget_raises_no_threshold(form: convex.Form, seed: int, fpr_max: float, more: float) -> None:
    clicks = draw(seed, 3_000, purchase_share=0.5)
    groups = {name: [name] for name in np.unique(clicks.slice).tolist()}
    config = replace(THIN, coverage_min=0.0)
    less, larger = (
        allocation.by_slice(clicks, groups, allocation.budget(share, clicks.purchases, 1.28), form, config)
        for share in (fpr_max, fpr_max + more)
    )
    assert all(larger.thresholds[name] <= value for name, value in less.thresholds.items())


@given(seeds, st.integers(200, 2_000), st.booleans(), st.floats(0, 0.2))
@settings(max_examples=10, deadline=None)
def test_the_order_of_clicks_changes_nothing(seed: int, rows: int, tied: bool, fpr_max: float) -> None:
    clicks = draw(seed, rows, tied, purchase_share=0.5)
    one, other = of(clicks, fpr_max), of(shuffled(clicks, seed), fpr_max)
    assert canonical.canonical_json(one.metadata) == canonical.canonical_json(other.metadata)
    assert one.thresholds == other.thresholds


@given(seeds, st.integers(1, 300), st.floats(0, 0.999))
@settings(max_examples=50, deadline=None)
def test_the_next_lower_score_as_threshold_would_break_the_budget(seed: int, rows: int, fpr_max: float) -> None:
    clicks = draw(seed, rows, tied=True, purchase_share=0.9)
    if not clicks.purchases:
        return
    bought = clicks.score[clicks.purchased]
    threshold = np.float32(calibration.threshold_within(clicks.score, clicks.purchased, fpr_max))
    lower = np.nextafter(threshold, np.float32(-np.inf))
    assert np.mean(bought >= threshold) <= fpr_max < np.mean(bought >= lower)


def test_purchases_are_counted_in_whole_numbers() -> None:
    scores = np.arange(250, dtype=np.float32)
    threshold = calibration.threshold_within(scores, np.ones(250, dtype=bool), 0.01)  # 2.5 of 250
    assert np.count_nonzero(scores >= threshold) == 2


def test_a_budget_of_nothing_leaves_every_purchase_valid() -> None:
    scores = np.array([1, 2, 3], dtype=np.float32)
    threshold = calibration.threshold_within(scores, np.array([True, True, False]), 0.0)
    assert threshold == np.nextafter(np.float32(2), np.float32(3))


def test_a_margin_against_overshoot_is_kept_from_the_budget() -> None:
    kept = allocation.budget(0.01, 10_000, 1.28)
    assert kept.margin == pytest.approx(0.001274, abs=1e-6)
    assert kept.allowed == 87
    assert allocation.budget(0.01, 100, 1.28).allowed == 0
    assert allocation.budget(0.29, 100, 0.0).allowed == 28  # 0.29 is a little less than that as a float


def test_floors_are_the_fewest_purchases_that_reach_the_coverage_of_slices_with_robots() -> None:
    clicks = draw(4, 20_000)
    groups = {name: [name] for name in np.unique(clicks.slice).tolist()}
    within = allocation.budget(0.05, clicks.purchases, 1.28)
    made = allocation.by_slice(clicks, groups, within, "hull", DEFAULT_CONFIG)
    for name, group in made.metadata["groups"].items():
        own = clicks.in_slices({name})
        assert group["coverage"] >= 0.3
        fewer = replace(DEFAULT_CONFIG, coverage_min=0.0)
        assert allocation.by_slice(clicks, groups, within, "hull", fewer).metadata["groups"][name]["floor"] == 0
        assert group["hot_clicks"] == np.count_nonzero(own.hot)


def test_floors_too_high_for_the_budget_are_scaled_by_one_factor_which_is_told() -> None:
    within = allocation.budget(0.01, 1_000, 0.0)
    lower, factor = allocation.scaled({"a": 8, "b": 0, "c": 7}, within, DEFAULT_CONFIG)
    assert (lower.tolist(), factor) == ([5, 0, 4], 10 / 15)


def test_floors_that_would_be_halved_are_refused_by_name() -> None:
    within = allocation.budget(0.01, 1_000, 0.0)
    with pytest.raises(
        Refused, match=r"coverage of 0.3 in a, c: expected to lose at most 10 of 1000 .* got 21 \(a 8, c 13\)"
    ):
        allocation.scaled({"a": 8, "b": 0, "c": 13}, within, DEFAULT_CONFIG)


def test_slices_with_enough_purchases_get_thresholds_of_their_own_and_others_the_fallback() -> None:
    made = calibration.of_clicks(draw(5, 40_000, shift=-2.5), 0.02)
    assert made.metadata["form"] in convex.FORMS
    assert set(made.thresholds) == {"*", "app/in", "app/out", "web/in", "web/out"}
    assert len(set(made.thresholds.values())) > 3


def test_the_global_threshold_ships_where_every_slice_is_thin() -> None:
    clicks = draw(2, 2_000)
    made = calibration.of_clicks(clicks, 0.2)
    assert (
        made.thresholds
        == allocation.everywhere(clicks, allocation.budget(0.2, clicks.purchases, 1.28), DEFAULT_CONFIG).thresholds
    )
    assert made.metadata["form"] == "global"
    assert made.metadata["merged"] == {"*": ["app/in", "app/out", "web/in", "web/out"]}


def test_without_times_there_is_no_held_out_fold_and_so_no_contest() -> None:
    clicks = draw(5, 40_000, shift=-2.5)
    made = calibration.calibrate(clicks.score, clicks.purchased, clicks.slice.tolist(), 0.02)
    assert made.metadata["form"] == "global"
    assert "no purchase in app/in among the earlier clicks" in made.metadata["why"]


def test_a_slice_that_one_threshold_would_sacrifice_is_capped_and_no_other_pays_for_it() -> None:
    clicks = draw(6, 40_000, shift=2.5)
    within = allocation.budget(0.02, clicks.purchases, 0.0)
    made = allocation.everywhere(clicks, within, DEFAULT_CONFIG)
    free = allocation.everywhere(clicks, within, replace(DEFAULT_CONFIG, fpr_slice_max=1.0))
    assert set(free.thresholds) == {"*"}
    assert set(made.thresholds) == {"*", "app/out", "web/out"} and made.thresholds["*"] <= free.thresholds["*"]
    for name in ("app/out", "web/out"):
        own = clicks.in_slices({name})
        lost = {
            key: own.invalid(each.thresholds)[own.purchased].mean() for key, each in (("made", made), ("free", free))
        }
        assert lost["made"] <= 0.05 < lost["free"]
    assert np.count_nonzero(clicks.invalid(made.thresholds) & clicks.purchased) == within.allowed


def test_a_thin_slice_has_the_cap_of_its_login_status_or_of_one_purchase_lost() -> None:
    clicks = draw(7, 20_000)
    thin = clicks.where((clicks.slice != "app/out") | (np.cumsum(clicks.slice == "app/out") <= 50))
    pool = thin.in_slices({"app/out", "web/out"})
    shared = allocation.caps(replace(pool, slice=np.full(len(pool), "x/out")), 0.05, DEFAULT_CONFIG)["x/out"]
    own = thin.in_slices({"app/out"})
    assert 1 < own.purchases < DEFAULT_CONFIG.ceiling_purchases_min
    for moved in (-20.0, 20.0):
        score = np.where(thin.slice == "app/out", thin.score + np.float32(moved), thin.score)
        limit = allocation.caps(replace(thin, score=score), 0.05, DEFAULT_CONFIG)["app/out"]
        lost = np.count_nonzero(own.score[own.purchased] + np.float32(moved) >= limit)
        assert lost == (1 if moved > 0.0 else 0)
        assert limit > shared or moved < 0.0


def test_a_purchase_less_does_not_make_a_slice_that_scores_high_lose_many() -> None:
    """At 19 purchases its login status alone would decide, which scores lower, and most of them would be lost."""
    clicks = draw(7, 40_000)
    high = replace(clicks, score=np.where(clicks.slice == "app/out", clicks.score + np.float32(3.0), clicks.score))
    bought = np.flatnonzero((high.slice == "app/out") & high.purchased)
    rest = np.ones(len(high), dtype=np.bool_)
    for purchases in (21, 20, 19, 5):
        rest[bought[purchases:]] = False
        own = high.where(rest).in_slices({"app/out"})
        limit = allocation.caps(high.where(rest), 0.05, DEFAULT_CONFIG)["app/out"]
        assert own.purchases == purchases and np.count_nonzero(own.score[own.purchased] >= limit) == 1


def test_without_a_budget_it_is_the_fpr_at_the_knee() -> None:
    made = calibration.of_clicks(draw(5, 40_000, shift=-2.5), None)
    assert made.metadata["fpr_max"] == made.metadata["knee"]["fpr"]
    assert made.metadata["fpr_max_from"] == "knee"


def test_metadata_states_what_the_thresholds_did() -> None:
    scores = np.array([0, 1, 2, 3], dtype=np.float32)
    plain = replace(DEFAULT_CONFIG, overshoot_z=0.0)
    made = calibration.calibrate(scores, np.array([True, True, False, False]), ["a", "a", "a", "b"], 0.5, config=plain)
    assert made.metadata["slices"] == {
        "*": {"clicks": 4, "purchases": 2, "ivr": 0.75, "fpr": 0.5},
        "a": {"clicks": 3, "purchases": 2, "ivr": 2 / 3, "fpr": 0.5},
        "b": {"clicks": 1, "purchases": 0, "ivr": 1.0, "fpr": None},
    }


def test_thresholds_do_in_decide_what_they_did_in_calibration() -> None:
    clicks = draw(3, 4_000, tied=True)

    class Recorded:
        def score(self, features: np.ndarray) -> np.ndarray:
            return clicks.score[features[:, 0]]

    made = of(clicks, 0.1)
    rows = np.arange(len(clicks), dtype=np.int32)[:, None]
    decided = decide.decide(rows, clicks.slice.tolist(), [""] * len(clicks), Recorded(), made.thresholds)
    invalid = np.array(decided.verdict) == decide.INVALID
    assert np.array_equal(invalid, clicks.invalid(made.thresholds))
    assert invalid.mean() == made.metadata["slices"]["*"]["ivr"]


def test_calibrating_without_a_purchase_is_refused() -> None:
    with pytest.raises(Refused, match="no purchase among 3 clicks"):
        calibration.calibrate(np.zeros(3, dtype=np.float32), np.zeros(3, dtype=bool), ["a"] * 3, 0.01)


@pytest.mark.parametrize("fpr_max", [-0.01, 1.0, float("nan")])
def test_a_budget_that_is_no_share_is_refused(fpr_max: float) -> None:
    with pytest.raises(InvalidInput, match="fpr_max"):
        calibration.calibrate(np.zeros(1, dtype=np.float32), np.ones(1, dtype=bool), ["a"], fpr_max)


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(InvalidInput, match="finite float32"):
        calibration.calibrate(np.array([np.nan], dtype=np.float32), np.ones(1, dtype=bool), ["a"], 0.01)
