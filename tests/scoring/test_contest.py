"""A calibration by slice ships only if it held on later clicks and gained there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged_clicks import SLICES, draw
from scipy.stats import binomtest

from clickledger.scoring import contest, curves
from clickledger.scoring.allocation import DEFAULT_CONFIG
from clickledger.scoring.judged import Judged

GROUPS = {name: [name] for name in SLICES}
CONFIG = replace(DEFAULT_CONFIG, slice_purchases_min=100)


@pytest.fixture(scope="module")
def healthy() -> Judged:
    return draw(1, 60_000, shift=-2.5)


def test_both_forms_and_the_global_threshold_are_judged_on_clicks_later_than_their_own(healthy: Judged) -> None:
    held = contest.hold(healthy, GROUPS, 0.02, CONFIG)
    assert set(held.metadata["candidates"]) == {"quadratic", "hull", "global"}
    assert held.metadata["earlier"]["clicks"] == 36_000 and held.metadata["held_out"]["clicks"] == 24_000
    for figures in held.metadata["candidates"].values():
        low, high = figures["fpr_interval"]
        assert low <= figures["fpr"] <= high
        assert figures["failed"] == []


def test_a_form_by_slice_wins_where_slices_differ(healthy: Judged) -> None:
    held = contest.hold(healthy, GROUPS, 0.02, CONFIG)
    gains = {name: f["ivr"] - f["ivr_in_hindsight"] for name, f in held.metadata["candidates"].items()}
    assert held.winner in {"quadratic", "hull"}
    assert held.winner == max(gains, key=lambda name: gains[name])


def test_the_global_threshold_ships_where_slices_do_not_differ() -> None:
    alike = draw(2, 60_000)
    alike = replace(alike, slice=np.random.default_rng(1).choice(SLICES, len(alike)))
    held = contest.hold(alike, GROUPS, 0.02, replace(CONFIG, held_out_share=0.5))
    figures = held.metadata["candidates"]
    assert all(abs(figures[form]["ivr"] - figures["global"]["ivr"]) < 0.02 for form in ("quadratic", "hull"))
    assert held.winner == "global"


def test_a_form_that_loses_too_many_people_later_is_out(healthy: Judged) -> None:
    earlier, _ = healthy.split(CONFIG.held_out_share)
    later = healthy.event_time_ms > earlier.event_time_ms.max()
    moved = np.where(later & healthy.purchased, healthy.score + 3, healthy.score).astype(np.float32)
    held = contest.hold(replace(healthy, score=moved), GROUPS, 0.02, CONFIG)
    assert held.winner == "global"
    assert all(
        "FPR: expected an interval" in " ".join(held.metadata["candidates"][f]["failed"]) for f in ("hull", "quadratic")
    )


def test_a_form_whose_ivr_changes_too_much_is_out(healthy: Judged) -> None:
    earlier, _ = healthy.split(CONFIG.held_out_share)
    later = healthy.event_time_ms > earlier.event_time_ms.max()
    quiet = healthy.where(~later | ~healthy.hot & (healthy.score < -1))  # the robots stay away
    held = contest.hold(quiet, GROUPS, 0.02, CONFIG)
    assert held.winner == "global"
    assert any("IVR: expected" in line for line in held.metadata["candidates"]["hull"]["failed"])


def test_a_form_that_covers_a_slice_worse_does_not_ship(healthy: Judged) -> None:
    held = contest.hold(healthy, GROUPS, 0.02, CONFIG)
    won = held.metadata["candidates"][held.winner]
    assert won["coverage_worst"] >= held.metadata["candidates"]["global"]["coverage_worst"]


def test_no_contest_without_slices_to_tell_apart(healthy: Judged) -> None:
    held = contest.hold(healthy, {"*": list(SLICES)}, 0.02, CONFIG)
    assert (held.winner, held.metadata) == ("global", {})
    assert "too few purchases" in held.why


def test_no_contest_where_a_group_has_no_purchase_in_a_fold(healthy: Judged) -> None:
    earlier, _ = healthy.split(CONFIG.held_out_share)
    bought = healthy.purchased & ~((healthy.slice == "app/out") & (healthy.event_time_ms > earlier.event_time_ms.max()))
    held = contest.hold(replace(healthy, purchased=bought), GROUPS, 0.02, CONFIG)
    assert held.winner == "global"
    assert "no purchase in app/out among the held-out clicks" in held.why


@given(st.integers(1, 2000), st.floats(0, 1), st.sampled_from([0.9, 0.95, 0.99]))
def test_intervals_are_those_of_clopper_and_pearson(of: int, share: float, confidence: float) -> None:
    count = int(share * of)
    exact = binomtest(count, of).proportion_ci(confidence, method="exact")
    assert curves.interval(count, of, confidence) == pytest.approx((exact.low, exact.high), abs=1e-9)
