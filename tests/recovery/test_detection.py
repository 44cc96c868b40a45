"""CUSUM arithmetic against its definitions, and how often it cries wolf."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickledger.recovery import detection
from clickledger.recovery.detection import ALL, SIGNALS, Signal, Tick

KNOWN, OVERALL, FLOOD, MIRROR, HOT = SIGNALS
MONTH_TICKS = 30 * 24 * 360  # of ten seconds

counts = st.integers(0, 50)
ticks = st.lists(st.builds(lambda a, b, rest: Tick(a + b + rest, a, b), counts, counts, counts), max_size=40)


@given(ticks, st.floats(0, 1))
def test_the_cusum_is_the_largest_sum_of_excess_over_all_starting_points(series: list[Tick], allowance: float) -> None:
    excess = [t.withheld - t.released - allowance * t.users for t in series]
    course = detection.cusum(series, allowance)
    for end, level in enumerate(course):
        best = max([0.0, *(sum(excess[start : end + 1]) for start in range(end + 1))])
        assert level == pytest.approx(best, abs=1e-6)


@given(ticks, st.integers(0, 39), st.floats(0, 1))
def test_a_cusum_that_starts_later_is_never_higher(series: list[Tick], start: int, allowance: float) -> None:
    whole = detection.cusum(series, allowance)
    part = detection.cusum(series[start:], allowance)
    assert all(later <= level + 1e-6 for later, level in zip(part, whole[start:], strict=True))


@given(st.floats(1e-6, 0.2), st.floats(1e-6, 0.2), st.floats(1e-3, 0.3))
def test_the_exponent_is_the_root_of_its_equation(withheld: float, released: float, allowance: float) -> None:
    theta = detection.exponent(withheld, released, allowance)
    left = withheld * math.expm1(theta) + released * math.expm1(-theta)
    if withheld - released >= allowance:
        assert theta == 0.0
    elif theta < detection.THETA_MAX:
        assert left == pytest.approx(allowance * theta, rel=1e-6, abs=1e-9)
    else:
        assert left <= allowance * theta


@given(st.dictionaries(st.sampled_from(["a", "b"]), ticks.map(lambda t: (t + [Tick(9, 0, 0)] * 40)[:40]), min_size=1))
def test_all_slices_together_are_the_sum_of_the_slices(slices: dict[str, list[Tick]]) -> None:
    agreeing = {name: [Tick(t.users, 0, 0) for t in series] for name, series in slices.items()}
    assert detection.judge(agreeing, agreeing) is None
    reading = detection.read(KNOWN, ALL, detection._with_all(slices)[ALL])
    assert reading.users == sum(t.users for series in slices.values() for t in series)


def rates(seed: int, n: int, users: float, withheld: float, released: float) -> list[Tick]:
    draw = np.random.default_rng(seed)
    columns = (draw.poisson(users, n), draw.poisson(users * withheld, n), draw.poisson(users * released, n))
    return [Tick(int(u), int(w), int(r)) for u, w, r in zip(*columns, strict=True)]


@pytest.mark.parametrize("users", [20, 1_000])
@pytest.mark.parametrize("signal", SIGNALS, ids=lambda s: s.name)
def test_the_largest_tolerated_difference_raises_no_alarm_in_six_months(signal: Signal, users: int) -> None:
    draw = np.random.default_rng(1)
    ticks_, noise = 6 * MONTH_TICKS, signal.allowance / 2
    net = draw.poisson(users * (noise + signal.tolerated), ticks_) - draw.poisson(users * noise, ticks_)
    walk = np.cumsum(net - signal.allowance * users)
    highest = (walk - np.minimum.accumulate(np.minimum(walk, 0.0))).max()
    theta = detection.exponent(noise + signal.tolerated, noise, signal.allowance)
    assert theta * highest < min(signal.alone, 18.0)


def test_a_fresh_deployment_is_given_time() -> None:
    """300 sound deployments, judged after each of their first ticks, when little is known of their noise."""
    for seed in range(300):
        series = rates(seed, 30, 20, 0.003, 0.002)
        assert not any(raises(KNOWN, series[:end]) for end in range(1, len(series) + 1))


def raises(signal: Signal, series: list[Tick]) -> bool:
    reading = detection.read(signal, ALL, series)
    return reading.evidence >= reading.alone


@pytest.mark.parametrize(("share", "customers_max"), [(0.01, 3_000), (0.03, 1_000)])
def test_a_model_that_withholds_more_customers_is_seen(share: float, customers_max: int) -> None:
    seen = []
    for seed in range(20):
        series = rates(seed, 1_000, 10, 0.001 + share, 0.001)
        end = next(end for end in range(5, len(series), 5) if raises(KNOWN, series[:end]))
        seen.append(sum(tick.users for tick in series[:end]))
    assert sorted(seen)[len(seen) // 2] <= customers_max


def test_a_model_that_withholds_more_robots_only_is_no_anomaly() -> None:
    known = rates(0, 500, 20, 0.001, 0.001)
    everyone = rates(1, 500, 200, 0.12, 0.002)
    alarm = detection.judge({"web/out": known}, {"web/out": everyone})
    assert alarm is None


def test_a_flood_raises_without_any_known_customer() -> None:
    everyone = rates(1, 30, 200, 0.5, 0.002)
    alarm = detection.judge({"web/out": []}, {"web/out": everyone})
    assert alarm is not None
    assert alarm.signals == ["flood", "overall"]


def test_a_model_that_lets_robots_pass_raises_too() -> None:
    everyone = rates(1, 60, 200, 0.002, 0.15)
    alarm = detection.judge({"web/out": rates(0, 60, 20, 0.001, 0.001)}, {"web/out": everyone})
    assert alarm is not None
    assert alarm.signals == [MIRROR.name]


def test_the_slice_most_affected_is_named() -> None:
    good = rates(0, 60, 100, 0.001, 0.001)
    bad = rates(1, 60, 100, 0.10, 0.001)
    series = {"app/in": good, "tv/out": bad, "web/in": good}
    alarm = detection.judge(series, series)
    assert alarm is not None
    assert (alarm.scope, alarm.slice) == (ALL, "tv/out")


def test_an_anomaly_of_one_small_slice_is_not_drowned_by_the_others() -> None:
    good = rates(0, 400, 1_000, 0.003, 0.006)
    bad = rates(1, 400, 5, 0.2, 0.001)
    series = {"app/in": good, "tv/out": bad}
    alarm = detection.judge(series, series)
    assert alarm is not None
    assert alarm.slice == "tv/out"


def test_a_slice_alone_must_show_more_than_sound_models_differ_by_in_one() -> None:
    quiet = rates(0, 3_000, 100, 0.0005, 0.0005)
    differing = rates(1, 3_000, 5, 0.019, 0.010)  # who is not logged in: net 0.9%
    series = {"app/in": quiet, "web/out": differing}
    assert (
        detection.judge(series, {name: [Tick(t.users, 0, 0) for t in ticks] for name, ticks in series.items()}) is None
    )
    worse = {"app/in": quiet, "web/out": rates(2, 3_000, 5, 0.06, 0.010)}
    assert detection.judge(worse, {name: [Tick(t.users, 0, 0) for t in ticks] for name, ticks in worse.items()})


def test_nothing_seen_is_no_anomaly() -> None:
    assert detection.judge({}, {}) is None
    assert detection.judge({"a": []}, {"a": []}) is None
