"""Calibrations beside a pair in force: no slice moves further than a step, unless purchases or the budget say so."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from judged_clicks import draw

from clickledger.errors import InvalidInput
from clickledger.scoring import allocation, anchoring, calibration
from clickledger.scoring.allocation import DEFAULT_CONFIG, Allocation
from clickledger.scoring.anchoring import InForce
from clickledger.scoring.judged import Judged

seeds = st.integers(0, 2**32 - 1)
shifts = st.floats(-1.5, 1.5)
FEW = replace(DEFAULT_CONFIG, step_humans_min=100)


def in_force(clicks: Judged, thresholds: dict[str, float], human: np.typing.NDArray[np.bool_] | None = None) -> InForce:
    """Another model's verdicts, with the same scores but other thresholds."""
    people = clicks.purchased if human is None else human
    return InForce(clicks.invalid(thresholds), people, 7, 9)


def rate(clicks: Judged, flags: np.typing.NDArray[np.bool_], name: str) -> float:
    return float(flags[clicks.slice == name].mean())


@given(seeds, st.integers(400, 4000), st.booleans(), st.floats(0.002, 0.2), shifts, shifts)
@settings(max_examples=60, deadline=None)
def test_a_slice_is_within_its_step_or_its_purchases_or_the_budget_say_why(
    seed: int, rows: int, tied: bool, fpr_max: float, inside: float, outside: float
) -> None:
    clicks = draw(seed, rows, tied)
    assume(clicks.purchases)
    within = allocation.budget(fpr_max, clicks.purchases, DEFAULT_CONFIG.overshoot_z)
    made = allocation.everywhere(clicks, within, DEFAULT_CONFIG)
    other = {"*": made.thresholds["*"] + inside, "app/out": made.thresholds["*"] + outside}
    before = in_force(clicks, other)
    near = anchoring.near(clicks, made, before, fpr_max, FEW)
    after = clicks.invalid(near.thresholds)
    told = near.metadata["anchored"]["slices"]
    assert near.metadata["anchored"]["beside"] == {"model": 7, "calibration": 9}
    assert np.count_nonzero(after & clicks.purchased) <= Fraction(fpr_max) * clicks.purchases
    for name in np.unique(clicks.slice).tolist():
        of, now = rate(clicks, before.invalid, name), rate(clicks, after, name)
        step = 0.1 * max(of, 0.05)
        assert now <= of + step + 1e-9
        people = (clicks.slice == name) & clicks.purchased
        if np.count_nonzero(people) >= 100:
            assert after[people].mean() <= before.invalid[people].mean() + 0.003 + 1e-9
        if name not in told:
            assert now >= of - step - 1e-9
            assert near.thresholds.get(name, near.thresholds["*"]) == made.thresholds.get(name, made.thresholds["*"])
        elif now < of - step - 1e-9:
            limited = np.count_nonzero(people) >= 100 and told[name]["wanted"] > now  # by its human clicks
            assert told[name]["kept"] or limited or now >= told[name]["wanted"]


def test_without_a_step_nothing_changes() -> None:
    clicks = draw(3, 20_000)
    made = calibration.of_clicks(clicks, 0.02)
    same = calibration.of_clicks(clicks, 0.02, DEFAULT_CONFIG, in_force(clicks, made.thresholds))
    assert same.thresholds == made.thresholds
    assert same.metadata["allocation"]["anchored"]["slices"] == {}


def test_a_slice_that_would_be_stricter_comes_back_to_its_step() -> None:
    clicks = draw(3, 20_000)
    made = calibration.of_clicks(clicks, 0.02).thresholds
    mild = {
        name: limit + (1.0 if name == "web/out" else 0.0) for name, limit in (made | {"web/out": made["*"]}).items()
    }
    before = in_force(clicks, mild)
    near = calibration.of_clicks(clicks, 0.02, DEFAULT_CONFIG, before)
    told = near.metadata["allocation"]["anchored"]["slices"]
    assert set(told) == {"web/out"} and told["web/out"]["kept"] == ""
    assert told["web/out"]["in_force"] < told["web/out"]["rate"] < told["web/out"]["wanted"]
    assert rate(clicks, clicks.invalid(near.thresholds), "web/out") == told["web/out"]["rate"]


def test_a_slice_in_which_purchases_are_lost_beyond_doubt_is_let_go() -> None:
    """What is in force loses a third of the purchases of a slice: a calibration that ends that is not held back."""
    clicks = draw(4, 20_000)
    made = calibration.of_clicks(clicks, 0.02).thresholds
    people = clicks.in_slices({"app/out"})
    harsh = float(np.quantile(people.score[people.purchased], 0.66))
    near = calibration.of_clicks(clicks, 0.02, DEFAULT_CONFIG, in_force(clicks, made | {"app/out": harsh}))
    told = near.metadata["allocation"]["anchored"]["slices"]["app/out"]
    assert told["kept"] == "its purchases speak for it" and told["rate"] == told["wanted"]


def test_the_budget_is_not_exceeded_for_the_sake_of_what_is_in_force() -> None:
    """What is in force is stricter everywhere, in no slice beyond its ceiling: following it would take purchases."""
    clicks = draw(4, 20_000)
    made = allocation.everywhere(clicks, allocation.budget(0.01, clicks.purchases, 0.0), DEFAULT_CONFIG)
    harsh = allocation.everywhere(clicks, allocation.budget(0.04, clicks.purchases, 0.0), DEFAULT_CONFIG)
    near = anchoring.near(clicks, made, in_force(clicks, harsh.thresholds), 0.01, DEFAULT_CONFIG)
    told = near.metadata["anchored"]["slices"]
    assert "the budget has no purchase left for a stricter one" in {each["kept"] for each in told.values()}
    assert np.count_nonzero(clicks.invalid(near.thresholds) & clicks.purchased) <= 0.01 * clicks.purchases


def test_human_clicks_hold_a_slice_whose_robots_hide_what_happens_to_them() -> None:
    """Half of a slice is robots: a tenth of its rate are many people."""
    clicks = draw(5, 40_000)
    made = calibration.of_clicks(clicks, 0.05).thresholds
    before = in_force(clicks, {name: limit + 0.5 for name, limit in made.items()})
    near = calibration.of_clicks(clicks, 0.05, FEW, before)
    for name in np.unique(clicks.slice).tolist():
        people = (clicks.slice == name) & clicks.purchased
        lost = clicks.invalid(near.thresholds)[people].mean() - before.invalid[people].mean()
        assert np.count_nonzero(people) >= FEW.step_humans_min and lost <= 0.003


def test_a_slice_that_has_shown_no_robots_keeps_a_margin_from_its_ceiling() -> None:
    clicks = draw(7, 40_000)
    quiet = replace(clicks, hot=clicks.hot & (clicks.slice != "app/out"))
    hot, still = (allocation.caps(each, 0.05, DEFAULT_CONFIG)["app/out"] for each in (clicks, quiet))
    own = clicks.in_slices({"app/out"})
    bought = np.sort(own.score[own.purchased])
    kept = 0.05 - 1.28 * np.sqrt(0.05 * 0.95 / len(bought))
    assert np.count_nonzero(bought >= hot) == int(0.05 * len(bought))
    assert np.count_nonzero(bought >= still) == int(kept * len(bought)) < int(0.05 * len(bought))


def test_flags_of_other_clicks_are_refused() -> None:
    clicks = draw(3, 2_000)
    flags = np.zeros(1_999, dtype=np.bool_)
    with pytest.raises(InvalidInput, match=r"expected flags \(2000,\), got \(1999,\)"):
        anchoring.near(clicks, Allocation({"*": 0.0}, {}), InForce(flags, flags, 1, 1), 0.01, DEFAULT_CONFIG)
