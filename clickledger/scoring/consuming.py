"""The worker's side of the intake stream: take clicks, answer them, let them go.

Invariants:
- a message leaves the stream only after its click was answered or put aside with a reason, and it leaves its group and
  the stream at once: one that only left its group would be nobody's, and count as backlog for ever;
- what a dead worker had taken is taken over once it was silent for `claim_idle_ms`; a worker of the same name begins
  with what its predecessor had taken;
- a message that is no click never stops those behind it: it goes to `cl:rejected` with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import msgspec
import redis
from redis import exceptions

from clickledger.scoring import click as clicks_
from clickledger.scoring import stream
from clickledger.scoring.click import Click
from clickledger.scoring.intake_fields import BOUNDS, Bounds

REJECTED = "cl:rejected"
REJECTED_MAX = 100_000  # messages kept, about
REPLY_BATCHES_MAX = 10_000  # unread batches kept for a producer that went away
REPLY_TTL_SECONDS = 3600
CONSUMER_IDLE_MS_MAX = 3_600_000  # an idle name without messages is forgotten after this
_INT64_MAX = (1 << 63) - 1
_TEXTS = ("source", "external_id", "device", "device_kind", "advertiser_id", "campaign_id", "currency", "slice")
_WIDTHS = (("click_id", 16), ("user_key", 16), ("session_key", 16), ("ip_key", 16), ("intake_digest", 32))
_FLAGS = (-1, 0, 1)
_ENCODER = msgspec.msgpack.Encoder()


class Message(NamedTuple):
    """One click taken from the stream."""

    id: bytes
    click: Click
    reply_to: str
    key: str

    @property
    def entered_ms(self) -> int:
        """When it entered the stream, by the server's clock."""
        return int(self.id.split(b"-")[0])


class Consumer:
    """Takes messages under one consumer name."""

    def __init__(self, client: redis.Redis, name: str, *, claim_idle_ms: int = 15_000, bounds: Bounds = BOUNDS) -> None:
        self._client = client
        self._name = name
        self._claim_idle_ms = claim_idle_ms
        self._bounds = bounds
        self._own_after: bytes | None = b"0"  # None once all that was taken before is taken again
        self._claim_at = 0.0

    def join(self) -> None:
        """Make stream and group where they lack, and forget names that are long gone."""
        try:
            self._client.xgroup_create(stream.STREAM, stream.GROUP, id="0", mkstream=True)
        except exceptions.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        for consumer in cast(Any, self._client.xinfo_consumers(stream.STREAM, stream.GROUP)):
            if consumer["pending"] == 0 and consumer["idle"] > CONSUMER_IDLE_MS_MAX:
                self._client.xgroup_delconsumer(stream.STREAM, stream.GROUP, consumer["name"])

    def take(self, clicks_max: int, block_ms: int) -> list[Message]:
        """At most `clicks_max` messages: own ones taken before, then those of the dead, then new ones.

        Waits up to `block_ms` for new ones. Messages that are no clicks are put aside here.
        """
        if self._own_after is not None:
            found = self._read(self._own_after, clicks_max, None)
            self._own_after = found[-1][0] if found else None
            if found:
                return self._decoded(found)
        if time.monotonic() >= self._claim_at and (claimed := self._claim(clicks_max)):
            return self._decoded(claimed)
        return self._decoded(self._read(">", clicks_max, block_ms))

    def settle(self, messages: Sequence[Message], answers: Sequence[stream.Answer]) -> None:
        """Answer messages and let them go, all or nothing: after a crash before it they are answered again."""
        replies: dict[str, list[stream.Answer]] = {}
        for message, answer in zip(messages, answers, strict=True):
            if message.reply_to:
                replies.setdefault(message.reply_to, []).append(answer)
        with self._client.pipeline(transaction=True) as pipe:
            for name, batch in replies.items():
                _reply(pipe, name, batch)
            _let_go(pipe, [message.id for message in messages])
            pipe.execute()

    def reject(self, message: Message, reason: str) -> None:
        """Put a message aside whose click cannot be decided."""
        values = {"c": clicks_.ENCODER.encode(message.click), "r": message.reply_to, "k": message.key}
        self._put_aside(message.id, {name.encode(): value for name, value in values.items()}, reason)

    def _read(self, after: str | bytes, count: int, block_ms: int | None) -> list[tuple[bytes, dict[bytes, bytes]]]:
        found = self._client.xreadgroup(
            stream.GROUP, self._name, {stream.STREAM: after}, count=count, block=block_ms or None
        )
        return cast(Any, found)[0][1] if found else []

    def _claim(self, count: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Messages of consumers that were silent for too long, those of the oldest first."""
        reply = self._client.xautoclaim(stream.STREAM, stream.GROUP, self._name, self._claim_idle_ms, count=count)
        claimed = cast(Any, reply)[1]
        if not claimed:
            self._claim_at = time.monotonic() + self._claim_idle_ms / 2000
        return cast(list[tuple[bytes, dict[bytes, bytes]]], claimed)

    def _decoded(self, found: Sequence[tuple[bytes, dict[bytes, bytes] | None]]) -> list[Message]:
        messages = []
        for message_id, values in found:
            try:
                messages.append(_decode(message_id, values or {}, self._bounds))
            except ValueError as error:
                self._put_aside(message_id, values or {}, str(error))
        return messages

    def _put_aside(self, message_id: bytes, values: dict[bytes, Any], reason: str) -> None:
        with self._client.pipeline(transaction=True) as pipe:
            aside = {**values, b"reason": reason, b"id": message_id}
            pipe.xadd(REJECTED, cast(Any, aside), maxlen=REJECTED_MAX, approximate=True)
            if reply_to := _text(values, b"r"):
                _reply(
                    pipe, reply_to, [stream.Answer(_text(values, b"k"), b"", stream.REJECTED, "", reason, 0, 0, 0.0)]
                )
            _let_go(pipe, [message_id])
            pipe.execute()


def _reply(pipe: Any, name: str, answers: list[stream.Answer]) -> None:
    pipe.xadd(name, {"a": _ENCODER.encode(answers)}, maxlen=REPLY_BATCHES_MAX, approximate=True)
    pipe.expire(name, REPLY_TTL_SECONDS)


def _let_go(pipe: Any, ids: Sequence[bytes]) -> None:
    pipe.xack(stream.STREAM, stream.GROUP, *ids)
    pipe.xdel(stream.STREAM, *ids)


def _text(values: dict[bytes, Any], name: bytes) -> str:
    value = values.get(name, b"")
    return value if isinstance(value, str) else bytes(value).decode("utf-8", "replace")


def _decode(message_id: bytes, values: dict[bytes, bytes], bounds: Bounds) -> Message:
    """The message; raises ValueError saying what is wrong with it."""
    if b"c" not in values:
        raise ValueError("expected a field c, got " + ", ".join(sorted(_text({b"": n}, b"") for n in values)))
    try:
        click = clicks_.DECODER.decode(values[b"c"])
    except msgspec.MsgspecError as error:
        raise ValueError(f"c: expected a click, got {error}") from error
    message = Message(message_id, click, _text(values, b"r"), _text(values, b"k"))
    _check(click, message.entered_ms, bounds)
    return message


def _check(click: Click, entered_ms: int, bounds: Bounds) -> None:
    """What intake promises of a click. Whoever else writes to the stream must not make it wrong in the ledger."""
    for name, width in _WIDTHS:
        if len(value := getattr(click, name)) != width:
            raise ValueError(f"{name}: expected {width} bytes, got {len(value)}")
    if int.from_bytes(click.click_id[:6]) != click.event_time_ms or click.click_id[6] >> 4 != 7:
        raise ValueError(f"click_id: expected a UUIDv7 of time {click.event_time_ms}, got {click.click_id.hex()}")
    latest = entered_ms + bounds.future_tolerance_ms
    if not bounds.genesis_ms <= click.event_time_ms <= latest:
        raise ValueError(f"event_time_ms: expected {bounds.genesis_ms} to {latest}, got {click.event_time_ms}")
    if click.data_centre not in _FLAGS:
        raise ValueError(f"data_centre: expected one of {', '.join(map(str, _FLAGS))}, got {click.data_centre}")
    if not 0 <= click.cost_micros <= _INT64_MAX:
        raise ValueError(f"cost_micros: expected 0 to 2^63 - 1, got {click.cost_micros}")
    for name in _TEXTS:
        if "\0" in getattr(click, name):
            raise ValueError(f"{name}: expected text without NUL characters")
