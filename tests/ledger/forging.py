"""Forgeries of one row by an owner without triggers and constraints: change, remove, add, swap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from psycopg import sql

from clickledger.ledger import database

SELECT_TABLES = """
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1"""
SELECT_COLUMNS = """
    SELECT a.attname, a.atttypid::regtype::text FROM pg_attribute a
    WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
SELECT_CONSTRAINTS = """
    SELECT c.conrelid::regclass::text, c.conname FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
    WHERE t.relnamespace = 'public'::regnamespace AND c.contype IN ('c', 'p', 'u', 'f', 'x') AND c.coninhcount = 0
    ORDER BY c.contype = 'f' DESC, 1, 2"""
SELECT_INDEXES = """
    SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indisunique AND c.relnamespace = 'public'::regnamespace AND NOT c.relispartition"""
# Another value of each type, as near to the old one as can be.
ANOTHER = {
    "bigint": "coalesce({c}, 0) + 1",
    "integer": "coalesce({c}, 0) + 1",
    "smallint": "coalesce({c}, 0) + 1",
    "date": "coalesce({c}, '2024-01-01') + 1",
    "text": "coalesce({c}, '') || 'x'",
    "uuid[]": "{c}[2:] || ('{{00000000-0000-0000-0000-000000000001}}'::uuid[])",
    "uuid": "coalesce((left({c}::text, 35) || translate(right({c}::text, 1), '0123456789abcdef', "
    "'123456789abcdef0'))::uuid, gen_random_uuid())",
    "bytea": "CASE WHEN coalesce({c}, '') = '' THEN '\\x01' ELSE set_bit({c}, 0, 1 - get_bit({c}, 0)) END",
    "boolean": "NOT coalesce({c}, false)",
    "real": "CASE WHEN {c} = 'NaN' OR {c} IS NULL THEN 0 ELSE {c} * 1.0000002 + 1e-40 END",
    "verdict": "CASE WHEN {c} = 'valid' THEN 'invalid' ELSE 'valid' END::verdict",
    "timestamp with time zone": "coalesce({c}, 'epoch') + interval '1 microsecond'",
    "int8range": "int8range(lower({c}), coalesce(upper({c}), 1000) + 1)",
    "int4multirange": "{c} + int4multirange(int4range(1000, 1001))",
    "int8multirange": "{c} + int8multirange(int8range(1000, 1001))",
}
NUMBERS = ("bigint", "integer", "smallint")
LESS = "coalesce({c}, 0) - 1"


class Where(NamedTuple):
    """A row of a table, by the partition and place it lies at."""

    partition: str
    place: str


def unbind(conn: database.Connection) -> None:
    """Drop every key and check: an owner can."""
    for table, name in conn.execute(SELECT_CONSTRAINTS).fetchall():
        conn.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(sql.SQL(table), sql.Identifier(name)))
    for (index,) in conn.execute(SELECT_INDEXES).fetchall():
        conn.execute(sql.SQL("DROP INDEX {}").format(sql.SQL(index)))


def tables(conn: database.Connection) -> list[str]:
    """Every table of the schema, partitions apart."""
    return [row[0] for row in conn.execute(SELECT_TABLES)]


def columns(conn: database.Connection, table: str) -> dict[str, str]:
    """The columns of a table with their types, in order."""
    return dict(conn.execute(SELECT_COLUMNS, (table,)).fetchall())


def rows(conn: database.Connection, table: str) -> list[Where]:
    """The rows of a table, in an order that does not depend on where they lie."""
    query = sql.SQL("SELECT tableoid::regclass::text, ctid::text FROM {t} ORDER BY {t}::text")
    return [Where(*row) for row in conn.execute(query.format(t=sql.Identifier(table)))]


def values(conn: database.Connection, table: str, row: Where) -> dict[str, str | None]:
    """The row's columns as text."""
    names = columns(conn, table)
    picked = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names)
    query = sql.SQL("SELECT {} FROM {} WHERE {}").format(picked, sql.Identifier(table), _at(row))
    return dict(zip(names, conn.execute(query).fetchall()[0], strict=True))


def another(
    conn: database.Connection, table: str, column: str, row: Where, *, less: bool = False
) -> dict[str, str | None]:
    """The row's columns as text, with what `change` and `add`, or `lessen`, would put into one of them."""
    value = sql.SQL((LESS if less else ANOTHER[columns(conn, table)[column]]).format(c=f'"{column}"'))
    query = sql.SQL("SELECT ({})::text FROM {} WHERE {}").format(value, sql.Identifier(table), _at(row))
    return values(conn, table, row) | {column: conn.execute(query).fetchall()[0][0]}


@contextmanager
def undone(conn: database.Connection) -> Iterator[None]:
    """A transaction in which triggers are off, and which never was."""
    with database.snapshot(conn), conn.transaction(force_rollback=True):
        conn.execute("SET LOCAL session_replication_role = replica")
        yield


def change(conn: database.Connection, table: str, column: str, row: Where) -> None:
    """Give one column of one row another value."""
    _set(conn, table, column, row, ANOTHER[columns(conn, table)[column]].format(c=f'"{column}"'))


def lessen(conn: database.Connection, table: str, column: str, row: Where) -> None:
    """Take one from a number of one row."""
    _set(conn, table, column, row, LESS.format(c=f'"{column}"'))


def erase(conn: database.Connection, table: str, column: str, row: Where) -> None:
    """Make one column of one row NULL."""
    _set(conn, table, column, row, "NULL")


def remove(conn: database.Connection, table: str, row: Where) -> None:
    """Delete one row."""
    conn.execute(sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(table), _at(row)))


def add(conn: database.Connection, table: str, row: Where, column: str | None = None) -> None:
    """Insert a copy of a row, with another value in one column if one is named."""
    names = columns(conn, table)
    picked = [
        sql.SQL(ANOTHER[kind].format(c=f'"{name}"')) if name == column else sql.Identifier(name)
        for name, kind in names.items()
    ]
    query = sql.SQL("INSERT INTO {t} SELECT {c} FROM {t} WHERE {w}")
    conn.execute(query.format(t=sql.Identifier(table), c=sql.SQL(", ").join(picked), w=_at(row)))


def swap(conn: database.Connection, table: str, column: str, one: Where, other: Where) -> bool:
    """Exchange one column of two rows; false, and nothing done, where both have the same value."""
    parts = {"t": sql.Identifier(table), "c": sql.Identifier(column), "a": _at(one), "b": _at(other)}
    different = "SELECT ROW((SELECT {c} FROM {t} WHERE {a})) IS DISTINCT FROM ROW((SELECT {c} FROM {t} WHERE {b}))"
    if not conn.execute(sql.SQL(different).format(**parts)).fetchall()[0][0]:
        return False
    update = """
        UPDATE {t} SET {c} = CASE WHEN {a} THEN (SELECT {c} FROM {t} WHERE {b}) ELSE (SELECT {c} FROM {t} WHERE {a}) END
        WHERE {a} OR {b}"""
    conn.execute(sql.SQL(update).format(**parts))
    return True


def _set(conn: database.Connection, table: str, column: str, row: Where, value: str) -> None:
    update = sql.SQL("UPDATE {} SET {} = {} WHERE {}")
    conn.execute(update.format(sql.Identifier(table), sql.Identifier(column), sql.SQL(value), _at(row)))


def _at(row: Where) -> sql.Composed:
    places = sql.Literal(row.partition), sql.Literal(row.place)
    return sql.SQL("(tableoid = {}::regclass AND ctid = {}::tid)").format(*places)
