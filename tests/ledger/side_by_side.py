"""One call in ledger and oracle, their answers compared; perhaps the server process is ended in the middle of it."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import faults
import genesis
import hypothesis
from agreement import Agreement
from oracle import Refusal

from clickledger import errors
from clickledger.ledger import database, log


def _raise(error: Exception) -> Any:
    raise error


class SideBySide(Agreement):
    """A ledger, its oracle, and the fault that the next call meets."""

    ledger: genesis.Ledger
    counts: ClassVar[Counter[str]] = Counter()  # of what happened in all histories of the class
    exchanges, crashed = 0, False  # of the last call with a fault

    def __init__(self) -> None:
        super().__init__(self.ledger.set_back())
        self.crash: tuple[int, str] | None = None  # at which exchange of a call, and at which moment of it
        self.calls_before_crash = 0

    @property
    def checking(self) -> database.Connection:
        """One that no fault ends, where the ledger has it."""
        return self.ledger.checking

    def both(self, ledger: Callable[[], Any], oracle: Callable[[], Any]) -> tuple[Any, Any] | None:
        """Do it in both; None when both refused it for the same reason."""
        call = ledger
        if self.crash is not None:
            if self.calls_before_crash:
                self.calls_before_crash -= 1
            else:
                (at, moment), self.crash = self.crash, None
                call = self._crash_in(ledger, oracle, at, moment)
        try:
            expected = oracle()
        except Refusal as refusal:
            self._count(f"refused: {ledger.__name__} {refusal.error}")
            try:
                got = call()
            except errors.ClickledgerError as error:
                assert type(error).__name__ == refusal.error, error
                return None
            raise AssertionError(f"expected {refusal.error}, got {got}") from refusal
        got = call()
        self._count(f"done: {ledger.__name__}")
        return got, expected

    def _crash_in(
        self, ledger: Callable[[], Any], oracle: Callable[[], Any], at: int, moment: str
    ) -> Callable[[], Any]:
        """End the server process in the middle of a call: all of it, or nothing, has then happened.

        What to call next: the same again, which tells the caller; or what gives the answer, if the call was over first.
        """
        try:
            answer = self._with_a_fault(ledger, at, moment)
        except errors.Unavailable:
            self.conn = self.ledger.reconnect()
        except errors.ClickledgerError as refused:
            return self._over_first(functools.partial(_raise, refused))
        else:
            return self._over_first(lambda: answer)
        head = log.head(self.conn).position
        when = "after" if head > self.oracle.head else "before"
        self._count(f"crashed {when} its commit")
        self._count(f"crashed {when} its commit: {ledger.__name__}")
        if head > self.oracle.head:
            oracle()  # it was committed, so it must be allowed
        if head == self.oracle.head:  # else it takes several entries, of which asking again adds the others
            self.everything_holds()
        return ledger

    def _over_first(self, answer: Callable[[], Any]) -> Callable[[], Any]:
        """The answer had arrived; whether the server process is still there is another matter."""
        if self.crashed:
            self._count("crashed once it was answered")
            self.conn = self.ledger.reconnect()
        return answer

    def _with_a_fault(self, call: Callable[[], Any], at: int, moment: str) -> Any:
        with faults.fault_at(self.conn, at, self.ledger.end_backend, moment) as exchanges:
            try:
                return call()
            finally:
                self.exchanges, self.crashed = exchanges.count, exchanges.happened

    def _count(self, what: str) -> None:
        self.counts[what] += 1
        if hypothesis.currently_in_test_context():
            hypothesis.event(what)

    @staticmethod
    def _surely(answers: tuple[Any, Any] | None) -> tuple[Any, Any]:
        assert answers is not None
        return answers
