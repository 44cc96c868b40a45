"""A real Valkey for the tests of counting."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis


@pytest.fixture
def valkey(redis_url: str) -> Iterator[redis.Redis]:
    """A client of an empty server: no keys, no functions, the policy of ours, whatever a test sets."""
    with redis.Redis.from_url(redis_url) as client:
        yield client
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "0")
