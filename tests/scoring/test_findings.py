"""What guards say, and the chances they leave to chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clickledger.scoring import findings


@pytest.mark.parametrize("expected", [5.0, 30.0, 200.0])
def test_the_bound_on_chance_is_no_smaller_than_the_chance(expected: float) -> None:
    for count in range(int(expected)):
        exact = sum(math.exp(-expected + k * math.log(expected) - math.lgamma(k + 1)) for k in range(count + 1))
        assert exact <= findings.chance_below(count, expected) <= 1.0
    assert findings.chance_below(int(expected), expected) == 1.0


@pytest.mark.parametrize("total", [10, 60])
def test_the_bound_on_two_counts_is_no_smaller_than_the_chance(total: int) -> None:
    for count in range(total // 2):
        exact = sum(math.comb(total, k) for k in range(count + 1)) / 2**total
        assert exact <= findings.chance_fewer(count, total - count) <= 1.0


def test_neighbours_are_merged_until_there_is_enough_from_each_on() -> None:
    counts = np.array([10, 25, 40, 5, 5])
    assert findings.stretches(counts, 30) == [(0, 2), (1, 3), (2, 3)]
    assert findings.stretches(counts, 20) == [(0, 2), (1, 2), (2, 3), (0, 4)]
    assert findings.stretches(counts, 1_000) == []


def test_a_finding_says_what_it_should_have_been() -> None:
    found = findings.at_most("volume", 0.5, 0.4, "change of a day")
    assert found.sentence() == "volume: change of a day: expected at most 0.4, got 0.5"
    assert found.to_payload()["passed"] is False
    unjudged = findings.unjudged("volume", 0.4, findings.AT_MOST, "change of a day", "not enough history: 1 of 28 days")
    assert unjudged.passed and "not enough history" in unjudged.sentence()
