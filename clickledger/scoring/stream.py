"""The intake stream: what producers put in, what they are answered, and how many clicks may wait in it.

A message of `cl:clicks` has the fields

    c   the `Click` as msgpack
    r   the stream its answer goes to, empty for none
    k   what the producer calls it, given back in its answer; may be missing

A message of a reply stream has one field `a`: the answers of one batch as msgpack, a list of `Answer`.

Invariants:
- a click is answered only after its decision was committed;
- delivery is at least once in both directions: a click sent twice is decided once, and an answer may come twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from clickledger.errors import Unavailable
from clickledger.scoring import click as clicks_
from clickledger.scoring.click import Click

STREAM = "cl:clicks"
GROUP = "scoring"
REPLIES_PREFIX = "cl:replies:"
REJECTED = "rejected"  # the outcome of a click that the ledger does not take
BACKLOG_MAX = 20_000  # clicks; a minute of work for the slowest worker, 10 MB
SEND_CLICKS = 500  # in one pipeline
FULL_PAUSE_SECONDS = 0.01
SOCKET_SECONDS = 30.0


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What became of one message.

    `outcome` is 'new', 'repeat' or 'conflict' with the first decision of the click, or REJECTED with the reason and
    no decision. `latency_ms` is from the message's entry into the stream until its decision was committed.
    """

    key: str
    click_id: bytes  # 16 bytes; empty when rejected
    outcome: str
    verdict: str
    reason: str
    position: int  # of the decision's log entry; 0 when rejected
    deployment_epoch: int
    latency_ms: float


_ANSWERS = msgspec.msgpack.Decoder(list[Answer])


def connect(url: str) -> redis.Redis:
    """A client on one connection that answers bytes and never repeats a command or reconnects unnoticed.

    A server that restarted may have lost what it was told last: whoever loses a connection has to find out.
    """
    return redis.Redis.from_url(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        single_connection_client=True,
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=10,
    )


def fields(click: Click, reply_to: str = "", key: str = "") -> dict[Any, Any]:
    """The message that carries a click."""
    return {"c": clicks_.ENCODER.encode(click), "r": reply_to, "k": key}


def put(client: redis.Redis, clicks: Sequence[Click], reply_to: str = "", keys: Sequence[str] = ()) -> None:
    """Add clicks in their order, `keys` (one for each, or none) beside them; does not look at the backlog."""
    for start in range(0, len(clicks), SEND_CLICKS):
        with client.pipeline(transaction=False) as pipe:
            for i, click in enumerate(clicks[start : start + SEND_CLICKS], start):
                pipe.xadd(STREAM, fields(click, reply_to, keys[i] if keys else ""))
            pipe.execute()


def submit(
    client: redis.Redis,
    clicks: Sequence[Click],
    reply_to: str = "",
    keys: Sequence[str] = (),
    *,
    backlog_max: int = BACKLOG_MAX,
    wait_seconds: float = 60.0,
) -> None:
    """Add clicks in their order, waiting while `backlog_max` or more are in the stream.

    Raises Unavailable when the backlog has not fallen for `wait_seconds`: no worker takes clicks. What was added by
    then stays; sending all of it again is safe.
    """
    for start in range(0, len(clicks), SEND_CLICKS):
        part = slice(start, start + SEND_CLICKS)
        _await_room(client, backlog_max, wait_seconds)
        put(client, clicks[part], reply_to, keys[part])


def _await_room(client: redis.Redis, backlog_max: int, wait_seconds: float) -> None:
    least, fell_at = backlog(client), time.monotonic()
    while (waiting := backlog(client)) >= backlog_max:
        if waiting < least:
            least, fell_at = waiting, time.monotonic()
        if time.monotonic() - fell_at > wait_seconds:
            raise Unavailable(f"no worker takes clicks: {waiting} wait, none left for {wait_seconds:g} s")
        time.sleep(FULL_PAUSE_SECONDS)


def backlog(client: redis.Redis) -> int:
    """How many clicks are in the stream: waiting, or being decided."""
    return int(client.xlen(STREAM))


def decode_answers(message: dict[bytes, bytes]) -> list[Answer]:
    """The answers in one message of a reply stream."""
    return _ANSWERS.decode(message[b"a"])


class Replies:
    """Reads one reply stream from its beginning, removing what it has read."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self._client = client
        self._name = name
        self._after: bytes | str = "0"

    def read(self, block_ms: int) -> list[Answer]:
        """Answers not read before; waits up to `block_ms` for the first (0: does not wait)."""
        found = cast(Any, self._client.xread({self._name: self._after}, block=block_ms or None))
        if not found:
            return []
        messages = found[0][1]
        self._after = messages[-1][0]
        self._client.xdel(self._name, *[message_id for message_id, _ in messages])
        return [answer for _, message in messages for answer in decode_answers(message)]

    def close(self) -> None:
        """Remove the stream."""
        self._client.delete(self._name)
