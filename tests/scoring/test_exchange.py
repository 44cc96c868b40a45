"""The producer's side of the stream against a Redis that answers and takes nothing."""

from __future__ import annotations

import live_clicks
import pytest
import redis

from clickledger.errors import Unavailable
from clickledger.scoring import exchange


def test_server_that_takes_no_clicks_is_unavailable_in_its_own_words(redis_url: str, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxmemory", "1")
    try:
        with pytest.raises(Unavailable, match=r"refused the clicks: .*maxmemory.*; to send the same again is safe"):
            list(exchange.decide_all(redis_url, live_clicks.clicks(0, 3)))
    finally:
        redis_client.config_set("maxmemory", "0")
