"""Intervals: the figures of a draw are those of its clicks, users are drawn whole, and the truth is mostly inside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clickledger.errors import InvalidInput
from clickledger.scoring import evaluate, intervals

CLICKS = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40)


@given(CLICKS, st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.99]))
def test_a_weighted_figure_is_that_of_each_click_as_often_as_it_weighs(
    clicks: list[tuple[int, bool, int]], fpr: float
) -> None:
    scores = np.array([score for score, _, _ in clicks], dtype=np.float32)
    purchased = np.array([bought for _, bought, _ in clicks])
    weight = np.array([times for _, _, times in clicks])
    drawn, bought = np.repeat(scores, weight), np.repeat(purchased, weight)
    assume(bought.any() and not bought.all())
    ranking = intervals.Ranking(scores, purchased)
    held = weight.astype(np.float64)
    assert ranking.auc(held) == pytest.approx(evaluate.auc(drawn, ~bought))
    assert ranking.ivr(held, ranking.cut(held, fpr)) == pytest.approx(evaluate.ivr_at_fpr(drawn, bought, fpr))


def test_users_are_drawn_whole_as_many_as_there_are() -> None:
    user = np.array([7, 7, 7, 3, 3, 9])
    purchased = np.array([True, False, False, False, False, True])
    for weight in intervals.draws(user, purchased, 50, seed=1):
        assert len(set(weight[:3])) == 1 and weight[3] == weight[4]
        assert weight[0] + weight[3] + weight[5] == 3
        assert weight[purchased].sum() > 0


def test_the_same_seed_gives_the_same_draws() -> None:
    user, purchased = np.arange(20), np.arange(20) < 5
    first, again = (np.stack(list(intervals.draws(user, purchased, 5, seed=3))) for _ in range(2))
    assert np.array_equal(first, again)


def test_clicks_of_one_kind_have_no_figure_to_draw() -> None:
    with pytest.raises(InvalidInput, match="expected clicks with and without outcome, got 0 with one"):
        list(intervals.draws(np.arange(4), np.zeros(4, dtype=bool), 10, seed=0))


def test_users_who_click_often_widen_the_interval() -> None:
    """A hundred copies of each click say nothing new: drawing users sees that, drawing clicks would not."""
    random = np.random.default_rng(5)
    purchased = random.random(200) < 0.2
    scores = (random.normal(size=200) - purchased).astype(np.float32)

    def width(copies: int) -> float:
        user = np.repeat(np.arange(200), copies)
        bought = np.repeat(purchased, copies)
        ranking = intervals.Ranking(np.repeat(scores, copies), bought)
        low, high = intervals.interval([ranking.auc(weight) for weight in intervals.draws(user, bought, 300, seed=2)])
        return high - low

    assert width(100) == pytest.approx(width(1), rel=1e-6)
