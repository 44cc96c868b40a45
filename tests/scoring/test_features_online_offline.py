"""Recomputing from the log gives what was counted online, to the bit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simple_clicks import click

from clickledger.scoring import counters, feature_replay, feature_spec
from clickledger.scoring.click import Click
from clickledger.scoring.counters import Counted, FeatureCounter

MINUTE = feature_spec.MINUTE_MS
HOUR = feature_spec.HOUR_MS
STEPS_MS = [
    0,
    0,
    1,
    300,
    3_000,
    9_999,
    10_000,
    MINUTE,
    10 * MINUTE,
    31 * MINUTE,
    4 * HOUR,
    12 * HOUR,
    24 * HOUR - MINUTE,
    24 * HOUR,
]
DELAYS_MS = [0, 0, 0, 5, 2_500, 60_000, 119_999, 120_000, 120_001, 600_000]

small = st.integers(0, 3)
arrivals = st.lists(
    st.fixed_dictionaries(
        {
            "step": st.sampled_from(STEPS_MS),
            "delay": st.sampled_from(DELAYS_MS),
            "future": st.sampled_from([False] * 15 + [True]),
            "repeats": st.sampled_from([None] * 4 + [0, 1, 7]),  # how many arrivals ago
            "user": st.sampled_from([0, 0, 0, 0, 1, 2, 3]),
            "ip": small,
            "session": small,
            "campaign": st.integers(0, 40),
            "device": st.integers(0, 200),
            "device_kind": st.sampled_from(["app", "web", "toaster"]),
            "logged_in": st.sampled_from([True, False, None]),
        }
    ),
    min_size=1,
    max_size=120,
)


def arriving_clicks(rows: Sequence[dict]) -> list[Click]:
    """Clicks in order of arrival; the last of them happened before now, unless they are to be from the future."""
    now_ms = int(time.time() * 1000)
    clock_ms = now_ms - sum(row["step"] for row in rows) - HOUR
    clicks: list[Click] = []
    for number, row in enumerate(rows):
        clock_ms += row["step"]
        repeats = row["repeats"]
        if repeats is not None and repeats < len(clicks):
            clicks.append(clicks[-1 - repeats])
            continue
        event_ms = now_ms + 24 * HOUR if row["future"] else clock_ms - row["delay"]
        names = ("user", "ip", "session", "campaign", "device", "device_kind", "logged_in")
        clicks.append(click(number, event_ms, **{name: row[name] for name in names}))
    return clicks


def expected_reasons(clicks: Sequence[Click]) -> list[str]:
    """The order rule, told again: late before the largest time counted so far, future beyond the server's clock."""
    clock_ms, first, reasons = 0, {}, []
    now_ms = int(time.time() * 1000)
    for each in clicks:
        if each.click_id not in first:
            late = each.event_time_ms < clock_ms - 120_000
            first[each.click_id] = "future" if each.event_time_ms > now_ms + HOUR else "late" if late else ""
            if not first[each.click_id]:
                clock_ms = max(clock_ms, each.event_time_ms)
        reasons.append(first[each.click_id])
    return reasons


def counted_once(clicks: Sequence[Click], counted: Counted) -> tuple[list[Click], np.ndarray]:
    """What the log would hold: each counted click once with its snapshot, by seq."""
    by_seq: dict[int, tuple[Click, np.ndarray]] = {}
    for each, seq, features in zip(clicks, counted.seq.tolist(), counted.features, strict=True):
        if seq:
            known = by_seq.setdefault(seq, (each, features))
            assert known[0].click_id == each.click_id
            assert (known[1] == features).all()
    assert sorted(by_seq) == list(range(1, len(by_seq) + 1)), "seq has gaps"
    rows = [by_seq[seq] for seq in sorted(by_seq)]
    snapshots = [features for _, features in rows]
    return [each for each, _ in rows], np.array(snapshots, dtype=np.int32).reshape(-1, len(feature_spec.FEATURES))


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == expected.dtype == np.int32
    assert actual.shape == expected.shape
    for row, column in np.argwhere(actual != expected)[:5]:
        name = feature_spec.FEATURES[column]
        raise AssertionError(f"row {row} {name}: expected {expected[row, column]}, got {actual[row, column]}")


def random_click(random: np.random.Generator, number: int, event_time_ms: int, users: int) -> Click:
    user, ip, session, campaign, device = (int(part) for part in random.integers(0, [users, 20, 3, 9, 40]))
    return click(
        number,
        event_time_ms,
        user=user,
        ip=ip,
        session=session,
        campaign=campaign,
        device=device,
        logged_in=(None, False, True)[number % 3],
    )


def joined(parts: Sequence[Counted]) -> Counted:
    return Counted(
        np.concatenate([part.seq for part in parts]),
        np.concatenate([part.features for part in parts]),
        [reason for part in parts for reason in part.reason],
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=arrivals, sizes=st.lists(st.sampled_from([1, 2, 16, 64, 100]), min_size=1, max_size=4))
def test_recomputing_equals_counting_whatever_arrives(valkey: redis.Redis, rows: list[dict], sizes: list[int]) -> None:
    valkey.flushall()
    counters.open_epoch(valkey, 1)
    callers = [FeatureCounter(valkey, 1) for _ in range(3)]
    clicks = arriving_clicks(rows)
    parts, start = [], 0
    while start < len(clicks):
        size = sizes[len(parts) % len(sizes)]
        parts.append(callers[len(parts) % len(callers)].count(clicks[start : start + size]))
        start += size
    counted = joined(parts)
    assert counted.reason == expected_reasons(clicks)
    assert [bool(seq) for seq in counted.seq] == [not reason for reason in counted.reason]
    logged, snapshots = counted_once(clicks, counted)
    assert_same(feature_replay.recompute(logged), snapshots)


@pytest.mark.parametrize("users", [2, 40])
@pytest.mark.parametrize("step_ms", [200, 20_000, 15 * MINUTE])
def test_every_pace_of_traffic_is_recomputed(valkey: redis.Redis, users: int, step_ms: int) -> None:
    counters.open_epoch(valkey, 1)
    random = np.random.default_rng([users, step_ms])
    times = int(time.time() * 1000) - HOUR - np.cumsum(random.exponential(step_ms, 1500).astype(np.int64))[::-1]
    delays = random.integers(0, 110_000, 1500) * random.integers(0, 2, 1500)
    clicks = [random_click(random, n, int(times[n] - delays[n]), users) for n in range(1500)]
    counted = FeatureCounter(valkey, 1).count(clicks)
    logged, snapshots = counted_once(clicks, counted)
    assert len(logged) > 1400
    assert_same(feature_replay.recompute(logged), snapshots)


def test_recent_clicks_end_at_the_first_that_is_a_day_old(valkey: redis.Redis) -> None:
    counters.open_epoch(valkey, 1)
    start_ms = int(time.time() * 1000) - 48 * HOUR
    young = click(1, start_ms + 100_000, campaign=1)
    old = click(2, start_ms, campaign=2)  # counted later, happened earlier
    clicks = [young, old, click(3, start_ms + 24 * HOUR, campaign=3)]
    counted = FeatureCounter(valkey, 1).count(clicks)
    at = feature_spec.INDEX
    assert counted.features[2, at["user_campaigns"]] == 1
    assert counted.features[2, at["user_last_gap_ms"]] == feature_spec.NO_VALUE
    assert counted.features[2, at["user_session_age_ms"]] == 0
    assert_same(feature_replay.recompute(clicks), counted.features)


def test_four_callers_at_once_are_explained_by_seq_alone(valkey: redis.Redis, redis_url: str) -> None:
    counters.open_epoch(valkey, 1)
    random = np.random.default_rng(5)
    start_ms = int(time.time() * 1000) - HOUR
    clicks = [
        random_click(random, number, start_ms + number * 10 - int(random.integers(0, 60_000)), users=30)
        for number in range(4000)
    ]

    def work(part: int) -> tuple[list[Click], Counted]:
        mine = clicks[part::4]
        mine = [again for each in mine for again in ([each, each] if each.click_id[-1] % 5 == 0 else [each])]
        with redis.Redis.from_url(redis_url) as client:
            return mine, FeatureCounter(client, 1).count(mine)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(work, range(4)))
    arrived = [each for mine, _ in answers for each in mine]
    logged, snapshots = counted_once(arrived, joined([counted for _, counted in answers]))
    assert len(logged) == len(clicks)
    assert_same(feature_replay.recompute(logged), snapshots)


def test_recomputing_may_start_one_longest_window_before(valkey: redis.Redis) -> None:
    counters.open_epoch(valkey, 1)
    random = np.random.default_rng(6)
    start_ms = int(time.time() * 1000) - 100 * HOUR
    clicks = [random_click(random, number, start_ms + number * 90_000, users=5) for number in range(3000)]
    snapshots = FeatureCounter(valkey, 1).count(clicks).features
    asked = 2000
    window_start_ms = clicks[asked].event_time_ms - feature_spec.LONGEST_WINDOW_MS
    first = next(i for i, each in enumerate(clicks) if each.event_time_ms >= window_start_ms)
    assert first > 0
    recomputed = feature_replay.recompute(clicks[first:], clock_ms=clicks[first - 1].event_time_ms)
    assert_same(recomputed[asked - first :], snapshots[asked:])
