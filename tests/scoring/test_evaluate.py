"""Figures that decide which model ships."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from clickledger.errors import InvalidInput
from clickledger.scoring import evaluate


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60))
def test_auc_is_the_usual_one_ties_included(clicks: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in clicks], dtype=np.float32)
    robotic = np.array([robot for _, robot in clicks])
    if robotic.all() or not robotic.any():
        with pytest.raises(InvalidInput, match="clicks of both kinds"):
            evaluate.auc(scores, robotic)
    else:
        assert evaluate.auc(scores, robotic) == pytest.approx(roc_auc_score(robotic, scores))


def test_ivr_at_fpr_counts_what_the_budget_allows() -> None:
    scores = np.array([0, 1, 2, 3, 4, 5], dtype=np.float32)
    purchased = np.array([True, False, True, False, False, False])
    assert evaluate.ivr_at_fpr(scores, purchased, 0.0) == 0.5
    assert evaluate.ivr_at_fpr(scores, purchased, 0.5) == pytest.approx(5 / 6)


def test_metrics_without_any_purchase_or_label_are_absent_not_zero() -> None:
    none = np.zeros(3, dtype=bool)
    made = evaluate.metrics(np.zeros(3, dtype=np.float32), none, none)
    assert made["auc"] is None and made["ivr_at_fpr"] is None
