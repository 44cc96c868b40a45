"""Nothing that happened is changed or removed, by whatever statement, on whatever partition."""

from __future__ import annotations

import pytest
from batches import at, batch, click_id, clicks
from psycopg import sql
from replays import published

from clickledger import errors
from clickledger.ledger import append, database, outcomes

HISTORY = (
    "log", "leaves", "clicks", "decisions", "delayed_decisions", "outcomes", "conflicts", "artefacts", "comparisons",
    "comparison_totals", "adjustments",
)  # fmt: skip


@pytest.fixture
def lived(conn: database.Connection) -> database.Connection:
    """A ledger with rows in every history table and in dated and undated partitions."""
    rows = clicks(3) + clicks(2, "2024-03-11", start=10) + clicks(1, "2001-01-01", start=20)
    append.append(conn, batch(rows), actor="tests")
    append.append(conn, batch(clicks(1, content="other")), actor="tests")
    outcomes.append(conn, [outcomes.Outcome(click_id(at("2024-03-10"), 0), "purchase", 1, 5)], "tests")
    published(conn, 2, 3, {row.click_id: "invalid" for row in rows})
    return conn


def leaf_partitions(conn: database.Connection) -> list[str]:
    query = """SELECT i.inhrelid::regclass::text FROM pg_inherits i
               WHERE i.inhparent = ANY ('{clicks,decisions,delayed_decisions}'::regclass[]) ORDER BY 1"""
    return [name for (name,) in conn.execute(query)]


def refuses(conn: database.Connection, statement: str, table: str) -> None:
    with pytest.raises(errors.Refused, match="history is never changed"):
        conn.execute(sql.SQL(statement).format(table=sql.Identifier(table)))


def first_column(conn: database.Connection, table: str) -> str:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 1"
    row = conn.execute(query, (table,)).fetchone()
    assert row is not None
    return str(row[0])


def test_update_is_refused_on_every_history_table_and_partition(lived: database.Connection) -> None:
    for table in [*HISTORY, *leaf_partitions(lived)]:
        if lived.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table))).fetchone():
            column = first_column(lived, table)
            refuses(lived, f"UPDATE {{table}} SET {column} = {column}", table)


def test_delete_is_refused_on_every_history_table_and_partition(lived: database.Connection) -> None:
    for table in [*HISTORY, *leaf_partitions(lived)]:
        if lived.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table))).fetchone():
            refuses(lived, "DELETE FROM {table}", table)


def test_truncate_is_refused_on_every_history_table_and_partition(lived: database.Connection) -> None:
    partitions = leaf_partitions(lived)
    assert len(partitions) == 9  # two days and the undated one, of three tables
    for table in [*HISTORY, *partitions]:
        refuses(lived, "TRUNCATE {table} CASCADE", table)


def test_every_history_table_held_rows_in_these_tests(lived: database.Connection) -> None:
    for table in HISTORY:
        assert lived.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table))).fetchone(), table


def test_upsert_and_merge_cannot_change_history_either(lived: database.Connection) -> None:
    refuses(lived, "INSERT INTO {table} SELECT * FROM log ON CONFLICT (position) DO UPDATE SET actor = 'x'", "log")
    refuses(
        lived,
        "MERGE INTO {table} d USING clicks c ON c.click_id = d.click_id WHEN MATCHED THEN UPDATE SET verdict = 'valid'",
        "decisions",
    )


def test_row_cannot_be_moved_to_another_partition(lived: database.Connection) -> None:
    refuses(lived, "UPDATE {table} SET click_id = '00000000-0000-7000-8000-000000000000'", "clicks")


def test_row_of_an_unknown_day_has_nowhere_to_go(lived: database.Connection) -> None:
    with pytest.raises(errors.InvariantBroken, match="no partition"):
        lived.execute("""
            INSERT INTO clicks
            SELECT (jsonb_populate_record(c, '{"click_id": "ffffffff-0000-7000-8000-000000000000"}')).*
            FROM clicks c LIMIT 1""")
