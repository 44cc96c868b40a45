"""An audit that computes snapshots from the clicks of the log: what holds, what does not, and what it cannot know."""

from __future__ import annotations

import numpy as np
import pytest
import redis
from counting_ledger import Serving, hours_of_clicks, served
from psycopg.pq import TransactionStatus

from clickledger import errors
from clickledger.ledger import append, database
from clickledger.scoring import counted_clicks, counter_warming, feature_spec, recount
from clickledger.scoring.counters import Counted, FeatureCounter


@pytest.fixture
def serving(conn: database.Connection, redis_client: redis.Redis) -> Serving:
    return served(conn, redis_client, 400)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recount, "BLOCK_CLICKS", 30)


@pytest.mark.usefixtures("small_blocks")
def test_every_snapshot_is_recomputed_over_lost_and_rebuilt_counters(
    serving: Serving, conn: database.Connection, redis_client: redis.Redis
) -> None:
    redis_client.delete("cl:state")
    serving.settle()
    serving.serve(hours_of_clicks(400, 60))
    counter_warming.warm(conn, redis_client, "test", duty=1.0)
    serving.settle()
    serving.serve(hours_of_clicks(460, 60))
    found = recount.verify(conn)
    assert (found.recounted, found.exact, found.failures, found.notes) == (520, 520, [], [])
    told: list[tuple[int, int]] = []
    one_day = recount.verify(conn, recount.day_of("2025-06-16"), lambda done, total: told.append((done, total)))
    assert one_day.recounted == one_day.exact
    assert 280 <= one_day.exact <= 290  # a click every five minutes
    assert told[-1][0] == told[-1][1] > one_day.exact, "what its windows reach is read, too"


@pytest.mark.usefixtures("small_blocks")
def test_a_false_snapshot_is_named_with_its_click_and_feature(serving: Serving, conn: database.Connection) -> None:
    sent = hours_of_clicks(400, 5)
    counted = FeatureCounter(serving.client, 1).count(sent)
    features = counted.features.copy()
    features[2, feature_spec.INDEX["ip_users"]] += 3
    features[2, feature_spec.INDEX["user_ips"]] += 1
    batch = serving.decider.decide_batch(sent, Counted(counted.seq, features, counted.reason), 1)
    append.append(conn, batch, actor="test")
    found = recount.verify(conn)
    assert (found.recounted, found.exact, found.ok) == (405, 404, False)
    [line] = found.failures
    row = dict(zip(feature_spec.FEATURES, counted.features[2].tolist(), strict=True))
    assert (
        f"(seq {counted.seq[2]}): user_ips recorded {row['user_ips'] + 1}, got {row['user_ips']} from the log" in line
    )
    assert "1 more differ" in line


@pytest.mark.usefixtures("small_blocks")
def test_snapshots_that_count_a_click_the_log_does_not_hold_are_told_apart(
    serving: Serving, conn: database.Connection
) -> None:
    serving.serve(hours_of_clicks(400, 1), unlogged=True)
    serving.serve(hours_of_clicks(401, 20))
    found = recount.verify(conn)
    assert found.ok
    assert found.recounted == found.exact + found.unexplained == 420
    assert found.unexplained > 0
    assert "28 h" in found.notes[0]


def test_snapshots_of_another_schema_are_skipped_and_told(
    serving: Serving, conn: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = hours_of_clicks(400, 5)
    counted = FeatureCounter(serving.client, 1).count(sent)
    with monkeypatch.context() as patch:
        patch.setattr(feature_spec, "SCHEMA_VERSION", 7)
        append.append(conn, serving.decider.decide_batch(sent, counted, 1), actor="test")
    found = recount.verify(conn)
    assert (found.recounted, found.exact, found.skipped) == (400, 400, 5)
    assert np.all([part in found.notes[0] for part in ("5 snapshots", "another feature schema")])


def test_clicks_are_read_in_order_page_by_page_without_a_transaction_left_open(
    serving: Serving, conn: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends a connection that is idle within one, as counting again makes it."""
    monkeypatch.setattr(counted_clicks, "FETCH_ROWS", 7)
    seqs: list[int] = []
    for rows in counted_clicks.in_seq_order(conn):
        assert conn.info.transaction_status is TransactionStatus.IDLE
        seqs += [row.seq for row in rows]
    assert seqs == list(range(1, 401))
    for first in (1, 100, 399):
        later = counted_clicks.in_seq_order(conn, after=first)
        assert [row.seq for rows in later for row in rows] == seqs[first:]


def test_a_day_that_is_none_is_refused() -> None:
    with pytest.raises(errors.InvalidInput, match="'all' or a day as in 2026-11-29, got 'yesterday'"):
        recount.day_of("yesterday")
