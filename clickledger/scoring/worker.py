"""The scoring worker: takes clicks, counts, decides, appends, answers.

Invariants:
- there is one way back from every trouble with a server: drop what is in memory, connect anew, settle the counters and
  take the same messages again. Counting and appending are idempotent, so that an append whose outcome is not known is
  simply repeated.
- counters that hold the last hour only are rebuilt by a thread with connections of its own (`counter_warming`); where
  several workers try, one does it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence

import numpy as np
import redis

from clickledger import errors
from clickledger.ledger import database
from clickledger.ledger.rights import Role
from clickledger.scoring import counter_warming, heartbeat, stream
from clickledger.scoring.deciding import Decider
from clickledger.scoring.serving import Serving, WorkerConfig

__all__ = ["Worker", "WorkerConfig"]

logger = logging.getLogger(__name__)

LATENCIES_KEPT = 4096
RECENT_SECONDS = 5.0  # what replays give way by: a burst that is over holds nothing up
WARMING_PAUSE_SECONDS = 10.0


class Worker:
    """Runs until stopped. `run` is for one thread; `stop` may be called from anywhere, signal handlers included."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._decider = Decider(config.device)
        self._stopping = threading.Event()
        self._clicks = 0
        self._latencies_ms: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._slowest: deque[tuple[float, float]] = deque()  # (monotonic seconds, p99 of a batch in ms)
        self._warming: threading.Thread | None = None

    def stop(self) -> None:
        """Finish the batch in hand and what was taken meanwhile, then return from `run`."""
        self._stopping.set()

    def run(self) -> None:
        """Decide clicks until `stop`. Servers that do not answer are waited for.

        Raises what waiting does not mend: Refused (another ledger's counters, a server that evicts), InvariantBroken.
        """
        pause = 0.1
        while not self._stopping.is_set():
            try:
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
            database.connect(
                config.database_url, application_name=f"clickledger {config.name}", role=Role.SCORER
            ) as conn,
        ):
            serving = Serving(config, self._decider, client, conn)
            serving.begin()
            look_at = 0.0
            while not self._stopping.is_set():
                if time.monotonic() >= look_at:
                    serving.follow()
                    self._beat(serving)
                    if serving.partial:
                        self._warm()
                    look_at = time.monotonic() + config.follow_ms / 1000
                self._note(serving.serve_batch())
            self._note(serving.finish())
            heartbeat.end(client, config.name)

    def _warm(self) -> None:
        """See that the counters are being rebuilt; what ends an attempt leads to another one, after a pause."""
        if self._warming is None or not self._warming.is_alive():
            self._warming = threading.Thread(target=self._warm_once, name="warming", daemon=True)
            self._warming.start()

    def _warm_once(self) -> None:
        config = self._config
        name = f"clickledger {config.name} warming"
        try:
            with (
                stream.connect(config.redis_url) as client,
                database.connect(config.database_url, application_name=name, role=Role.SCORER) as conn,
            ):
                counter_warming.warm(conn, client, f"worker {config.name}", stopping=self._stopping.is_set)
        except (errors.ClickledgerError, redis.RedisError) as error:
            logger.warning("warming ended: %s: %s", type(error).__name__, error)
        self._stopping.wait(WARMING_PAUSE_SECONDS)

    def _note(self, latencies_ms: list[float]) -> None:
        self._clicks += len(latencies_ms)
        self._latencies_ms.extend(latencies_ms)
        if latencies_ms:
            self._slowest.append((time.monotonic(), _p99(latencies_ms)))

    def _recent_p99_ms(self) -> float | None:
        """The p99 of the batches of the last seconds: of 99 in 100 of them, the slowest click of 99 in 100."""
        while self._slowest and self._slowest[0][0] < time.monotonic() - RECENT_SECONDS:
            self._slowest.popleft()
        return round(_p99([p99 for _, p99 in self._slowest]), 3) if self._slowest else None

    def _beat(self, serving: Serving) -> None:
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
                latency_ms_p99_recent=self._recent_p99_ms(),
            ),
        )


def _p99(values: Sequence[float]) -> float:
    """The smallest that 99 in 100 do not exceed. For a handful numpy takes as long as deciding them does."""
    return sorted(values)[-(-99 * len(values) // 100) - 1]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
