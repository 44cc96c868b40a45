"""Giving way to live traffic: replay workers pause between chunks while live decisions are slow.

What is measured is what scoring workers say of themselves: the p99 of their last seconds, in their heartbeats. Where
nobody says anything, because no click came or Valkey does not answer, nothing is held up.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

import redis

from clickledger.scoring import heartbeat, stream

logger = logging.getLogger(__name__)

PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.1, 3.0
NEVER = 0.0  # as a limit: no throttle


@dataclass
class Throttle:
    """Pauses of one worker, longer while live p99 is above `limit_ms`, shorter once it is not. For one thread."""

    redis_url: str | None = field(repr=False)
    limit_ms: float
    pause_seconds: float = 0.0
    paused_seconds: float = 0.0  # in all

    def give_way(self, until: float) -> None:
        """Pause as long as live traffic wants it now, not beyond `until` (monotonic seconds)."""
        if self.limit_ms == NEVER or self.redis_url is None:
            return
        slowest = live_p99_ms(self.redis_url)
        before, self.pause_seconds = self.pause_seconds, next_pause(self.pause_seconds, slowest, self.limit_ms)
        if not before and self.pause_seconds:
            logger.info("live p99 is %.1f ms, above %.1f: giving way", slowest, self.limit_ms)
        seconds = max(0.0, min(self.pause_seconds, until - time.monotonic()))
        self.paused_seconds += seconds
        time.sleep(seconds)


def next_pause(pause_seconds: float, p99_ms: float | None, limit_ms: float) -> float:
    """The next pause after one of so many seconds: twice as long above the limit, half as long otherwise, then none."""
    if p99_ms is not None and p99_ms > limit_ms:
        return min(max(2 * pause_seconds, PAUSE_SECONDS_MIN), PAUSE_SECONDS_MAX)
    half = pause_seconds / 2
    return half if half >= PAUSE_SECONDS_MIN else 0.0


def live_p99_ms(redis_url: str) -> float | None:
    """The slowest worker's p99 of its last seconds; None where nobody tells."""
    try:
        with stream.connect(redis_url) as client:
            found = [beat.latency_ms_p99_recent for beat in heartbeat.live(client)]
    except redis.RedisError as error:
        logger.warning("live latency is not known, nothing gives way: %s", error)
        return None
    return max((p99 for p99 in found if p99 is not None), default=None)
