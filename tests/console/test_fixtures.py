"""The fixtures keep their promise: real servers, and no test sees what another wrote."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
import redis


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_gets_a_database_of_its_own(database_url: str, turn: int) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE mine (turn int)")
        connection.execute("INSERT INTO mine VALUES (%s)", (turn,))
        assert connection.execute("SELECT turn FROM mine").fetchall() == [(turn,)]


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_gets_an_empty_valkey_that_never_evicts(redis_client: redis.Redis, redis_url: str, turn: int) -> None:
    assert redis_client.dbsize() == 0
    assert redis_client.function_list() == []
    redis_client.set(f"turn-{turn}", "1")
    redis_client.function_load("#!lua name=mine\nserver.register_function('mine', function() return 1 end)")
    assert redis_client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert redis_url.startswith("unix://")


@pytest.fixture
def lingering() -> Iterator[list[psycopg.Connection]]:
    """Connections closed only after the database of the test was dropped."""
    connections: list[psycopg.Connection] = []
    yield connections
    for connection in connections:
        connection.close()


def test_a_test_database_is_dropped_even_while_a_client_hangs_on(
    lingering: list[psycopg.Connection], database_url: str
) -> None:
    """What is checked is the end of `database_url`: a drop that is refused is an error of this test."""
    connection = psycopg.connect(database_url)
    connection.execute("SELECT 1")
    lingering.append(connection)
