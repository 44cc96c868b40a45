"""IVR-FPR curves are exact, by whole purchases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_clicks import draw

from clickledger.errors import InvalidInput, InvariantBroken, Refused
from clickledger.scoring import curves, feature_spec, judged
from clickledger.scoring.judged import Judged


@given(st.integers(0, 2**32 - 1), st.integers(5, 120), st.booleans())
@settings(max_examples=60, deadline=None)
def test_each_point_is_what_counting_the_clicks_at_its_threshold_gives(seed: int, rows: int, tied: bool) -> None:
    clicks = draw(seed, rows, tied, purchase_share=0.8)
    if not clicks.purchases:
        return
    curve = curves.curve(clicks)
    assert len(curve.threshold) == clicks.purchases
    for allowed in range(curve.purchases):
        invalid = clicks.score >= np.float32(curve.threshold_at(allowed))
        assert curve.wrongly[allowed] == np.count_nonzero(invalid & clicks.purchased) <= allowed
        assert curve.invalidated[allowed] == np.count_nonzero(invalid)
        assert curve.hot_invalidated[allowed] == np.count_nonzero(invalid & clicks.hot)
        lower = clicks.score >= np.nextafter(np.float32(curve.threshold_at(allowed)), np.float32(-np.inf))
        assert np.count_nonzero(lower & clicks.purchased) > allowed


@pytest.mark.parametrize("allowed", [-1, 3])
def test_no_point_invalidates_every_purchase(allowed: int) -> None:
    three = draw(1, 200).where(np.arange(200) < 200)
    first = np.flatnonzero(three.purchased)[:3]
    curve = curves.curve(three.where(np.isin(np.arange(200), first)))
    with pytest.raises(InvariantBroken, match="expected 0 to 2 purchases"):
        curve.threshold_at(allowed)


def test_the_knee_is_farthest_from_the_chord() -> None:
    n = 1000
    score = np.linspace(3, -3, n).astype(np.float32)
    purchased = np.zeros(n, dtype=bool)
    purchased[400:] = True  # 40% can be had for nothing, then each click costs a purchase
    clicks = Judged(score, purchased, ~purchased, np.full(n, "a/in"), np.arange(n))
    knee = curves.knee(curves.curve(clicks))
    assert (knee.allowed, knee.fpr, knee.ivr) == (0, 0.0, 0.4)


def test_a_curve_without_purchases_is_refused() -> None:
    clicks = draw(1, 20, purchase_share=0.0)
    with pytest.raises(Refused, match="no purchase among 20 clicks"):
        curves.curve(clicks)


def test_hot_clicks_come_after_so_many_of_their_session_in_an_hour() -> None:
    features = np.zeros((13, len(feature_spec.FEATURES)), dtype=np.int32)
    features[:, feature_spec.INDEX["user_session_clicks_1h"]] = np.arange(-1, 12)
    assert np.flatnonzero(judged.hot(features, 9)).tolist() == [11, 12]


@pytest.mark.parametrize("most", [0, feature_spec.USER_EVENTS])
def test_a_limit_that_the_counters_never_pass_is_refused(most: int) -> None:
    with pytest.raises(InvalidInput, match="session_clicks_max"):
        judged.hot(np.zeros((1, len(feature_spec.FEATURES)), dtype=np.int32), most)


def test_folds_are_cut_at_a_moment() -> None:
    clicks = draw(3, 1_000)
    earlier, later = clicks.split(0.4)
    assert earlier.event_time_ms.max() < later.event_time_ms.min()
    assert (len(earlier), len(later)) == (600, 400)
