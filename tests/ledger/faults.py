"""Faults at a statement of our choice: whatever a connection says to its server passes one place, where it is counted.

Everything counts: BEGIN and COMMIT, each step of a COPY, what the library says by itself. COMMIT can be named as such,
wherever it comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import psycopg
from psycopg import waiting

from clickledger import errors
from clickledger.ledger import database

COMMIT = -2  # instead of a number: the exchange that ends the first transaction, be it by COMMIT or ROLLBACK


class Exchanges:
    """The exchanges of a connection with its server, counted from 0, and what happens at one of them."""

    def __init__(self, conn: database.Connection, at: int, fault: Callable[[], object]) -> None:
        self.count = 0
        self._pass, self._at, self._fault = conn.wait, at, fault

    def _is_the_one(self, generator: Any) -> bool:
        self.count += 1
        if self._at == COMMIT and getattr(generator, "__name__", "") == "_exit_gen":  # of psycopg's Transaction
            self._at = self.count - 1
        return self.count - 1 == self._at

    @property
    def happened(self) -> bool:
        """Whether the exchange has come by now."""
        return self.count > self._at >= 0

    def before(self, generator: Any, *args: Any, **kwargs: Any) -> Any:
        """The server never hears of the statement."""
        if self._is_the_one(generator):
            self._fault()
        return self._pass(generator, *args, **kwargs)

    def during(self, generator: Any, *args: Any, **kwargs: Any) -> Any:
        """The statement is sent, and nobody has read an answer."""
        passed = self._once_sent(generator) if self._is_the_one(generator) else generator
        return self._pass(passed, *args, **kwargs)

    def after(self, generator: Any, *args: Any, **kwargs: Any) -> Any:
        """The server has done it and said so, and the caller does not get the answer."""
        hit = self._is_the_one(generator)
        answer = self._pass(generator, *args, **kwargs)
        if hit:
            self._fault()
            lost = f"the answer to exchange {self._at} was lost"
            raise errors.Unavailable(lost) from psycopg.OperationalError(lost)
        return answer

    def _once_sent(self, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """psycopg's own generator, with the fault at the first moment at which it only waits for an answer."""
        fault = self._fault
        try:
            waits_for = next(generator)
            while True:
                if waits_for == waiting.Wait.R:
                    fault()
                    fault = _nothing
                waits_for = generator.send((yield waits_for))
        except StopIteration as stop:
            return stop.value


def _nothing() -> None:
    """No fault."""


@contextmanager
def fault_at(
    conn: database.Connection, at: int, fault: Callable[[], object] = _nothing, moment: str = "before"
) -> Iterator[Exchanges]:
    """While it lasts, `fault` happens once, before, during or after exchange `at`; -1 = never."""
    exchanges = Exchanges(conn, at, fault)
    conn.wait = getattr(exchanges, moment)  # type: ignore[method-assign]  # the one place all statements pass
    try:
        yield exchanges
    finally:
        del conn.wait


def end_backend(admin_url: str, conn: database.Connection) -> None:
    """End the server process of a connection, and wait until it is gone and its transaction with it.

    pg_terminate_backend waits as well when it is told to, but looks every 100 ms; here a process is gone in one or two.
    """
    pid = conn.info.backend_pid
    with psycopg.connect(admin_url, autocommit=True) as admin:
        assert admin.execute("SELECT pg_terminate_backend(%s)", (pid,)).fetchone() == (True,)
    deadline = time.monotonic() + 10.0
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline, f"server process {pid} did not end"
        time.sleep(0.0005)
