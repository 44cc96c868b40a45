"""What the model's inputs are made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_traffic import draw

from clickledger.errors import InvalidInput
from clickledger.scoring import feature_spec, transform


def snapshot(**values: int) -> np.ndarray:
    row = np.zeros((1, len(feature_spec.FEATURES)), dtype=np.int32)
    for name, value in values.items():
        row[0, feature_spec.INDEX[name]] = value
    return row


def column(encoded: np.ndarray, name: str) -> float:
    return float(encoded[0, transform.COLUMNS.index(name)])


@given(st.integers(0, 2**31 - 2))
def test_octaves_rise_with_the_count_and_stay_near_its_logarithm(count: int) -> None:
    here, above = transform.octaves(np.array([count, count + 1], dtype=np.int32))
    assert here < above
    assert 0 <= math.log2(count + 1) - here + 1e-12 < 0.0862


@given(st.integers(0, 30))
def test_octaves_are_the_logarithm_at_powers_of_two(power: int) -> None:
    assert transform.octaves(np.array([2**power - 1], dtype=np.int32))[0] == power


def test_a_count_without_value_is_told_from_zero() -> None:
    missing, zero = (transform.encode(snapshot(user_last_gap_ms=value)) for value in (feature_spec.NO_VALUE, 0))
    assert column(missing, "user_last_gap_ms") == column(zero, "user_last_gap_ms") == 0
    assert (column(missing, "user_last_gap_ms.missing"), column(zero, "user_last_gap_ms.missing")) == (1, 0)


def test_midnight_and_the_minute_before_are_neighbours_on_the_circle() -> None:
    before, at = (transform.encode(snapshot(minute_of_week=minute)) for minute in (1439, 1440))
    assert column(at, "hour.cos") == 1 and column(at, "hour.sin") == 0
    assert abs(column(before, "hour.sin") - column(at, "hour.sin")) < 0.005
    assert column(before, "weekday.cos") == 1 and column(at, "weekday.cos") < 0.7


def test_every_clock_value_is_far_from_a_rounding_edge() -> None:
    """So no platform's sine, right to 1e-12, can round one to another step."""
    angles = [2 * math.pi * m / 1440 for m in range(1440)] + [2 * math.pi * d / 7 for d in range(7)]
    steps = np.array([f(angle) * transform.GRID for angle in angles for f in (math.sin, math.cos)])
    assert np.abs(np.abs(steps - np.floor(steps)) - 0.5).min() > 1e-6


def test_unknown_login_and_device_kind_are_values_of_their_own() -> None:
    encoded = transform.encode(snapshot(logged_in=feature_spec.NO_VALUE, device_kind=feature_spec.UNKNOWN_DEVICE_KIND))
    assert column(encoded, "logged_in=-1") == column(encoded, "device_kind=0") == 1
    assert column(encoded, "logged_in=0") == column(encoded, "device_kind=1") == 0


def test_a_column_that_never_varied_in_training_is_silent_afterwards() -> None:
    features = draw(500).dataset.features
    features[:, feature_spec.INDEX["device_kind"]] = 1
    learned = transform.fit(features)
    other = features[:1].copy()
    other[0, feature_spec.INDEX["device_kind"]] = 5
    assert np.array_equal(learned.inputs(other), learned.inputs(features[:1]))


@pytest.mark.parametrize(("hours", "silent"), [(168, []), (167, []), (144, ["weekday"]), (23, ["hour", "weekday"])])
def test_a_circle_speaks_only_if_the_training_set_went_around_it(hours: int, silent: list[str]) -> None:
    features = draw(2_000).dataset.features
    minute = feature_spec.INDEX["minute_of_week"]
    learned = transform.fit(features[features[:, minute] < hours * 60])
    circles = [name for name in transform.COLUMNS if name.endswith((".sin", ".cos"))]
    unheard = [name for name in circles if learned.scale[transform.COLUMNS.index(name)] == 0]
    assert unheard == [name for name in circles if name.split(".")[0] in silent]


def test_inputs_are_whole_steps_within_the_limit() -> None:
    learned = transform.fit(draw(500).dataset.features)
    steps = learned.inputs(np.full((1, len(feature_spec.FEATURES)), 2**31 - 1, dtype=np.int32))
    assert np.array_equal(steps, np.rint(steps))
    assert np.abs(steps).max() <= transform.INPUT_LIMIT * transform.GRID


def test_snapshots_of_another_width_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"expected shape \(n, 22\) or \(n, 23\), got \(3, 5\)"):
        transform.encode(np.zeros((3, 5), dtype=np.int32))


def test_nothing_to_fit_on_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least one snapshot"):
        transform.fit(np.empty((0, len(feature_spec.FEATURES)), dtype=np.int32))
