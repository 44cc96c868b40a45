"""How much of what will become of clicks is known."""

from __future__ import annotations

import numpy as np

from clickledger.scoring import maturity

HOUR = 3_600_000


def test_delays_are_those_of_clicks_older_than_the_horizon() -> None:
    clicked, delay = np.array([0, 0, 50, 99]) * HOUR, np.array([1, 60, 2, 1]) * HOUR
    found = maturity.delays_ms(clicked, clicked + delay, cutoff_ms=100 * HOUR, horizon_ms=50 * HOUR)
    assert found.tolist() == [1 * HOUR, 2 * HOUR]


def test_the_known_share_grows_with_age_to_all() -> None:
    delays = np.array([1, 1, 2, 20]) * HOUR
    ages = np.array([0, 1, 3, 20, 100]) * HOUR
    assert maturity.known_share(ages, delays).tolist() == [0.0, 0.5, 0.75, 1.0, 1.0]


def test_young_clicks_do_not_make_outcomes_look_quicker_than_they_are() -> None:
    random = np.random.default_rng(0)
    clicked = random.integers(0, 400 * HOUR, 40_000)
    occurred = clicked + random.exponential(20 * HOUR, 40_000).astype(np.int64)
    known = occurred <= 400 * HOUR
    delays = maturity.delays_ms(clicked[known], occurred[known], 400 * HOUR, 168 * HOUR)
    assert abs(maturity.known_share(np.array([20 * HOUR]), delays)[0] - (1 - np.exp(-1))) < 0.01
