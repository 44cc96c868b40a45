"""Work done on the client's side while the server is busy: it never changes what the server is asked or answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clickledger import errors
from clickledger.ledger import database

ROWS = b"".join(b"%d\t%s\n" % (number, b"x" * 400) for number in range(5_000))  # more than any socket holds


class Work:
    """So many pieces of it; counts how often it was called."""

    def __init__(self, pieces: int) -> None:
        self.left, self.calls = pieces, 0

    def __call__(self) -> bool:
        self.calls += 1
        self.left -= 1
        return self.left >= 0


@pytest.fixture
def table(conn: database.Connection) -> Iterator[database.Connection]:
    conn.execute("CREATE TEMPORARY TABLE taken (number integer, filling text)")
    yield conn


def copy_in(conn: database.Connection) -> None:
    with conn.cursor() as cursor, cursor.copy("COPY taken FROM STDIN") as copy:
        copy.write(ROWS)


@pytest.mark.parametrize("pieces", [0, 1, 20, 10**9])
def test_everything_sent_arrives_however_much_work_there_is(table: database.Connection, pieces: int) -> None:
    work = Work(pieces)
    with table.meanwhile(work), table.transaction():
        copy_in(table)
        assert table.execute("SELECT count(*), sum(number) FROM taken").fetchone() == (5_000, 12_497_500)
    assert work.calls > 0


def test_work_is_done_while_the_server_thinks(conn: database.Connection) -> None:
    work = Work(1_000)
    with conn.meanwhile(work):
        assert conn.execute("SELECT 7 FROM pg_sleep(0.3)").fetchone() == (7,)
    assert work.calls > 1


def test_no_work_is_asked_for_afterwards(conn: database.Connection) -> None:
    outer, inner = Work(10**9), Work(10**9)
    with conn.meanwhile(outer), conn.meanwhile(inner):
        conn.execute("SELECT pg_sleep(0.3)")
    calls = outer.calls, inner.calls
    conn.execute("SELECT pg_sleep(0.01)")
    assert calls[0] == 0 < calls[1]
    assert (outer.calls, inner.calls) == calls


def test_errors_of_the_server_arrive_as_ever(conn: database.Connection) -> None:
    with conn.meanwhile(Work(10**9)), pytest.raises(errors.InvalidInput, match="a value cannot be stored"):
        conn.execute("SELECT pg_sleep(0.01), 1 / 0")
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_statement_that_is_cancelled_is_given_up(conn: database.Connection) -> None:
    conn.execute("SET statement_timeout = '50ms'")
    with conn.meanwhile(Work(10**9)), pytest.raises(errors.Unavailable, match="gave it up"):
        conn.execute("SELECT pg_sleep(30)")
