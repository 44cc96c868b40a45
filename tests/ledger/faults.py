"""Faults at a statement of our choice: whatever a connection says to its server passes one place, where it is counted.

Everything counts: BEGIN and COMMIT, each step of a COPY, what the library says by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from clickledger import errors
from clickledger.ledger import database

# What a caller gets whose server, or connection, went away: the ledger's word for it, or psycopg's own.
LOST = (errors.Unavailable, psycopg.OperationalError)


class Exchanges:
    """The exchanges of a connection with its server, counted from 0, and what happens at one of them."""

    def __init__(self, conn: database.Connection, at: int = -1, fault: Callable[[], object] = lambda: None) -> None:
        self.count = 0
        self._pass, self._at, self._fault = conn.wait, at, fault
        self._answered = True

    def before(self, generator: Any, *args: Any, **kwargs: Any) -> Any:
        """The fault comes first: the server never hears of the statement."""
        number, self.count = self.count, self.count + 1
        if number == self._at:
            self._fault()
        return self._pass(generator, *args, **kwargs)

    def after(self, generator: Any, *args: Any, **kwargs: Any) -> Any:
        """The server has done it, and its answer is lost."""
        number, self.count = self.count, self.count + 1
        answer = self._pass(generator, *args, **kwargs)
        if number == self._at:
            self._fault()
            raise psycopg.OperationalError(f"the answer to exchange {number} was lost")
        return answer


@contextmanager
def fault_at(
    conn: database.Connection, at: int, fault: Callable[[], object], *, answer_lost: bool = False
) -> Iterator[Exchanges]:
    """While it lasts, `fault` happens before exchange `at`, or after it with its answer lost; -1 = never."""
    exchanges = Exchanges(conn, at, fault)
    conn.wait = exchanges.after if answer_lost else exchanges.before  # type: ignore[method-assign]
    try:
        yield exchanges
    finally:
        del conn.wait


def end_backend(admin_url: str, conn: database.Connection) -> None:
    """End the server process of a connection, and wait until it is gone and its transaction with it."""
    pid = conn.info.backend_pid
    with psycopg.connect(admin_url, autocommit=True) as admin:
        row = admin.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,)).fetchone()
    assert row == (True,), f"server process {pid} did not end"
