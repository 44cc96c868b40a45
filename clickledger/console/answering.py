"""The API's side of the intake stream: clicks in, and whoever waits is told when their answer comes."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from clickledger.errors import Unavailable
from clickledger.scoring import stream
from clickledger.scoring.click import Click
from clickledger.scoring.stream import Answer

logger = logging.getLogger(__name__)

BLOCK_MS = 500
RECONNECT_SECONDS = 0.5
REPLIES_READ_MAX = 64  # batches in one read


class Answering:
    """One reply stream, one task that reads it, and the futures of everybody who waits."""

    def __init__(self, redis_url: str, answer_seconds: float, backlog_max: int = stream.BACKLOG_MAX) -> None:
        self._client = Redis.from_url(
            redis_url, protocol=2, retry=Retry(NoBackoff(), 0), socket_connect_timeout=5, socket_timeout=10
        )
        self._answer_seconds = answer_seconds
        self._backlog_max = backlog_max
        self._name = f"{stream.REPLIES_PREFIX}api:{secrets.token_hex(8)}"
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._numbers = count(1)
        self._reader: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read answers, in the running event loop."""
        self._reader = asyncio.create_task(self._read_for_ever())

    async def close(self) -> None:
        """Stop reading and remove the reply stream; whoever still waits is told so by their own time limit."""
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
        with suppress(redis.RedisError):
            await self._client.delete(self._name)
        await self._client.aclose()

    async def decide(self, clicks: Sequence[Click]) -> list[Answer]:
        """The answers to clicks, in their order, once all were committed.

        Raises Unavailable when too many clicks wait already (nothing was sent) or an answer did not come in time (the
        outcome is not known, and sending the same clicks again is safe).
        """
        await self._require_room()
        keys = [str(next(self._numbers)) for _ in clicks]
        futures = [asyncio.get_running_loop().create_future() for _ in clicks]
        self._waiting.update(zip(keys, futures, strict=True))
        try:
            await self._put(clicks, keys)
            return list(await asyncio.wait_for(asyncio.gather(*futures), self._answer_seconds))
        except TimeoutError as error:
            raise Unavailable(f"no worker answered within {self._answer_seconds:g} s; send it again") from error
        finally:
            for key in keys:
                self._waiting.pop(key, None)

    async def _require_room(self) -> None:
        try:
            waiting = int(await self._client.xlen(stream.STREAM))
        except redis.RedisError as error:
            raise Unavailable(f"the intake stream does not answer: {error}") from error
        if waiting >= self._backlog_max:
            raise Unavailable(f"too many clicks wait: expected fewer than {self._backlog_max}, got {waiting}")

    async def _put(self, clicks: Sequence[Click], keys: Sequence[str]) -> None:
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for click, key in zip(clicks, keys, strict=True):
                    pipe.xadd(stream.STREAM, stream.fields(click, self._name, key))
                await pipe.execute()
        except redis.RedisError as error:
            raise Unavailable(f"the intake stream does not answer: {error}; send it again") from error

    async def _read_for_ever(self) -> None:
        after: Any = "0"
        while True:
            try:
                after = await self._read(after)
            except redis.RedisError as error:
                logger.warning("reply stream: %s", error)
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _read(self, after: Any) -> Any:
        found: Any = await self._client.xread({self._name: after}, count=REPLIES_READ_MAX, block=BLOCK_MS)
        if not found:
            return after
        messages = found[0][1]
        for _, message in messages:
            for answer in stream.decode_answers(message):
                future = self._waiting.get(answer.key)
                if future is not None and not future.done():
                    future.set_result(answer)
        await self._client.xdel(self._name, *[message_id for message_id, _ in messages])
        return messages[-1][0]
