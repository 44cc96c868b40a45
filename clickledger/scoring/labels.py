"""Weak labels (SLIDR row 2): a click is human if it led to a purchase, or if its account has a high RFM score.

All others are labelled non-human: most robots are among them, and many people. RFM is a label only, never a feature.

The RFM score of an account is the mean of its three percentile ranks among the accounts with outcomes: how recent its
last outcome is, how many it has, what they are worth. High is `score_min` or more with at least `outcomes_min`
outcomes: a single lucky purchase must not vouch for every click of an account.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RfmRule:
    """When an account's score counts as high."""

    score_min: float = 0.6
    outcomes_min: int = 2


DEFAULT_RFM = RfmRule()


def human(purchased: Flags, user: Ints, high_rfm: Flags) -> Flags:
    """Label of each click (n,) by `purchased` (n,), its account `user` (n,), and which accounts are high (users,)."""
    return purchased | high_rfm[user]


def high_rfm(user: Ints, occurred_at_ms: Ints, value_micros: Ints, users: int, rule: RfmRule = DEFAULT_RFM) -> Flags:
    """Which of the accounts 0..users-1 have a high score, by m outcomes: account, time and value of each (m,)."""
    scores, frequency = rfm_scores(user, occurred_at_ms, value_micros, users)
    return (frequency >= rule.outcomes_min) & (scores >= rule.score_min)


def rfm_scores(
    user: Ints, occurred_at_ms: Ints, value_micros: Ints, users: int
) -> tuple[npt.NDArray[np.float64], Ints]:
    """RFM score in 0..1 and number of outcomes of each account (users,); 0 and 0 for an account without outcomes."""
    frequency = np.bincount(user, minlength=users)
    last_ms, value = np.zeros(users, dtype=np.int64), np.zeros(users, dtype=np.int64)
    np.maximum.at(last_ms, user, occurred_at_ms)
    np.add.at(value, user, value_micros)
    active = frequency > 0
    scores = np.zeros(users)
    if active.any():
        ranks = [_percentile_rank(column[active]) for column in (last_ms, frequency, value)]
        scores[active] = np.mean(ranks, axis=0)
    return scores, frequency


def _percentile_rank(values: Ints) -> npt.NDArray[np.float64]:
    """Share of the values that lie below each one, equal ones counted half."""
    order = np.sort(values)
    below = np.searchsorted(order, values, side="left") + np.searchsorted(order, values, side="right")
    return below / (2.0 * len(values))
