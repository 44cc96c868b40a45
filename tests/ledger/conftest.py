"""Connections to the test's own database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from clickledger.ledger import database


@pytest.fixture
def connect(database_url: str) -> Iterator[Callable[[], database.Connection]]:
    """Opens further connections, closed after the test."""
    opened: list[database.Connection] = []

    def open_one() -> database.Connection:
        opened.append(database.connect(database_url, application_name="tests"))
        return opened[-1]

    yield open_one
    for conn in opened:
        conn.close()


@pytest.fixture
def conn(connect: Callable[[], database.Connection]) -> database.Connection:
    """One connection."""
    return connect()
