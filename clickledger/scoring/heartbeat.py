"""What each scoring worker says of itself, several times a second, while it is able to decide.

The key `cl:heartbeat:NAME` expires soon after its worker falls silent; the names are in the set `cl:workers`.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
import redis

KEY_PREFIX = "cl:heartbeat:"
NAMES = "cl:workers"
TTL_MS = 5_000


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one worker at `at_ms` (Unix time by its own clock)."""

    name: str
    pid: int
    at_ms: int
    deployment_epoch: int  # it decides under this one
    switched_at_ms: int  # since then
    counter_epoch: int
    clicks: int  # decided since it started
    latency_ms_p50: float | None = None  # stream to commit, of its last clicks; None before the first
    latency_ms_p99: float | None = None
    latency_ms_p99_recent: float | None = None  # of the last seconds only; None when no click came in them


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Heartbeat)


def beat(client: redis.Redis, state: Heartbeat) -> None:
    """Say that a worker lives, for the next `TTL_MS`."""
    with client.pipeline(transaction=False) as pipe:
        pipe.set(KEY_PREFIX + state.name, _ENCODER.encode(state), px=TTL_MS)
        pipe.sadd(NAMES, state.name)
        pipe.execute()


def end(client: redis.Redis, name: str) -> None:
    """Say that a worker has ended."""
    client.delete(KEY_PREFIX + name)
    client.srem(NAMES, name)


def live(client: redis.Redis) -> list[Heartbeat]:
    """The workers that are able to decide now, by name. `client` must answer bytes."""
    names = sorted(name.decode() for name in cast(set[bytes], client.smembers(NAMES)))
    if not names:
        return []
    values = cast(list[Any], client.mget([KEY_PREFIX + name for name in names]))
    if gone := [name for name, value in zip(names, values, strict=True) if value is None]:
        client.srem(NAMES, *gone)  # whoever was only slow is in it again with its next beat
    return [_DECODER.decode(value) for value in values if value is not None]
