"""Thresholds keep the promise of their budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickledger.errors import InvalidInput, Refused
from clickledger.scoring import calibration, decide, evaluate


def drawn(seed: int, rows: int, tied: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
    random = np.random.default_rng(seed)
    scores = random.normal(0, 2, rows).astype(np.float32)
    purchased = random.random(rows) < 0.4
    purchased[0] = True
    slices = random.choice(["app/in", "app/out", "web/out", "web/unknown"], rows, p=[0.5, 0.3, 0.17, 0.03]).tolist()
    return (np.rint(scores) if tied else scores).astype(np.float32), purchased, slices


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.booleans(), st.floats(0, 0.999), st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_false_positives_stay_within_the_budget_overall_and_in_every_slice_of_its_own(
    seed: int, rows: int, tied: bool, fpr_max: float, least: int
) -> None:
    scores, purchased, slices = drawn(seed, rows, tied)
    made = calibration.calibrate(scores, purchased, slices, fpr_max, slice_purchases_min=least)
    fprs = evaluate.fpr_by_slice(scores, purchased, slices, made.thresholds)
    for name in made.thresholds:
        assert fprs[name] is None or fprs[name] <= fpr_max
    assert all(np.float32(value) == value and np.isfinite(value) for value in made.thresholds.values())


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.floats(0, 0.999))
@settings(deadline=None)
def test_the_next_lower_score_as_threshold_would_break_the_budget(seed: int, rows: int, fpr_max: float) -> None:
    scores, purchased, _ = drawn(seed, rows, tied=True)
    threshold = np.float32(calibration.threshold_within(scores, purchased, fpr_max))
    lower = np.nextafter(threshold, np.float32(-np.inf))
    assert np.mean(scores[purchased] >= threshold) <= fpr_max < np.mean(scores[purchased] >= lower)


def test_purchases_are_counted_in_whole_numbers() -> None:
    scores = np.arange(250, dtype=np.float32)
    threshold = calibration.threshold_within(scores, np.ones(250, dtype=bool), 0.01)  # 2.5 of 250
    assert np.count_nonzero(scores >= threshold) == 2


def test_a_budget_of_nothing_leaves_every_purchase_valid() -> None:
    scores = np.array([1, 2, 3], dtype=np.float32)
    assert calibration.threshold_within(scores, np.array([True, True, False]), 0.0) == np.nextafter(
        np.float32(2), np.float32(3)
    )


def test_thin_slices_share_the_fallback() -> None:
    scores, purchased, slices = drawn(1, 5_000, tied=False)
    made = calibration.calibrate(scores, purchased, slices, 0.05)
    assert set(made.thresholds) == {"app/in", "app/out", "web/out", "*"}
    assert made.metadata["merged"] == ["web/unknown"]


def test_the_fallback_is_the_global_threshold_where_every_slice_is_thin() -> None:
    scores, purchased, slices = drawn(2, 500, tied=False)
    made = calibration.calibrate(scores, purchased, slices, 0.05)
    assert made.thresholds == {"*": calibration.threshold_within(scores, purchased, 0.05)}


def test_metadata_states_what_the_thresholds_did() -> None:
    scores = np.array([0, 1, 2, 3], dtype=np.float32)
    made = calibration.calibrate(scores, np.array([True, True, False, False]), ["a", "a", "a", "b"], 0.5)
    assert made.metadata["slices"] == {
        "*": {"clicks": 4, "purchases": 2, "ivr": 0.75, "fpr": 0.5},
        "a": {"clicks": 3, "purchases": 2, "ivr": 2 / 3, "fpr": 0.5},
        "b": {"clicks": 1, "purchases": 0, "ivr": 1.0, "fpr": None},
    }


def test_thresholds_do_in_decide_what_they_did_in_calibration() -> None:
    scores, purchased, slices = drawn(3, 2_000, tied=True)

    class Recorded:
        def score(self, features: np.ndarray) -> np.ndarray:
            return scores[features[:, 0]]

    made = calibration.calibrate(scores, purchased, slices, 0.1, slice_purchases_min=50)
    rows = np.arange(len(scores), dtype=np.int32)[:, None]
    decided = decide.decide(rows, slices, [""] * len(scores), Recorded(), made.thresholds)
    invalid = np.array(decided.verdict) == decide.INVALID
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
