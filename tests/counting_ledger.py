"""A ledger that is counted into, one call at a time, by clicks that take days: for tests of counters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import redis
from live_clicks import click

from clickledger.ledger import append, database
from clickledger.scoring import counter_epochs, feature_spec
from clickledger.scoring.click import Click
from clickledger.scoring.counters import FeatureCounter
from clickledger.scoring.deciding import Decider

HOUR = feature_spec.HOUR_MS
START_MS = 1_750_000_000_000
STEP_MS = 5 * feature_spec.MINUTE_MS


class Serving:
    """Counts, decides and appends as a worker does, one call at a time."""

    def __init__(self, conn: database.Connection, client: redis.Redis, at_once_max: int = 100) -> None:
        self.conn, self.client, self._at_once_max = conn, client, at_once_max
        self.decider = Decider()
        self.decider.follow(conn)
        self.settle()

    def settle(self) -> None:
        self.counting = counter_epochs.settle(self.conn, self.client, "test", self._at_once_max)

    def serve(self, sent: list[Click], *, unlogged: bool = False) -> None:
        counter = FeatureCounter(self.client, self.counting.epoch, self.counting.prefix)
        counted = counter.count(sent)
        if not unlogged:
            batch = self.decider.decide_batch(sent, counted, self.counting.epoch)
            append.append(self.conn, batch, actor="test")


def served(conn: database.Connection, client: redis.Redis, count: int) -> Serving:
    """A worker that has decided the first `count` of `hours_of_clicks`."""
    serving = Serving(conn, client)
    for batch in in_batches(hours_of_clicks(0, count)):
        serving.serve(batch)
    return serving


def hours_of_clicks(first: int, count: int) -> list[Click]:
    """One every five minutes, out of order by up to 100 s."""
    late = np.random.default_rng(first).integers(0, 100_000, count).tolist()
    return [click(first + i, time_ms=START_MS + (first + i) * STEP_MS - late[i]) for i in range(count)]


def in_batches(sent: list[Click], size: int = 50) -> Iterator[list[Click]]:
    return (sent[start : start + size] for start in range(0, len(sent), size))
