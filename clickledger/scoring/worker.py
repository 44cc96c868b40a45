"""The scoring worker: takes clicks, counts, decides, appends, answers.

Invariants:
- a click is answered, and leaves the stream, only after its decision was committed;
- there is one way back from every trouble with a server: drop what is in memory, connect anew, settle the counters and
  take the same messages again. Counting and appending are idempotent, so that an append whose outcome is not known is
  simply repeated;
- what was revoked meanwhile is decided again, what was counted on lost counters is counted again; nothing is answered
  in between.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import psycopg
import redis

from clickledger import errors
from clickledger.ledger import append, database
from clickledger.ledger.append import Appended
from clickledger.ledger.records import Batch
from clickledger.scoring import counter_epochs, heartbeat, shadow_scores, stream
from clickledger.scoring.click import Click
from clickledger.scoring.consuming import Consumer, Message
from clickledger.scoring.counters import Counted, FeatureCounter
from clickledger.scoring.deciding import Decider
from clickledger.scoring.intake_fields import BOUNDS, Bounds
from clickledger.scoring.stream import Answer

logger = logging.getLogger(__name__)

LATENCIES_KEPT = 4096
ATTEMPTS_MAX = 20  # decisions of one batch that was refused again and again


@dataclass(frozen=True)
class WorkerConfig:
    """One worker: its name is unique among those that run at the same time, and the same after a restart."""

    name: str
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    batch_clicks_max: int = 256
    block_ms: int = 100  # how long it waits for a click before it looks around
    follow_ms: int = 250  # how often it reads the deployment in force; fencing holds in between
    claim_idle_ms: int = 15_000  # messages of a worker silent for so long are taken over
    retry_seconds_max: float = 5.0
    device: str = "cpu"
    bounds: Bounds = BOUNDS


class Worker:
    """Runs until stopped. `run` is for one thread; `stop` may be called from anywhere, signal handlers included."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._decider = Decider(config.device)
        self._stopping = threading.Event()
        self._clicks = 0
        self._latencies_ms: deque[float] = deque(maxlen=LATENCIES_KEPT)

    def stop(self) -> None:
        """Finish the batch in hand, then return from `run`."""
        self._stopping.set()

    def run(self) -> None:
        """Decide clicks until `stop`. Servers that do not answer are waited for.

        Raises what waiting does not mend: Refused (another ledger's counters, a server that evicts), InvariantBroken.
        """
        pause = 0.1
        while not self._stopping.is_set():
            try:
                with database.translated():
                    self._serve()
            except (errors.Unavailable, errors.LostCounters, redis.RedisError) as error:
                logger.warning("interrupted, again in %.1f s: %s: %s", pause, type(error).__name__, error)
                self._stopping.wait(pause)
                pause = min(pause * 2, self._config.retry_seconds_max)
            else:
                pause = 0.1

    def _serve(self) -> None:
        """One stretch of work on one pair of connections, until stopped or something fails."""
        config = self._config
        with (
            stream.connect(config.redis_url) as client,
            database.connect(config.database_url, application_name=f"clickledger {config.name}") as conn,
        ):
            serving = _Serving(config, self._decider, client, conn)
            serving.begin()
            look_at = 0.0
            while not self._stopping.is_set():
                if time.monotonic() >= look_at:
                    serving.follow()
                    self._beat(serving)
                    look_at = time.monotonic() + config.follow_ms / 1000
                latencies = serving.serve_batch()
                self._clicks += len(latencies)
                self._latencies_ms.extend(latencies)
            heartbeat.end(client, config.name)

    def _beat(self, serving: _Serving) -> None:
        quantiles = np.quantile(self._latencies_ms, (0.5, 0.99)) if self._latencies_ms else (None, None)
        p50, p99 = (None if value is None else round(float(value), 3) for value in quantiles)
        heartbeat.beat(
            serving.client,
            heartbeat.Heartbeat(
                name=self._config.name,
                pid=os.getpid(),
                at_ms=_now_ms(),
                deployment_epoch=self._decider.epoch,
                switched_at_ms=self._decider.switched_at_ms,
                counter_epoch=serving.counter_epoch,
                clicks=self._clicks,
                latency_ms_p50=p50,
                latency_ms_p99=p99,
            ),
        )


class _Serving:
    """The work on one pair of connections; it is thrown away when either fails."""

    def __init__(self, config: WorkerConfig, decider: Decider, client: redis.Redis, conn: database.Connection) -> None:
        self.client = client
        self.counter_epoch = 0
        self._config = config
        self._actor = f"worker {config.name}"
        self._decider = decider
        self._conn = conn
        self._consumer = Consumer(client, config.name, claim_idle_ms=config.claim_idle_ms, bounds=config.bounds)
        self._counter = FeatureCounter(client, 0)

    def begin(self) -> None:
        """Settle the counters, read the deployment, join the group."""
        self._settle()
        self.follow()
        self._consumer.join()
        logger.info("serving as %s counter_epoch=%d epoch=%d", self._actor, self.counter_epoch, self._decider.epoch)

    def follow(self) -> None:
        """Take up a new deployment."""
        self._decider.follow(self._conn)

    def serve_batch(self) -> list[float]:
        """Take what waits, decide and answer it; latencies in ms of the clicks that were decided."""
        messages = self._consumer.take(self._config.batch_clicks_max, self._config.block_ms)
        return self._serve_messages(messages) if messages else []

    def _serve_messages(self, messages: Sequence[Message]) -> list[float]:
        try:
            batch, counted, appended = self._append([message.click for message in messages])
        except (errors.InvalidInput, psycopg.DataError) as error:
            return self._serve_apart(messages, error)
        now_ms = time.time() * 1000
        latencies = [max(0.0, now_ms - message.entered_ms) for message in messages]
        self._consumer.settle(messages, _answers(messages, batch, appended, latencies))
        self._write_shadow(batch, counted, appended)
        return latencies

    def _serve_apart(self, messages: Sequence[Message], error: Exception) -> list[float]:
        """Find the click that the ledger cannot take: halves, then quarters; it alone is put aside."""
        if len(messages) == 1:
            logger.error("click rejected id=%s: %s", messages[0].click.click_id.hex(), error)
            self._consumer.reject(messages[0], str(error))
            return []
        half = len(messages) // 2
        return self._serve_messages(messages[:half]) + self._serve_messages(messages[half:])

    def _append(self, clicks: list[Click]) -> tuple[Batch, Counted, Appended]:
        counted: Counted | None = None
        for _ in range(ATTEMPTS_MAX):
            try:
                counted = counted or self._counter.count(clicks)
                batch = self._decider.decide_batch(clicks, counted, self.counter_epoch)
                return batch, counted, append.append(self._conn, batch, actor=self._actor)
            except errors.RevokedDeployment as revoked:
                logger.warning("deciding %d clicks again: %s", len(clicks), revoked)
                self.follow()
            except errors.LostCounters as lost:
                logger.warning("counting %d clicks again: %s", len(clicks), lost)
                self._settle()
                counted = None
        raise errors.Unavailable(f"{len(clicks)} clicks were refused {ATTEMPTS_MAX} times; starting afresh")

    def _settle(self) -> None:
        self.counter_epoch = counter_epochs.settle(self._conn, self.client, self._actor)
        self._counter = FeatureCounter(self.client, self.counter_epoch)

    def _write_shadow(self, batch: Batch, counted: Counted, appended: Appended) -> None:
        if appended.position is None:
            return
        new_rows = [i for i, outcome in enumerate(appended.outcome) if outcome == "new"]
        if shadow := self._decider.shadow(batch, counted, new_rows):
            shadow_scores.write(self._conn, batch, appended.position, shadow)


def _answers(messages: Sequence[Message], batch: Batch, appended: Appended, latencies: Sequence[float]) -> list[Answer]:
    answers = []
    for i, message in enumerate(messages):
        first = appended.first.get(i)
        if first is None:
            decision = (batch.verdict[i], batch.reason[i], appended.position or 0, batch.deployment_epoch)
        else:
            decision = (first.verdict, first.reason, first.log_position, first.deployment_epoch)
        answers.append(
            Answer(message.key, message.click.click_id, appended.outcome[i], *decision, round(latencies[i], 3))
        )
    return answers


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
