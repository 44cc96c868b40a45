"""What thresholds did: by slice and login status, and what a calibration changes on clicks it has not seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from judged_clicks import draw

from clickledger.errors import Refused
from clickledger.scoring import calibration_trial, curves, evaluate, examination, realised
from clickledger.scoring.judged import Judged


def four() -> Judged:
    """Two purchases and two robots in two slices."""
    return Judged(
        score=np.array([3.0, -1.0, 2.0, 1.0], dtype=np.float32),
        purchased=np.array([False, True, True, False]),
        hot=np.array([True, False, False, True]),
        slice=np.array(["app/in", "app/in", "web/out", "web/out"]),
        event_time_ms=np.arange(4),
    )


def test_every_part_has_its_rates_by_its_own_threshold() -> None:
    told = realised.figures(four(), {"*": 2.0, "app/in": 4.0}, robot=four().hot)
    assert list(told) == ["*", "*/in", "*/out", "app/in", "web/out"]
    assert (told["*"]["ivr"], told["*"]["fpr"], told["*"]["coverage"]) == (0.25, 0.5, 0.0)
    assert (told["app/in"]["ivr"], told["web/out"]["fpr"], told["*/out"]["people"]) == (0.0, 1.0, 1.0)
    assert told["web/out"]["fpr_interval"] == list(curves.interval(1, 1, 0.95))


def test_a_rate_of_nothing_is_none_and_has_no_interval() -> None:
    nobody = replace(four(), purchased=np.zeros(4, dtype=np.bool_))
    told = realised.figures(nobody, {"*": 2.0})["*"]
    assert told["fpr"] is None and told["fpr_interval"] is None and "people" not in told


def test_the_worst_slice_is_one_with_clicks_enough_to_tell() -> None:
    rates = {"fpr": 0.5, "coverage": 0.1, "purchases": 30, "hot_clicks": 100}
    thin = {"fpr": 1.0, "coverage": 0.0, "purchases": 29, "hot_clicks": 99}
    told = realised.worst({"*": {**rates, "fpr": 1.0}, "app/in": rates, "web/out": thin})
    assert told == {"fpr": {"slice": "app/in", "value": 0.5}, "coverage": {"slice": "app/in", "value": 0.1}}
    assert realised.worst({"*": rates, "web/out": thin}) == {"fpr": None, "coverage": None}


def test_a_calibration_is_judged_on_later_clicks_beside_one_threshold_that_loses_as_many() -> None:
    clicks = draw(1, 6_000)
    trial = calibration_trial.hold(clicks, 0.05)
    fields = trial.fields
    assert fields["calibrated_on"]["to_ms"] < fields["judged_on"]["from_ms"] == trial.later.event_time_ms.min()
    assert fields["calibrated_on"]["clicks"] + fields["judged_on"]["clicks"] == len(clicks)
    lost = {name: told["*"]["fpr"] for name, told in fields["figures"].items()}
    assert lost["by_slice"] == lost["global_at_equal_fpr"]
    assert set(trial.curves) == set(fields["knees"]) == set(realised.parts(trial.later))
    assert len(fields["thresholds"]["global"]) == 1


def test_what_later_clicks_led_to_makes_no_threshold() -> None:
    clicks = draw(1, 6_000)
    later = clicks.event_time_ms >= calibration_trial.hold(clicks, 0.05).later.event_time_ms.min()
    other = replace(clicks, purchased=np.where(later, ~clicks.purchased, clicks.purchased))
    one, two = (calibration_trial.hold(each, 0.05).thresholds for each in (clicks, other))
    assert one["by_slice"] == two["by_slice"] and one["global"] == two["global"]


def test_a_half_without_purchases_is_refused() -> None:
    clicks = draw(1, 6_000)
    early = replace(clicks, purchased=clicks.purchased & (clicks.event_time_ms < np.median(clicks.event_time_ms)))
    with pytest.raises(Refused, match="expected purchases in both halves"):
        calibration_trial.hold(early, 0.05)


def test_the_points_of_a_picture_lie_on_the_exact_curve_and_hold_its_ends() -> None:
    clicks = draw(1, 6_000)
    curve = curves.curve(clicks)
    shown = examination.points(curve)
    assert len(shown) <= examination.POINTS_MAX < curve.purchases
    exact = {(round(f, 6), round(i, 6)) for f, i in zip(curve.fpr.tolist(), curve.ivr.tolist(), strict=True)}
    assert {tuple(point) for point in shown} <= exact
    assert shown[0][0] == 0.0 and shown[-1] == [round(float(curve.fpr[-1]), 6), round(float(curve.ivr[-1]), 6)]
    for budget in (0.01, 0.1):
        reached = curve.ivr[curve.fpr <= budget].max()
        assert reached == pytest.approx(evaluate.ivr_at_fpr(clicks.score, clicks.purchased, budget))
