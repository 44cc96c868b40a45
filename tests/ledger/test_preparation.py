"""Steps of work: what goes wrong in one is kept for whoever asks for the whole."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import pytest
from batches import batch, clicks
from psycopg.pq import TransactionStatus

from clickledger import errors
from clickledger.ledger import append, database
from clickledger.ledger.preparation import Preparation

Connect = Callable[[], database.Connection]


def failing() -> Generator[None, None, int]:
    yield
    raise errors.InvalidInput("expected a click, got none")


@contextmanager
def log_held_until(done: Callable[[], bool], holder: database.Connection) -> Iterator[Callable[[], None]]:
    """Whoever writes has to wait, however quick the server is, until what is given out is called and it is done."""
    holder.execute("BEGIN")
    holder.execute("SELECT take_log_lock()")

    def look() -> None:
        if holder.info.transaction_status is TransactionStatus.INTRANS and done():
            holder.execute("COMMIT")

    yield look


def test_failing_step_is_raised_at_the_end_and_not_into_the_call_under_way(connect: Connect) -> None:
    conn = connect()
    this, ahead = Preparation(append.prepare(batch(clicks(2)))).finish(), Preparation(failing())

    with log_held_until(lambda: ahead.done, connect()) as look:

        def step() -> bool:
            busy = ahead.step()
            look()
            return busy

        assert append.append_prepared(conn, this, actor="tests", meanwhile=step).new == 2
    assert ahead.done
    with pytest.raises(errors.InvalidInput, match="expected a click"):
        ahead.finish()


def test_batch_prepared_during_an_append_is_appended_as_any_other(conn: database.Connection) -> None:
    first, second = (Preparation(append.prepare(batch(rows))) for rows in (clicks(5), clicks(5, start=3)[::-1]))
    append.append_prepared(conn, first.finish(), actor="tests", meanwhile=second.step)
    appended = append.append_prepared(conn, second.finish(), actor="tests")
    assert appended.outcome == ["new", "new", "new", "repeat", "repeat"]


def test_empty_batch_is_prepared_and_writes_nothing(conn: database.Connection) -> None:
    nothing = Preparation(append.prepare(batch([]))).finish()
    assert append.append_prepared(conn, nothing, actor="tests") == append.Appended(None, None, 0, [])


def test_nothing_is_done_meanwhile_that_holds_a_lock(connect: Connect) -> None:
    conn = connect()
    append.append(conn, batch(clicks(2)), actor="tests")
    within: list[bool] = []
    other = [*clicks(1, content="other"), *clicks(1, "2023-07-01")]  # a conflict is noted, a partition is made
    this = Preparation(append.prepare(batch(other))).finish()

    with log_held_until(lambda: bool(within), connect()) as look:

        def note() -> bool:
            within.append(conn.info.transaction_status is TransactionStatus.INTRANS)
            look()
            return False

        assert append.append_prepared(conn, this, actor="tests", meanwhile=note).outcome == ["conflict", "new"]
    assert within, "it is called"
    assert True not in within
