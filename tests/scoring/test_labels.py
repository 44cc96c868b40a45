"""Who counts as human."""

from __future__ import annotations

import numpy as np

from clickledger.scoring import labels


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_a_click_is_human_if_it_led_to_a_purchase_or_its_account_is_known() -> None:
    purchased, user = np.array([True, False, False]), ints(0, 0, 1)
    assert labels.human(purchased, user, np.array([False, True])).tolist() == [True, False, True]


def test_the_recent_frequent_and_valuable_account_scores_highest() -> None:
    scores, frequency = labels.rfm_scores(ints(0, 1, 1, 2), ints(10, 20, 30, 5), ints(100, 100, 100, 50), users=4)
    assert frequency.tolist() == [1, 2, 1, 0]
    assert scores[1] > scores[0] > scores[2] > scores[3] == 0


def test_one_lucky_purchase_does_not_vouch_for_an_account() -> None:
    high = labels.high_rfm(ints(0, 1, 1), ints(99, 20, 30), ints(10**9, 1, 1), users=2)
    assert not high[0]


def test_nobody_is_high_where_nobody_bought() -> None:
    assert not labels.high_rfm(ints(), ints(), ints(), users=3).any()


def test_equal_accounts_score_alike() -> None:
    scores, _ = labels.rfm_scores(ints(0, 1, 2), ints(5, 5, 5), ints(7, 7, 7), users=3)
    assert scores.tolist() == [0.5, 0.5, 0.5]
