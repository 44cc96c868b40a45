"""Counters lost with more than an hour behind them: counting goes on at once, cold, until all windows are rebuilt."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
import redis
from counting_ledger import Serving, hours_of_clicks, in_batches
from live_clicks import clicks
from worker_processes import until

from clickledger import errors
from clickledger.ledger import append, database, deployments, log
from clickledger.scoring import (
    counter_epochs,
    counter_warming,
    counters,
    exchange,
    feature_replay,
    feature_spec,
    warmth,
)
from clickledger.scoring.counted_clicks import CountedClick, in_seq_order
from clickledger.scoring.counters import FeatureCounter
from clickledger.scoring.worker import Worker, WorkerConfig


@pytest.fixture
def serving(conn: database.Connection, redis_client: redis.Redis) -> Serving:
    return Serving(conn, redis_client)


def expected_snapshots(conn: database.Connection, since_ms: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What the log has recorded, and what counters that held the clicks since then would have given; by seq."""
    rows = [row for part in in_seq_order(conn) for row in part]
    assert [row.seq for row in rows] == sorted(row.seq for row in rows)
    recorded = feature_spec.unpack_snapshots([row.features for row in rows])
    expected = np.zeros_like(recorded)
    for epoch in {row.counter_epoch for row in rows}:
        held = [i for i, row in enumerate(rows) if row.click.event_time_ms >= since_ms.get(epoch, 0)]
        own = [k for k, i in enumerate(held) if rows[i].counter_epoch == epoch]
        expected[[held[k] for k in own]] = feature_replay.recompute([rows[i].click for i in held])[own]
    return recorded, expected


def test_lost_counters_come_back_with_the_last_hour_first_and_snapshots_are_cold_until_all_is_rebuilt(
    serving: Serving, conn: database.Connection, redis_client: redis.Redis
) -> None:
    for batch in in_batches(hours_of_clicks(0, 500)):  # 41 hours
        serving.serve(batch)
    redis_client.flushall()
    redis_client.function_flush()
    serving.settle()
    assert serving.counting == (2, "cl:", True)
    serving.serve(hours_of_clicks(500, 40))

    assert counter_warming.warm(conn, redis_client, "test", duty=1.0)
    with pytest.raises(errors.LostCounters):
        serving.serve(hours_of_clicks(540, 40))
    serving.settle()
    assert serving.counting == (3, "cl:b:", False)
    serving.serve(hours_of_clicks(540, 60))

    found = warmth.read(conn)
    assert set(found.since_ms) == {2}
    recorded, expected = expected_snapshots(conn, dict(found.since_ms))
    assert (recorded == expected).all()
    whole, complete = expected_snapshots(conn, {})
    assert (whole != complete).any(), "a part of the windows must differ for this test to say anything"
    rows = [row for part in in_seq_order(conn) for row in part]
    epochs = np.array([row.counter_epoch for row in rows])
    cold = found.cold(epochs, np.array([row.click.event_time_ms for row in rows]))
    assert cold[epochs == 2].all()
    assert not cold[epochs == 3].any()
    assert cold[:300].all()  # nobody knows what was before the ledger's first click
    assert not cold[360:500].any()
    assert not (whole != complete)[~cold].any()


def test_a_restore_and_a_rebuilding_leave_their_evidence_in_the_log(
    serving: Serving, conn: database.Connection, redis_client: redis.Redis
) -> None:
    for batch in in_batches(hours_of_clicks(0, 200)):
        serving.serve(batch)
    redis_client.delete("cl:state")
    serving.settle()
    counter_warming.warm(conn, redis_client, "test", duty=1.0)
    restored, rebuilt = (entry.payload for entry in log.read(conn, kinds=["counters_restored"]))
    last_ms = counter_epochs.logged(conn).clock_ms
    quick_ms = last_ms - counter_epochs.QUICK_WINDOW_MS - feature_spec.LATE_MS
    assert restored == {
        "counter_epoch": 2, "kept": None, "kept_used": False, "since_ms": quick_ms, "feature_schema": 1
    }  # fmt: skip
    assert (rebuilt["counter_epoch"], rebuilt["since_ms"]) == (3, None)
    quick, whole = (entry.payload for entry in log.read(conn, kinds=["counters_recounted"]))
    assert (quick["counter_epoch"], quick["after_seq"], quick["up_to_seq"]) == (2, 0, 200)
    assert 10 <= quick["clicks"] <= 16
    assert (whole["counter_epoch"], whole["clicks"], whole["up_to_seq"], whole["clock_ms"]) == (3, 200, 200, last_ms)


def test_a_kept_part_of_cold_counters_stays_cold(
    serving: Serving, conn: database.Connection, redis_client: redis.Redis
) -> None:
    for batch in in_batches(hours_of_clicks(0, 400)):
        serving.serve(batch)
    redis_client.delete("cl:state")
    serving.settle()
    serving.serve(hours_of_clicks(400, 20))
    redis_client.set(counter_epochs.OWNER_KEY, redis_client.get(counter_epochs.OWNER_KEY).partition(b"/")[0])
    deployments.begin_counter_epoch(conn, {}, "test", "another restart, nothing lost")
    serving.settle()
    assert serving.counting == (4, "cl:", True)
    serving.serve(hours_of_clicks(420, 20))
    since_ms = dict(warmth.read(conn).since_ms)
    assert since_ms == {2: since_ms[2], 4: since_ms[2]}
    recorded, expected = expected_snapshots(conn, since_ms)
    assert (recorded == expected).all()


def test_counters_that_miss_a_click_appended_late_do_not_take_over(
    serving: Serving, conn: database.Connection, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in in_batches(hours_of_clicks(0, 200)):
        serving.serve(batch)
    redis_client.delete("cl:state")
    serving.settle()
    stuck = hours_of_clicks(200, 1)
    counted = FeatureCounter(redis_client, 2).count(stuck)
    for batch in in_batches(hours_of_clicks(201, 100)):
        serving.serve(batch)
    take_over = counter_warming._take_over

    def appended_at_last(*arguments: object) -> bool:
        append.append(conn, serving.decider.decide_batch(stuck, counted, 2), actor="test")
        return take_over(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(counter_warming, "_take_over", appended_at_last)
        assert not counter_warming.warm(conn, redis_client, "test", duty=1.0)
    serving.settle()
    assert serving.counting.partial, "what counts is still the first set"
    assert counter_warming.warm(conn, redis_client, "test", duty=1.0)
    serving.settle()
    assert not serving.counting.partial
    serving.serve(hours_of_clicks(301, 10))
    recorded, expected = expected_snapshots(conn, dict(warmth.read(conn).since_ms))
    assert (recorded == expected).all()


def test_counters_whose_records_expired_in_a_pause_are_made_again_from_the_log(
    serving: Serving, conn: database.Connection, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.serve(hours_of_clicks(0, 100))
    with monkeypatch.context() as patch:
        patch.setattr(counters, "_RECORD_TTL_MS", counters._EXPIRY_STEP_MS + 500)
        patch.setattr(counters, "_RECORD_TTL_LAG_MS_MAX", 0)
        counters.load_library(redis_client)
        serving.serve(hours_of_clicks(100, 40))
        time.sleep(0.6)
        for record in redis_client.keys("cl:[ui]:*"):
            redis_client.delete(record)
        with pytest.raises(errors.LostCounters):
            serving.serve(hours_of_clicks(140, 40))
    counters.load_library(redis_client)
    serving._at_once_max = 1_000
    serving.settle()
    assert serving.counting == (2, "cl:", False)
    serving.serve(hours_of_clicks(140, 40))
    recorded, expected = expected_snapshots(conn, {})
    assert (recorded == expected).all()


def test_of_two_who_rebuild_the_same_set_the_one_that_was_overtaken_gives_up(
    serving: Serving, conn: database.Connection, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in in_batches(hours_of_clicks(0, 400)):
        serving.serve(batch)
    redis_client.delete("cl:state")
    serving.settle()
    apply, overtaken = counter_warming._Building.apply, []

    def overtaken_once(building: counter_warming._Building, rows: Sequence[CountedClick]) -> None:
        if not overtaken:
            overtaken.append(rows[-1].seq)
            ahead = FeatureCounter(redis_client, building.epoch, building.prefix)
            ahead.restore([rows[-1].click], [rows[-1].seq])
        apply(building, rows)

    monkeypatch.setattr(counter_warming._Building, "apply", overtaken_once)
    with pytest.raises(errors.LostCounters, match="expected to be the only one who rebuilds cl:b:"):
        counter_warming.warm(conn, redis_client, "test", duty=1.0)
    assert serving.counting.partial
    assert counter_warming.warm(conn, redis_client, "test", duty=1.0)
    serving.settle()
    assert not serving.counting.partial


def test_counters_that_hold_all_are_not_rebuilt(
    serving: Serving, conn: database.Connection, redis_client: redis.Redis
) -> None:
    serving.serve(clicks(0, 100))
    head = log.head(conn)
    assert not counter_warming.warm(conn, redis_client, "test")
    assert log.head(conn) == head


def test_a_new_feature_schema_is_counted_again_from_the_log_and_the_old_release_is_told(
    serving: Serving, conn: database.Connection, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in in_batches(hours_of_clicks(0, 80)):
        serving.serve(batch)
    with monkeypatch.context() as patch:
        patch.setattr(feature_spec, "SCHEMA_VERSION", 2)
        newer = counter_epochs.settle(conn, redis_client, "test")
        assert newer == (2, "cl:b:", False)
        kept = counters.state(redis_client, "cl:b:")
        assert kept is not None
        assert (kept.schema, kept.seq, kept.counter_epoch) == (2, 80, 2)
        sent = hours_of_clicks(80, 10)
        counted = FeatureCounter(redis_client, 2, "cl:b:").count(sent)
        whole = feature_replay.recompute([*hours_of_clicks(0, 80), *sent])
        assert (counted.features == whole[80:]).all()
    serving.serve(hours_of_clicks(80, 10), unlogged=True)  # the old release still counts, in its own set
    with pytest.raises(errors.LostCounters):
        serving.serve(hours_of_clicks(80, 10))
    with pytest.raises(errors.Refused, match="counters of feature schema 2 are in force, expected 1 at most"):
        serving.settle()
    [entry] = log.read(conn, kinds=["counters_restored"])
    assert entry.reason == "counters of feature schema 1 counted again under 2"


def test_workers_rebuild_lost_counters_by_themselves(
    database_url: str, conn: database.Connection, redis_client: redis.Redis, redis_url: str
) -> None:
    worker = Worker(WorkerConfig("scoring-here", database_url, redis_url, block_ms=20, restore_at_once_max=50))
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        sent = hours_of_clicks(0, 300)
        quick = exchange.ExchangeConfig(resend_seconds=0.5)
        list(exchange.decide_all(redis_url, sent[:200], quick))
        redis_client.flushall()
        list(exchange.decide_all(redis_url, sent[200:], quick))
        until(lambda: deployments.current_counter_epoch(conn) == 3, "the windows to be rebuilt")
        list(exchange.decide_all(redis_url, hours_of_clicks(300, 50), quick))
    finally:
        worker.stop()
        thread.join()
    assert counter_epochs.live_prefix(redis_client) == "cl:b:"
    recorded, expected = expected_snapshots(conn, dict(warmth.read(conn).since_ms))
    assert len(recorded) == 350
    assert (recorded == expected).all()
