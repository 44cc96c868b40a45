"""The producer's side of the stream against a Redis that answers and takes nothing."""

from __future__ import annotations

from pathlib import Path

import live_clicks
import pytest
import redis

from clickledger.console import home, services
from clickledger.errors import Unavailable
from clickledger.scoring import exchange
from clickledger.scoring.exchange import ExchangeConfig


def test_server_that_goes_away_is_waited_for_and_then_given_up(tmp_path: Path) -> None:
    place = home.prepare(tmp_path / "home")
    try:
        url = services.start_valkey(place, 60.0)
        config = ExchangeConfig(give_up_seconds=5.0)
        deciding = exchange._Exchange(url, live_clicks.clicks(0, 3), config)
        assert deciding.step() == []
        services.stop_local(place)
        with pytest.raises(Unavailable, match=r"3 of 3 clicks not answered: .*; sending again is safe"):
            while True:
                deciding.step()
        deciding.close()
        with pytest.raises(Unavailable, match=r"does not answer: .*; nothing was sent"):
            list(exchange.decide_all(url, live_clicks.clicks(0, 3)))
    finally:
        services.stop_local(place)


def test_server_that_takes_no_clicks_is_unavailable_in_its_own_words(redis_url: str, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxmemory", "1")
    try:
        with pytest.raises(Unavailable, match=r"refused the clicks: .*maxmemory.*; to send the same again is safe"):
            list(exchange.decide_all(redis_url, live_clicks.clicks(0, 3)))
    finally:
        redis_client.config_set("maxmemory", "0")
