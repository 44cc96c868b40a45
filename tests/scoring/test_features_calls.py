"""What a call promises: counted once, all or nothing, under the epoch in force, and rebuilt after a loss."""

from __future__ import annotations

import socket
import time

import numpy as np
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from simple_clicks import click, key

from clickledger.errors import Conflict, InvalidInput, LostCounters, Refused, Unavailable
from clickledger.scoring import counters, feature_spec
from clickledger.scoring.click import Click
from clickledger.scoring.counters import Counted, CounterState, FeatureCounter

NOW_MS = int(time.time() * 1000)
MINUTE = feature_spec.MINUTE_MS
HOUR = feature_spec.HOUR_MS


@pytest.fixture
def counter(valkey: redis.Redis) -> FeatureCounter:
    counters.open_epoch(valkey, 1)
    return FeatureCounter(valkey, 1)


def everything(client: redis.Redis) -> dict[bytes, bytes]:
    return {name: client.dump(name) for name in client.scan_iter()}


def put_back(client: redis.Redis, dumped: dict[bytes, bytes]) -> None:
    """The server as after a crash that lost its tail: the keys of an earlier moment, no function library."""
    client.flushall()
    client.function_flush("SYNC")
    for name, value in dumped.items():
        client.restore(name, 0, value)


def stream(count: int, step_ms: int = 20_000) -> list[Click]:
    """The first `count` clicks of one fixed stream, out of order by up to 100 s, ending days before now."""
    start_ms = NOW_MS - 60 * HOUR
    drawn = np.random.default_rng(11).integers(0, [6, 4, 3, 9, 40, 100_000], (9000, 6))[:count].tolist()
    return [
        click(n, start_ms + n * step_ms - late, user=u, ip=i, session=s, campaign=c, device=d, logged_in=u < 3)
        for n, (u, i, s, c, d, late) in enumerate(drawn)
    ]


def assert_equal(actual: Counted, expected: Counted) -> None:
    assert actual.seq.tolist() == expected.seq.tolist()
    assert (actual.features == expected.features).all()
    assert actual.reason == expected.reason


def value(counted: Counted, row: int, name: str) -> int:
    return int(counted.features[row, feature_spec.INDEX[name]])


def test_features_of_a_small_story(counter: FeatureCounter) -> None:
    start_ms = 1_510_054_300_000  # Tuesday 2017-11-07 11:31:40 UTC
    counted = counter.count(
        [
            click(1, start_ms, user=1, ip=1, session=1, campaign=1, device=1, device_kind="web", logged_in=True),
            click(2, start_ms + 5_000, user=1, ip=1, session=1, campaign=2, device=1, logged_in=False),
            click(3, start_ms + 65_000, user=1, ip=2, session=2, campaign=1, device=1, device_kind="toaster"),
            click(4, start_ms + 65_000, user=2, ip=1, session=3, campaign=1, device=2, logged_in=True),
        ]
    )
    assert dict(zip(feature_spec.FEATURES, counted.features[0].tolist(), strict=True)) == {
        "user_clicks_10s": 1, "user_clicks_1m": 1, "user_clicks_10m": 1, "user_clicks_1h": 1, "user_clicks_24h": 1,
        "user_last_gap_ms": -1, "user_gap_min_ms": -1, "user_gap_max_ms": -1, "user_campaign_clicks_1h": 1,
        "user_campaigns": 1, "user_session_clicks_1h": 1, "user_session_age_ms": 0, "user_ips": 1, "ip_clicks_1m": 1,
        "ip_clicks_1h": 1, "ip_clicks_24h": 1, "ip_users": 1, "ip_agents": 1, "ip_logged_in_clicks": 1,
        "minute_of_week": 24 * 60 + 11 * 60 + 31, "logged_in": 1, "device_kind": feature_spec.DEVICE_KINDS["web"],
    }  # fmt: skip
    assert dict(zip(feature_spec.FEATURES, counted.features[2].tolist(), strict=True)) == {
        "user_clicks_10s": 1, "user_clicks_1m": 1, "user_clicks_10m": 3, "user_clicks_1h": 3, "user_clicks_24h": 3,
        "user_last_gap_ms": 60_000, "user_gap_min_ms": 5_000, "user_gap_max_ms": 60_000, "user_campaign_clicks_1h": 2,
        "user_campaigns": 2, "user_session_clicks_1h": 1, "user_session_age_ms": 0, "user_ips": 2, "ip_clicks_1m": 1,
        "ip_clicks_1h": 1, "ip_clicks_24h": 1, "ip_users": 1, "ip_agents": 1, "ip_logged_in_clicks": 0,
        "minute_of_week": 24 * 60 + 11 * 60 + 32, "logged_in": -1, "device_kind": 0,
    }  # fmt: skip
    assert value(counted, 1, "user_session_age_ms") == 5_000
    assert [value(counted, 3, name) for name in ("ip_users", "ip_agents", "ip_logged_in_clicks", "ip_clicks_1m")] == [
        2, 2, 2, 1 + 2 * (start_ms // 10_000 + 6 >= (start_ms + 65_000) // 10_000),
    ]  # fmt: skip


def test_a_click_is_counted_once_and_answered_the_same(valkey: redis.Redis, counter: FeatureCounter) -> None:
    clicks = stream(50)
    first = counter.count([*clicks, clicks[7]])
    kept = everything(valkey)
    assert_equal(counter.count([*clicks, clicks[7]]), first)
    assert everything(valkey) == kept
    assert first.seq.tolist() == [*range(1, 51), 8]
    assert (first.features[50] == first.features[7]).all()


def test_an_id_is_remembered_as_long_as_its_click_could_be_counted_again(
    valkey: redis.Redis, counter: FeatureCounter
) -> None:
    old = click(1, NOW_MS - 10 * HOUR)
    first = counter.count([old])
    for number in range(2, 5):  # hours pass on the server's clock, none on the counting clock
        valkey.hincrby("cl:state", "seen_since_ms", -5 * HOUR)
        counter.count([click(number, old.event_time_ms + number)])
        assert_equal(counter.count([old]), first)
    for number in range(5, 7):
        valkey.hincrby("cl:state", "seen_since_ms", -5 * HOUR)
        counter.count([click(number, old.event_time_ms + number * 3 * MINUTE)])
    assert counter.count([old]).reason == ["late"]
    assert valkey.hlen("cl:seen:0") + valkey.hlen("cl:seen:1") < 6


def test_an_id_is_remembered_for_ten_minutes_however_fast_old_clicks_are_imported(counter: FeatureCounter) -> None:
    clicks = stream(100, step_ms=HOUR // 2)
    first = counter.count(clicks)
    assert_equal(counter.count(clicks), first)


def test_late_and_future_clicks_are_not_counted_and_say_why(valkey: redis.Redis, counter: FeatureCounter) -> None:
    server_ms = int(valkey.time()[0] * 1000)
    counter.count([click(1, server_ms)])
    kept = counters.state(valkey)
    counted = counter.count(
        [
            click(2, server_ms - 120_001, logged_in=True, device_kind="app"),
            click(3, server_ms + HOUR),
        ]
    )
    assert counted.reason == ["late", "future"]
    assert counted.seq.tolist() == [0, 0]
    assert counters.state(valkey) == kept
    known = {name for name in feature_spec.FEATURES if value(counted, 0, name) != feature_spec.NO_VALUE}
    assert known == set(feature_spec.STATELESS_FEATURES)
    assert counter.count([click(4, server_ms - 120_000)]).reason == [""]


def test_a_future_click_stays_refused_since_its_refusal_is_remembered(
    valkey: redis.Redis, counter: FeatureCounter
) -> None:
    ahead = click(1, int(valkey.time()[0] * 1000) + HOUR)
    first = counter.count([ahead])
    assert valkey.hexists("cl:seen:0", ahead.click_id)  # its id answers before the clock is asked
    assert_equal(counter.count([ahead]), first)


@pytest.mark.parametrize("broken", ["record", "type"])
def test_an_error_in_a_call_leaves_no_trace(valkey: redis.Redis, counter: FeatureCounter, broken: str) -> None:
    clicks = stream(64)
    counter.count(clicks[:10])
    record = b"cl:i:" + key("ip", 77)
    if broken == "record":
        valkey.set(record, b"\xc1 not msgpack")
    else:
        valkey.lpush(record, b"not a record")
    kept = everything(valkey)
    last = click(99, clicks[-1].event_time_ms, ip=77)
    with pytest.raises(redis.ResponseError):
        counter.count([*clicks[10:60], last])
    assert everything(valkey) == kept
    valkey.delete(record)
    assert counter.count([*clicks[10:60], last]).seq.tolist() == list(range(11, 62))


def test_a_call_refused_for_lack_of_memory_leaves_no_trace(valkey: redis.Redis, counter: FeatureCounter) -> None:
    counter.count(stream(10))
    kept = everything(valkey)
    valkey.config_set("maxmemory", "1")
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            counter.count(stream(20))
        assert everything(valkey) == kept
    finally:
        valkey.config_set("maxmemory", "0")
    assert counter.count(stream(20)).seq.tolist() == list(range(1, 21))


def test_the_function_refuses_more_clicks_than_a_call_may_hold(valkey: redis.Redis, counter: FeatureCounter) -> None:
    encoded = feature_spec.encode_clicks(stream(65))
    with pytest.raises(redis.ResponseError, match="expected 1 to 64 clicks, got 65"):
        valkey.fcall("clickledger_1_count", 1, "cl:state", 1, encoded)
    assert counters.state(valkey) == CounterState(1, 0, 0, 1)
    assert len(counter.count([]).seq) == 0


def test_counting_under_another_epoch_is_refused(valkey: redis.Redis, counter: FeatureCounter) -> None:
    counter.count(stream(5))
    opened = counters.open_epoch(valkey, 2, seq=100)
    assert (opened.counter_epoch, opened.seq) == (2, 100)
    kept = everything(valkey)
    with pytest.raises(LostCounters, match="expected counter epoch 2, got 1"):
        counter.count(stream(10))
    with pytest.raises(LostCounters, match="expected counter epoch 2 or later, got 1"):
        counters.open_epoch(valkey, 1)
    assert everything(valkey) == kept
    assert FeatureCounter(valkey, 2).count(stream(6)).seq.tolist() == [1, 2, 3, 4, 5, 101]


def test_opening_an_epoch_never_takes_back_seq_or_clock(valkey: redis.Redis) -> None:
    counters.open_epoch(valkey, 1, seq=50, clock_ms=NOW_MS)
    assert counters.open_epoch(valkey, 2, seq=10, clock_ms=10) == CounterState(2, 50, NOW_MS, 1)
    assert counters.open_epoch(valkey, 2, seq=60) == CounterState(2, 60, NOW_MS, 1)


def test_counting_without_an_open_epoch_is_refused(valkey: redis.Redis) -> None:
    assert counters.state(valkey) is None
    with pytest.raises(LostCounters, match="no epoch is open"):
        FeatureCounter(valkey, 1).count(stream(1))  # loads the library the server does not have


def test_counters_of_another_schema_are_refused(valkey: redis.Redis, counter: FeatureCounter) -> None:
    valkey.hset("cl:state", "schema", 99)
    with pytest.raises(Conflict, match=f"expected counters of feature schema {feature_spec.SCHEMA_VERSION}, got 99"):
        counter.count(stream(1))


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_may_evict_is_refused(valkey: redis.Redis, policy: str) -> None:
    valkey.config_set("maxmemory-policy", policy)
    with pytest.raises(Refused, match=f"noeviction, got {policy}"):
        FeatureCounter(valkey, 1).load()
    with pytest.raises(Refused, match=policy):
        counters.open_epoch(valkey, 1)


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        port, never = taken.getsockname()[1], Retry(NoBackoff(), 0)
        with redis.Redis(port=port, retry=never) as client, pytest.raises(Unavailable):
            FeatureCounter(client, 1).count(stream(1))


def test_every_record_expires(valkey: redis.Redis, counter: FeatureCounter) -> None:
    counter.count([click(1, int(valkey.time()[0] * 1000))])
    for record in valkey.keys("cl:[ui]:*"):
        assert 35 * HOUR < valkey.pttl(record) < 37 * HOUR


def test_records_that_expired_while_none_came_are_not_counted_on(
    valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(counters, "_RECORD_TTL_MS", counters._EXPIRY_STEP_MS + 2_000)
        patch.setattr(counters, "_RECORD_TTL_LAG_MS_MAX", 0)
        counters.open_epoch(valkey, 1)
        counter = FeatureCounter(valkey, 1)
        counter.count(stream(300))  # 100 minutes, days ago
        assert counter.count(stream(310)).seq[-1] == 310
        time.sleep(2.1)
        with pytest.raises(LostCounters, match="expected the records of counter epoch 1, got expired ones"):
            counter.count(stream(320))
        assert counters.state(valkey) is None
    counters.load_library(valkey)


def test_a_click_that_comes_in_time_needs_nothing_that_expired_before(
    valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(counters, "_RECORD_TTL_MS", counters._EXPIRY_STEP_MS + 2_000)
        patch.setattr(counters, "_RECORD_TTL_LAG_MS_MAX", 0)
        counters.open_epoch(valkey, 1)
        counter = FeatureCounter(valkey, 1)
        counter.count(stream(300))  # ended 58 hours ago, longer than any window
        time.sleep(2.1)
        now_ms = int(valkey.time()[0] * 1000)
        for n, hours in enumerate((20, 2, 0)):  # a queue that waited for a worker, then those of now
            assert counter.count([click(1000 + n, now_ms - hours * HOUR)]).seq.tolist() == [301 + n]
    counters.load_library(valkey)


def test_what_is_kept_of_expiries_is_bounded(valkey: redis.Redis, counter: FeatureCounter) -> None:
    counter.count(stream(9000, step_ms=60_000))  # 150 hours
    assert valkey.hlen("cl:state") == 9
    assert valkey.hstrlen("cl:state", "expiries") < 62 * 16


def test_restoring_the_window_after_total_loss_equals_an_undisturbed_run(valkey: redis.Redis) -> None:
    clicks = stream(9000)  # 50 hours
    counters.open_epoch(valkey, 1)
    undisturbed = FeatureCounter(valkey, 1).count(clicks)
    lost_at = 8000
    clock_ms = max(each.event_time_ms for each in clicks[:lost_at])
    first = next(i for i, each in enumerate(clicks) if each.event_time_ms > clock_ms - feature_spec.LONGEST_WINDOW_MS)

    valkey.flushall()
    counters.open_epoch(valkey, 2)
    counter = FeatureCounter(valkey, 2)
    restored = counter.restore(clicks[first:6000], undisturbed.seq[first:6000])
    assert restored.seq.tolist() == undisturbed.seq[first:6000].tolist()
    counter.restore(clicks[6000:lost_at], undisturbed.seq[6000:lost_at])
    counted = counter.count(clicks[lost_at:])
    assert counted.seq.tolist() == undisturbed.seq[lost_at:].tolist()
    assert (counted.features == undisturbed.features[lost_at:]).all()


def test_restoring_a_lost_tail_equals_an_undisturbed_run(valkey: redis.Redis) -> None:
    clicks = stream(2000)
    counters.open_epoch(valkey, 1)
    counter = FeatureCounter(valkey, 1)
    begun = counter.count(clicks[:500])
    saved = everything(valkey)
    rest = counter.count(clicks[500:])

    put_back(valkey, saved)
    kept = counters.state(valkey)
    assert kept is not None
    assert kept.seq == begun.seq[-1]
    counters.open_epoch(valkey, 2, seq=kept.seq)
    counter = FeatureCounter(valkey, 2)
    restored = counter.restore(clicks[500:1500], rest.seq[:1000])
    assert (restored.features == rest.features[:1000]).all()
    assert_equal(counter.count(clicks[1500:]), Counted(rest.seq[1000:], rest.features[1000:], rest.reason[1000:]))


def test_a_restored_click_that_is_delivered_again_is_not_counted_again(valkey: redis.Redis) -> None:
    clicks = stream(3000)
    counters.open_epoch(valkey, 1)
    first = FeatureCounter(valkey, 1).count(clicks)
    valkey.flushall()
    counters.open_epoch(valkey, 2)
    counter = FeatureCounter(valkey, 2)
    counter.restore(clicks, first.seq)
    counters.open_epoch(valkey, 2, seq=5000)
    again = counter.count(clicks)
    assert {int(seq) for seq in again.seq} <= {0, *first.seq.tolist()}
    assert again.seq[-1] == first.seq[-1]
    assert (again.features[-1] == first.features[-1]).all()
    assert valkey.hlen("cl:seen:0") + valkey.hlen("cl:seen:1") < 300, "ids of days of the log are not all kept"


def test_a_broken_off_restore_can_be_repeated(valkey: redis.Redis) -> None:
    clicks = stream(300)
    counters.open_epoch(valkey, 1)
    first = FeatureCounter(valkey, 1).count(clicks)
    valkey.flushall()
    counters.open_epoch(valkey, 2)
    counter = FeatureCounter(valkey, 2)
    counter.restore(clicks[:130], first.seq[:130])
    repeated = counter.restore(clicks, first.seq)
    assert repeated.reason == ["kept"] * 130 + [""] * 170
    assert (repeated.features[130:] == first.features[130:]).all()


def test_restoring_in_another_order_than_seq_is_refused(counter: FeatureCounter) -> None:
    with pytest.raises(InvalidInput, match="growing"):
        counter.restore(stream(3), [1, 3, 2])
    with pytest.raises(InvalidInput, match="3 clicks, got 2"):
        counter.restore(stream(3), [1, 2])
