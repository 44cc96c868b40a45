"""What an append knows of day partitions, and how few of them it touches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from batches import Row, at, batch, click_id, clicks
from psycopg import sql

from clickledger import errors
from clickledger.ledger import append, database, importing

Connect = Callable[[], database.Connection]
DAYS = 40
LOCKED_PARTITIONS = """
    SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
    WHERE l.pid = pg_backend_pid() AND c.relkind = 'r' AND c.relispartition"""


@pytest.fixture
def replace_database(database_url: str, template_database: str) -> Callable[[], None]:
    """Puts a fresh database in the place of the test's own, as a restore does: same address, other partitions."""

    def put() -> None:
        name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
        with psycopg.connect(database_url.replace(f"/{name}?", "/clickledger?"), autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(str(name))))
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            conn.execute(statement.format(sql.Identifier(str(name)), sql.Identifier(template_database)))

    return put


def test_days_of_a_replaced_database_are_made_again(connect: Connect, replace_database: Callable[[], None]) -> None:
    first = connect()
    append.append(first, batch(clicks(3)), actor="tests")
    replace_database()
    assert append.append(connect(), batch(clicks(3)), actor="tests").outcome == ["new"] * 3


def test_days_of_a_replaced_database_are_made_again_for_imports(
    connect: Connect, replace_database: Callable[[], None]
) -> None:
    append.append(connect(), batch(clicks(3)), actor="tests")
    replace_database()
    assert importing.import_batch(connect(), batch(clicks(300)), actor="tests").new == 300


def test_days_of_a_replaced_database_are_found_by_the_retry_of_a_callers_transaction(
    connect: Connect, replace_database: Callable[[], None]
) -> None:
    append.append(connect(), batch(clicks(3)), actor="tests")
    replace_database()
    conn = connect()
    with pytest.raises(errors.InvariantBroken, match="no partition of relation"), conn.transaction():
        append.append(conn, batch(clicks(3)), actor="tests")
    with conn.transaction():
        assert append.append(conn, batch(clicks(3)), actor="tests").new == 3


def test_row_that_breaks_a_check_is_not_taken_for_one_without_a_partition(conn: database.Connection) -> None:
    with pytest.raises(errors.InvariantBroken) as broken:
        conn.execute("INSERT INTO log VALUES (0, 'x', now(), 'x', '', '', 0, '', '')")
    assert not database.lacks_partition(broken.value)


@pytest.fixture
def many_days(conn: database.Connection) -> list[Row]:
    """A ledger with a click in each of `DAYS` days; the clicks."""
    days = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(DAYS)]
    rows = [Row(click_id(at(day.date().isoformat()), n)) for n, day in enumerate(days)]
    append.append(conn, batch(rows), actor="tests")
    return rows


@pytest.mark.parametrize("write", [append.append, importing.import_batch])
def test_repeats_and_conflicts_lock_the_partitions_of_their_own_day_only(
    connect: Connect, many_days: list[Row], write: Callable[..., append.Appended]
) -> None:
    conn, row = connect(), many_days[7]
    for _ in range(8):  # as often as it takes a cached plan to become one for every day
        write(conn, batch([row]), actor="tests")
    with conn.transaction():
        assert write(conn, batch([row, replace(row, content="other")]), actor="tests").new == 0
        assert conn.execute(LOCKED_PARTITIONS).fetchone() == (2,)


def test_new_rows_lock_the_partitions_of_their_own_day_only(connect: Connect, many_days: list[Row]) -> None:
    conn = connect()
    day = "2024-01-09"
    for n in range(8):
        append.append(conn, batch([Row(click_id(at(day, n), 500 + n))]), actor="tests")
    with conn.transaction():
        append.append(conn, batch([Row(click_id(at(day, 9), 600))]), actor="tests")
        assert conn.execute(LOCKED_PARTITIONS).fetchone() == (2,)
