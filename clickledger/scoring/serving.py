"""One stretch of a worker's work, on one connection to each server: take, count, decide, append, answer.

Invariants:
- a click is answered, and leaves the stream, only after its decision was committed, or the log says that it is refused;
- what was revoked meanwhile is decided again, what was counted on lost counters is counted again; nothing is answered
  in between, and no batch names another counter epoch than the one it was counted under;
- one append is under way at a time. Meanwhile, where its one call would wait for the server, the next batch is taken,
  counted, decided and encoded in small steps, each of which first looks whether the append has its answer. That batch
  names the epochs it was made under, and is decided or counted again if others are in force once its turn comes;
- a batch that was taken ahead is appended before the worker rests or stops: what was counted is logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import redis

from clickledger import errors
from clickledger.ledger import append, database
from clickledger.ledger.append import Appended, Prepared
from clickledger.ledger.preparation import Preparation
from clickledger.ledger.records import Batch
from clickledger.scoring import counter_epochs, shadow_scores
from clickledger.scoring.click import Click
from clickledger.scoring.consuming import Consumer, Message
from clickledger.scoring.counters import Counted, FeatureCounter
from clickledger.scoring.deciding import Decider
from clickledger.scoring.intake_fields import BOUNDS, Bounds
from clickledger.scoring.stream import Answer

logger = logging.getLogger(__name__)

TWICE_MAX = 10_000  # clicks of which it is remembered that their second number is in the log
ATTEMPTS_MAX = 20  # decisions of one batch that was refused again and again


@dataclass(frozen=True)
class WorkerConfig:
    """One worker: its name is unique among those that run at the same time.

    Where it is the same after a restart, what the one before had taken is taken up at once.
    """

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


class _Ahead(NamedTuple):
    """Messages taken; as far as nothing hindered it they are counted, and decided and encoded."""

    messages: list[Message]
    counts: _Counts | None
    prepared: Prepared | None


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
        self._ahead: Preparation[_Ahead] | None = None
        self._told_twice: dict[bytes, int] = {}

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
        """Append and answer what was made ready, or waits, and make the next batch ready meanwhile.

        Latencies in ms of the clicks that were answered.
        """
        this, self._ahead = self._ahead, Preparation(self._prepare(0))
        return self._serve(this or Preparation(self._prepare(self._config.block_ms)))

    def finish(self) -> list[float]:
        """Append and answer what was made ready, and take nothing more; latencies in ms of its clicks."""
        this, self._ahead = self._ahead, None
        return self._serve(this) if this and this.begun else []

    def _serve(self, this: Preparation[_Ahead]) -> list[float]:
        messages, counts, prepared = this.finish()
        if not messages:
            self._ahead = None  # it waits for clicks the next time
            return []
        return self._conclude(messages, counts, prepared)

    def _prepare(self, block_ms: int) -> Generator[None, None, _Ahead]:
        """Take what waits and make it ready; what hinders counting or deciding is dealt with at its turn."""
        messages = self._consumer.take(self._config.batch_clicks_max, block_ms)
        clicks, counts = [message.click for message in messages], None
        if not messages:
            return _Ahead([], None, None)
        yield
        try:
            counts = self._count(clicks)
            yield
            batch = self._decider.decide_batch(clicks, counts.counted, counts.epoch)
            yield
            prepared = yield from append.prepare(batch)
        except (errors.LostCounters, errors.InvalidInput):
            return _Ahead(messages, counts, None)
        return _Ahead(messages, counts, prepared)

    def _conclude(
        self, messages: Sequence[Message], counts: _Counts | None = None, prepared: Prepared | None = None
    ) -> list[float]:
        clicks = [message.click for message in messages]
        try:
            counts, batch, appended = self._appended(clicks, counts, prepared)
        except errors.InvalidInput as error:
            return self._conclude_apart(messages, error)
        self._account_for_twice_counted(batch, counts.epoch, appended)
        now_ms = time.time() * 1000
        latencies = [max(0.0, now_ms - message.entered_ms) for message in messages]
        self._consumer.settle(messages, _answers(messages, batch, appended, latencies))
        self._write_shadow(batch, counts.counted, appended)
        return latencies

    def _conclude_apart(self, messages: Sequence[Message], error: Exception) -> list[float]:
        """Find the click that the ledger cannot take: halves, then quarters; it alone is put aside."""
        if len(messages) == 1:
            logger.error("click rejected id=%s: %s", messages[0].click.click_id.hex(), error)
            self._account_for(messages[0].click)
            self._consumer.reject(messages[0], str(error))
            return []
        half = len(messages) // 2
        return self._conclude(messages[:half]) + self._conclude(messages[half:])

    def _account_for(self, click: Click) -> None:
        """Say in the log which number a rejected click was counted under, if it was: it will belong to no click."""
        try:
            seq = int(self._counter.count([click]).seq[0])  # a repeat: its first number
        except (errors.LostCounters, errors.InvalidInput):
            return  # counted in an epoch that has ended, within which nothing follows; or never
        if seq:
            append.reject(self._conn, [(click.click_id, seq)], self.counter_epoch, actor=self._actor)

    def _account_for_twice_counted(self, batch: Batch, epoch: int, appended: Appended) -> None:
        """Say in the log which numbers known clicks were counted under a second time.

        A refused one (`future`) is forgotten before its time has come, and another version of a click may be counted
        by the successor of a worker that had counted the first.
        """
        again = {
            batch.click_id[i]: int(batch.seq[i])
            for i, first in appended.first.items()
            if batch.seq[i] and batch.seq[i] not in {first.seq, self._told_twice.get(batch.click_id[i])}
        }
        if again:
            if len(self._told_twice) > TWICE_MAX:
                self._told_twice.clear()
            self._told_twice |= again
            logger.warning("%d known clicks were counted again", len(again))
            append.reject(self._conn, list(again.items()), epoch, actor=self._actor)

    def _appended(
        self, clicks: list[Click], counts: _Counts | None, prepared: Prepared | None
    ) -> tuple[_Counts, Batch, Appended]:
        """The outcome of what was prepared, or of as many more attempts as it takes."""
        for _ in range(ATTEMPTS_MAX):
            try:
                if counts is None or counts.epoch != self.counter_epoch:
                    counts, prepared = self._count(clicks), None
                if prepared is None or prepared.batch.deployment_epoch != self._decider.epoch:
                    batch = self._decider.decide_batch(clicks, counts.counted, counts.epoch)
                    prepared = Preparation(append.prepare(batch)).finish()
                return counts, prepared.batch, self._append(prepared)
            except errors.RevokedDeployment as revoked:
                logger.warning("deciding %d clicks again: %s", len(clicks), revoked)
                self.follow()
            except errors.LostCounters as lost:
                logger.warning("counting %d clicks again: %s", len(clicks), lost)
                counts = None
                self._settle()
            prepared = None
        raise errors.Unavailable(f"{len(clicks)} clicks were refused {ATTEMPTS_MAX} times; starting afresh")

    def _append(self, prepared: Prepared) -> Appended:
        step = self._ahead.step if self._ahead else None
        return append.append_prepared(self._conn, prepared, actor=self._actor, meanwhile=step)

    def _count(self, clicks: list[Click]) -> _Counts:
        return _Counts(self.counter_epoch, self._counter.count(clicks))

    def _settle(self) -> None:
        counting = counter_epochs.settle(self._conn, self.client, self._actor, self._config.restore_at_once_max)
        self.counter_epoch, self.partial = counting.epoch, counting.partial
        self._counter = FeatureCounter(self.client, counting.epoch, counting.prefix)

    def _write_shadow(self, batch: Batch, counted: Counted, appended: Appended) -> None:
        if appended.position is None:
            return
        new_rows = [i for i, outcome in enumerate(appended.outcome) if outcome == "new"]
        if shadows := self._decider.shadows(batch, counted, new_rows):
            shadow_scores.write(self._conn, batch, appended.position, shadows)


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
