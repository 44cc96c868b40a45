"""One stretch of a worker's work, on one connection to each server: take, count, decide, append, answer.

Invariants:
- a click is answered, and leaves the stream, only after its decision was committed, or the log says that it is refused;
- what was revoked meanwhile is decided again, what was counted on lost counters is counted again; nothing is answered
  in between, and no batch names another counter epoch than the one it was counted under;
- one append is under way at a time. The next batch is taken and counted meanwhile: the two servers work side by side.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple
from uuid import UUID

import redis

from clickledger import errors
from clickledger.ledger import append, database
from clickledger.ledger.append import Appended
from clickledger.ledger.records import Batch
from clickledger.scoring import counter_epochs, shadow_scores
from clickledger.scoring.click import Click
from clickledger.scoring.consuming import Consumer, Message
from clickledger.scoring.counters import Counted, FeatureCounter
from clickledger.scoring.deciding import Decider
from clickledger.scoring.intake_fields import BOUNDS, Bounds
from clickledger.scoring.stream import Answer

logger = logging.getLogger(__name__)

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
    restore_at_once_max: int = counter_epochs.AT_ONCE_MAX  # clicks; lost counters of more come back in two steps
    device: str = "cpu"
    bounds: Bounds = BOUNDS


class _Counts(NamedTuple):
    """Counted clicks with the counter epoch they were counted under."""

    epoch: int
    counted: Counted


class _Attempt(NamedTuple):
    """A decided batch whose append is under way."""

    batch: Batch
    counts: _Counts
    future: Future[Appended]


class _UnderWay(NamedTuple):
    messages: list[Message]
    attempt: _Attempt


class Serving:
    """The work on one pair of connections; it is thrown away when either fails. For one thread."""

    def __init__(self, config: WorkerConfig, decider: Decider, client: redis.Redis, conn: database.Connection) -> None:
        self.client = client
        self.counter_epoch = 0
        self.partial = False  # whether the counters hold less than the log
        self._config = config
        self._actor = f"worker {config.name}"
        self._decider = decider
        self._conn = conn
        self._consumer = Consumer(client, config.name, claim_idle_ms=config.claim_idle_ms, bounds=config.bounds)
        self._counter = FeatureCounter(client, 0)
        self._appender = ThreadPoolExecutor(1, thread_name_prefix="append")
        self._under_way: _UnderWay | None = None

    def __enter__(self) -> Serving:
        """Settle the counters, read the deployment, join the group."""
        self._settle()
        self.follow()
        self._consumer.join()
        logger.info("serving as %s counter_epoch=%d epoch=%d", self._actor, self.counter_epoch, self._decider.epoch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._appender.shutdown(wait=True)  # the connection is not to be closed under an append

    def follow(self) -> None:
        """Take up a new deployment."""
        self._decider.follow(self._conn)

    def serve_batch(self) -> list[float]:
        """Take and count what waits, finish the batch before it, begin to append this one.

        Latencies in ms of the clicks that were finished.
        """
        block_ms = 0 if self._under_way else self._config.block_ms
        messages = self._consumer.take(self._config.batch_clicks_max, block_ms)
        if not messages:
            return self.finish()
        clicks = [message.click for message in messages]
        counts = self._counts_or_none(clicks)
        latencies = self.finish()
        try:
            self._under_way = _UnderWay(messages, self._attempt(clicks, counts))
        except (errors.LostCounters, errors.InvalidInput):
            latencies += self._conclude(messages, None)
        return latencies

    def finish(self) -> list[float]:
        """Wait for the append under way, if any, and answer its clicks; their latencies in ms."""
        if self._under_way is None:
            return []
        messages, attempt = self._under_way
        self._under_way = None
        return self._conclude(messages, attempt)

    def _conclude(self, messages: Sequence[Message], attempt: _Attempt | None) -> list[float]:
        try:
            attempt, appended = self._appended([message.click for message in messages], attempt)
        except errors.InvalidInput as error:
            return self._conclude_apart(messages, error)
        now_ms = time.time() * 1000
        latencies = [max(0.0, now_ms - message.entered_ms) for message in messages]
        self._consumer.settle(messages, _answers(messages, attempt.batch, appended, latencies))
        self._write_shadow(attempt, appended)
        return latencies

    def _conclude_apart(self, messages: Sequence[Message], error: Exception) -> list[float]:
        """Find the click that the ledger cannot take: halves, then quarters; it alone is put aside."""
        if len(messages) == 1:
            logger.error("click rejected id=%s: %s", messages[0].click.click_id.hex(), error)
            self._account_for(messages[0].click)
            self._consumer.reject(messages[0], str(error))
            return []
        half = len(messages) // 2
        return self._conclude(messages[:half], None) + self._conclude(messages[half:], None)

    def _account_for(self, click: Click) -> None:
        """Say in the log which number a rejected click was counted under, if it was: it will belong to no click."""
        try:
            seq = int(self._counter.count([click]).seq[0])  # a repeat: its first number
        except (errors.LostCounters, errors.InvalidInput):
            return  # counted in an epoch that has ended, within which nothing follows; or never
        if seq:
            append.reject(self._conn, UUID(bytes=click.click_id), seq, self.counter_epoch, actor=self._actor)

    def _appended(self, clicks: list[Click], attempt: _Attempt | None) -> tuple[_Attempt, Appended]:
        """The outcome of an attempt, or of as many more as it takes."""
        counts = None
        for _ in range(ATTEMPTS_MAX):
            try:
                attempt = attempt or self._attempt(clicks, counts)
                return attempt, attempt.future.result()
            except errors.RevokedDeployment as revoked:
                logger.warning("deciding %d clicks again: %s", len(clicks), revoked)
                counts = attempt.counts if attempt else None
                self.follow()
            except errors.LostCounters as lost:
                logger.warning("counting %d clicks again: %s", len(clicks), lost)
                counts = None
                self._settle()
            attempt = None
        raise errors.Unavailable(f"{len(clicks)} clicks were refused {ATTEMPTS_MAX} times; starting afresh")

    def _attempt(self, clicks: list[Click], counts: _Counts | None) -> _Attempt:
        """Decide clicks and begin to append them; counts them unless they were under the epoch in force."""
        if counts is None or counts.epoch != self.counter_epoch:
            counts = _Counts(self.counter_epoch, self._counter.count(clicks))
        batch = self._decider.decide_batch(clicks, counts.counted, counts.epoch)
        return _Attempt(batch, counts, self._appender.submit(append.append, self._conn, batch, actor=self._actor))

    def _counts_or_none(self, clicks: list[Click]) -> _Counts | None:
        """Count ahead; what hinders it is dealt with once the append under way is finished."""
        try:
            return _Counts(self.counter_epoch, self._counter.count(clicks))
        except (errors.LostCounters, errors.InvalidInput):
            return None

    def _settle(self) -> None:
        counting = counter_epochs.settle(self._conn, self.client, self._actor, self._config.restore_at_once_max)
        self.counter_epoch, self.partial = counting.epoch, counting.partial
        self._counter = FeatureCounter(self.client, counting.epoch, counting.prefix)

    def _write_shadow(self, attempt: _Attempt, appended: Appended) -> None:
        if appended.position is None:
            return
        new_rows = [i for i, outcome in enumerate(appended.outcome) if outcome == "new"]
        if shadows := self._decider.shadows(attempt.batch, attempt.counts.counted, new_rows):
            shadow_scores.write(self._conn, attempt.batch, appended.position, shadows)


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
