"""Send clicks through the stream and get every one answered: what imports, simulations and benchmarks do.

Invariants:
- each click yields exactly one answer, by its index; what a server lost on the way is sent again;
- the clicks on their way are bounded in number and, where several workers take them, in event time: batches that
  overtake each other must not make old clicks late.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import redis

from clickledger.errors import Unavailable
from clickledger.scoring import feature_spec, heartbeat, stream
from clickledger.scoring.click import Click
from clickledger.scoring.stream import Answer

BLOCK_MS = 200
LOOK_SECONDS = 1.0  # between looks for other workers, while there was one


@dataclass(frozen=True)
class ExchangeConfig:
    """How much may be on its way, and how long without any answer is too long."""

    in_flight_max: int = 4096
    span_ms_max: int = feature_spec.LATE_MS // 2  # of event time, where several workers take clicks
    resend_seconds: float = 5.0  # without an answer: look whether the stream still holds what was sent
    give_up_seconds: float = 60.0


DEFAULT_CONFIG = ExchangeConfig()


def decide_all(
    redis_url: str, clicks: Sequence[Click], config: ExchangeConfig = DEFAULT_CONFIG
) -> Iterator[tuple[int, Answer]]:
    """Yield (index, answer) for each click, in the order of the answers.

    Raises Unavailable when nothing was answered for `give_up_seconds`; sending all of it again is safe.
    """
    exchange = _Exchange(redis_url, clicks, config)
    try:
        while not exchange.is_done:
            yield from exchange.step()
    finally:
        exchange.close()


class _Exchange:
    def __init__(self, redis_url: str, clicks: Sequence[Click], config: ExchangeConfig) -> None:
        self._url = redis_url
        self._clicks = clicks
        self._config = config
        self._name = f"{stream.REPLIES_PREFIX}{secrets.token_hex(8)}"
        self._in_flight: dict[int, int] = {}  # index -> event time, in the order sent
        self._next = 0
        self._reconnected = False
        self._answered_at = self._checked_at = self._looked_at = time.monotonic()
        self._span_ms: int | None = None
        try:
            self._open()
        except redis.RedisError as error:
            raise Unavailable(f"the Redis server does not answer: {error}; nothing was sent") from error

    @property
    def is_done(self) -> bool:
        return self._next == len(self._clicks) and not self._in_flight

    def step(self) -> list[tuple[int, Answer]]:
        """Fill up what is on its way, then take answers; reconnects when the server went away."""
        try:
            self._look_for_others()
            if self._reconnected:  # what the server lost would come late behind newer clicks; twice is decided once
                self._put(list(self._in_flight))
                self._reconnected = False
            self._fill()
            answers = self._replies.read(BLOCK_MS)
            found = [(int(a.key), a) for a in answers if self._in_flight.pop(int(a.key), None) is not None]
            if found:
                self._answered_at = self._checked_at = time.monotonic()
            else:
                self._look_after_silence()
        except (redis.ConnectionError, redis.TimeoutError) as error:
            self._give_up_in_time(str(error))
            time.sleep(BLOCK_MS / 1000)
            with suppress(redis.ConnectionError, redis.TimeoutError):  # it connects at once; the next step tries again
                self._open()
            self._reconnected = True
            return []
        except redis.RedisError as error:  # out of memory or disk, a replica: it answers, and waiting does not help
            raise Unavailable(
                f"the Redis server refused the clicks: {error}; to send the same again is safe"
            ) from error
        return found

    def close(self) -> None:
        try:
            self._replies.close()
            self._client.close()
        except redis.RedisError:
            pass  # the stream expires by itself

    def _open(self) -> None:
        self._client = stream.connect(self._url)
        self._replies = stream.Replies(self._client, self._name)
        # Once bounded it stays so: a server that came back knows no heartbeats yet, and the workers are still several.
        self._span_ms = self._span_ms or self._allowed_span_ms()

    def _look_for_others(self) -> None:
        """A worker that joins while one had all clicks to itself would count newer ones before it."""
        if self._span_ms is None and time.monotonic() - self._looked_at > LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._span_ms = self._allowed_span_ms()

    def _allowed_span_ms(self) -> int | None:
        try:
            return self._config.span_ms_max if len(heartbeat.live(self._client)) > 1 else None
        except redis.RedisError:
            return self._config.span_ms_max

    def _fill(self) -> None:
        room = self._config.in_flight_max - len(self._in_flight)
        wanted = range(self._next, min(self._next + room, len(self._clicks)))
        oldest = next(iter(self._in_flight.values()), None)
        count = 0
        for i in wanted:
            time_ms = self._clicks[i].event_time_ms
            oldest = time_ms if oldest is None else oldest
            if self._span_ms is not None and time_ms - oldest > self._span_ms:
                break
            count += 1
        part = range(self._next, self._next + count)
        self._put(part)
        self._in_flight |= {i: self._clicks[i].event_time_ms for i in part}
        self._next += count

    def _put(self, indices: Sequence[int]) -> None:
        stream.put(self._client, [self._clicks[i] for i in indices], self._name, [str(i) for i in indices])

    def _look_after_silence(self) -> None:
        self._give_up_in_time("no worker answers")
        if time.monotonic() - self._checked_at < self._config.resend_seconds:
            return
        self._checked_at = time.monotonic()
        if stream.backlog(self._client) == 0:  # neither waiting nor being decided: lost with the server's memory
            self._put(list(islice(self._in_flight, len(self._in_flight))))

    def _give_up_in_time(self, why: str) -> None:
        if time.monotonic() - self._answered_at > self._config.give_up_seconds:
            waiting = len(self._in_flight) + len(self._clicks) - self._next
            raise Unavailable(f"{waiting} of {len(self._clicks)} clicks not answered: {why}; sending again is safe")
