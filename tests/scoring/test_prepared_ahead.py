"""A batch that a worker made ready while another was being appended keeps every promise, whatever comes in between."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import redis
from live_clicks import clicks, require_decided_once
from worker_processes import until

from clickledger.ledger import database, deployments, log
from clickledger.ledger.records import Batch
from clickledger.scoring import counter_epochs, counters, model, stream, velocity
from clickledger.scoring.click import Click
from clickledger.scoring.counters import Counted
from clickledger.scoring.deciding import Decider
from clickledger.scoring.serving import Serving, WorkerConfig

BATCH = 40


class NotingDecider(Decider):
    """Notes of each batch under which epoch it was decided."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[int] = []

    def decide_batch(self, sent: Sequence[Click], counted: Counted, counter_epoch: int) -> Batch:
        batch = super().decide_batch(sent, counted, counter_epoch)
        self.epochs.append(batch.deployment_epoch)
        return batch


class Stretch(NamedTuple):
    """A worker's stretch of work, and what it decides by."""

    serving: Serving
    decider: NotingDecider


Begin = Callable[..., Stretch]


@pytest.fixture
def begin(database_url: str, redis_url: str) -> Iterator[Begin]:
    """Begins a worker's stretch of work, on connections of its own."""
    opened: list[database.Connection | redis.Redis] = []

    def begin_one(name: str = "scoring-1", claim_idle_ms: int = 15_000) -> Stretch:
        conn = database.connect(database_url, application_name=f"clickledger {name}")
        client = stream.connect(redis_url)
        opened.extend((client, conn))
        config = WorkerConfig(
            name, database_url, redis_url, batch_clicks_max=BATCH, block_ms=1, claim_idle_ms=claim_idle_ms
        )
        stretch = Stretch(Serving(config, decider := NotingDecider(), client, conn), decider)
        stretch.serving.begin()
        return stretch

    yield begin_one
    for one in opened:
        one.close()


def register(conn: database.Connection, clicks_per_hour: int) -> tuple[int, dict[str, object]]:
    """A velocity rule; its version, and the routing that makes it live."""
    artefact = model.to_artefact(velocity.velocity_model(clicks_per_hour))
    version = deployments.register_model(conn, artefact, "velocity", {}, "test")
    calibration = deployments.set_calibration(conn, version, {"*": 0.0}, {}, "test")
    route = {"slice": "*", "share": 1.0, "model": version, "calibration": calibration}
    return version, {"routes": [route]}


@contextmanager
def one_appended_one_ahead(conn: database.Connection, client: redis.Redis, stretch: Stretch) -> Iterator[None]:
    """In the block the first batch waits to be appended and the next one is ready; afterwards the first is answered."""
    thread = threading.Thread(target=stretch.serving.serve_batch)
    with conn.transaction():
        conn.execute("SELECT take_log_lock()")
        thread.start()
        until(lambda: seq(client) == 2 * BATCH, "the second batch to be counted")
        until(lambda: len(stretch.decider.epochs) == 2, "the second batch to be decided")
        yield
    thread.join()


def seq(client: redis.Redis) -> int:
    state = counters.state(client)
    return state.seq if state else 0


def serve_all(serving: Serving, client: redis.Redis) -> None:
    def served() -> bool:
        serving.serve_batch()
        return stream.backlog(client) == 0

    until(served, "the stream to be empty")


def epochs(conn: database.Connection) -> list[tuple[int, int]]:
    """Deployment epochs of the decisions, with how many are of each."""
    return conn.execute("SELECT deployment_epoch, count(*) FROM decisions GROUP BY 1 ORDER BY 1").fetchall()


def test_batch_made_ready_before_a_rollback_is_decided_again_and_never_sent(
    conn: database.Connection, redis_client: redis.Redis, begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    (_, to_good), (bad, to_bad) = register(conn, 20), register(conn, 1)
    deployments.deploy(conn, to_bad, "test")
    stretch = begin()
    stream.put(redis_client, sent := clicks(0, 2 * BATCH))
    with caplog.at_level(logging.WARNING), one_appended_one_ahead(conn, redis_client, stretch):
        done = deployments.roll_back(conn, bad, to_good, "test")
    with caplog.at_level(logging.WARNING):
        stretch.serving.finish()
    assert stretch.decider.epochs == [1, 1, done.epoch, done.epoch]
    assert epochs(conn) == [(done.epoch, 2 * BATCH)]
    assert len([line for line in caplog.messages if "again" in line]) == 1, "the second is not even tried"
    require_decided_once(conn, sent)


def test_prepared_batch_that_a_later_rollback_refuses_is_decided_again(
    conn: database.Connection, redis_client: redis.Redis, begin: Begin
) -> None:
    (_, to_good), (bad, to_bad) = register(conn, 20), register(conn, 1)
    before = deployments.deploy(conn, to_bad, "test")
    stretch = begin()
    stream.put(redis_client, sent := clicks(0, 2 * BATCH))
    with one_appended_one_ahead(conn, redis_client, stretch):
        pass
    done = deployments.roll_back(conn, bad, to_good, "test")
    stretch.serving.finish()
    assert epochs(conn) == [(before, BATCH), (done.epoch, BATCH)]
    require_decided_once(conn, sent)


def test_prepared_batch_whose_counters_are_lost_is_counted_again(
    conn: database.Connection, redis_client: redis.Redis, begin: Begin
) -> None:
    stretch = begin()
    stream.put(redis_client, sent := clicks(0, 2 * BATCH))
    with one_appended_one_ahead(conn, redis_client, stretch):
        pass
    redis_client.flushall()
    counter_epochs.settle(conn, redis_client, "another worker")
    stretch.serving.finish()
    counted = conn.execute("SELECT counter_epoch, count(*) FROM clicks GROUP BY 1 ORDER BY 1").fetchall()
    assert counted == [(1, BATCH), (2, BATCH)]
    require_decided_once(conn, sent)


@pytest.mark.parametrize("successor", ["scoring-1", "scoring-2"])
def test_crash_between_prepare_and_append_loses_nothing_and_counts_nothing_twice(
    conn: database.Connection, redis_client: redis.Redis, begin: Begin, successor: str
) -> None:
    stretch = begin()
    stream.put(redis_client, sent := clicks(0, 3 * BATCH))
    with one_appended_one_ahead(conn, redis_client, stretch):
        pass
    assert conn.execute("SELECT count(*) FROM clicks").fetchone() == (BATCH,)
    serve_all(begin(successor, claim_idle_ms=0).serving, redis_client)  # the first one is never asked again
    require_decided_once(conn, sent)
    assert seq(redis_client) == len(sent)


def test_answers_come_in_the_order_of_the_clicks_and_each_batch_before_the_next_is_appended(
    conn: database.Connection, redis_client: redis.Redis, begin: Begin
) -> None:
    stretch = begin()
    keys = [str(number) for number in range(5 * BATCH)]
    stream.put(redis_client, clicks(0, len(keys)), "cl:replies:test", keys)
    replies = stream.Replies(redis_client, "cl:replies:test")
    answers = []
    for number in range(1, 6):
        stretch.serving.serve_batch()
        answers += replies.read(0)
        assert len(answers) == number * BATCH
        assert len(log.read(conn, kinds=["clicks_decided"])) == number
    assert [answer.key for answer in answers] == keys
    assert [answer.position for answer in answers] == sorted(answer.position for answer in answers)


def test_what_was_taken_ahead_is_answered_before_a_worker_rests(
    conn: database.Connection, redis_client: redis.Redis, begin: Begin
) -> None:
    stretch = begin()
    stream.put(redis_client, clicks(0, 3 * BATCH))
    with one_appended_one_ahead(conn, redis_client, stretch):
        pass
    assert len(stretch.serving.finish()) == BATCH
    assert stretch.serving.finish() == []
    assert stream.backlog(redis_client) == BATCH
    [pending] = redis_client.xinfo_groups(stream.STREAM)
    assert pending["pending"] == 0, "nothing more was taken"
