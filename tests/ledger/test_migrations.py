"""From an empty database to the schema, once, however often and by however many it is asked."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from typing import Any

import psycopg
import pytest
from alembic import command
from batches import batch, clicks
from psycopg import sql
from replays import published

from clickledger import errors
from clickledger.ledger import (
    append,
    audit,
    billing,
    checkpoint_keys,
    checkpoints,
    database,
    log,
    merkle_tiles,
    retention,
    schema,
    signed_note,
)
from clickledger.ledger.rights import Role

MIGRATE = "import sys; from clickledger.ledger import schema; schema.migrate(sys.argv[1])"
# Everything with a definition: columns, constraints, indexes, triggers, functions, views.
DEFINITIONS = """
    SELECT 'column', attrelid::regclass::text, attname || ' ' || format_type(atttypid, atttypmod) || attnotnull
    FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
    WHERE attnum > 0 AND c.relnamespace = 'public'::regnamespace
    UNION ALL SELECT 'constraint', conrelid::regclass::text, conname || pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT 'index', indrelid::regclass::text, pg_get_indexdef(indexrelid)
    FROM pg_index JOIN pg_class c ON c.oid = indrelid WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL SELECT 'trigger', tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'function', proname, pg_get_functiondef(oid) FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'view', viewname, definition FROM pg_views WHERE schemaname = 'public'
    ORDER BY 1, 2, 3"""


@pytest.fixture
def empty_database(servers: Any) -> Iterator[str]:
    """The address of a database in which nothing is."""
    name = f"empty_{secrets.token_hex(6)}"
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield str(servers.database_url).replace("/clickledger?", f"/{name}?")
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def definitions(url: str) -> list[tuple[Any, ...]]:
    with database.connect(url) as conn:
        return conn.execute(DEFINITIONS).fetchall()


def test_empty_database_becomes_a_ledger_with_one_entry(empty_database: str) -> None:
    schema.migrate(empty_database)
    with database.connect(empty_database) as conn:
        [entry] = log.read(conn)
        assert (entry.position, entry.kind) == (1, "ledger_created")
        assert append.append(conn, batch(clicks(2)), actor="tests").position == 2


def test_migrating_again_changes_nothing(empty_database: str) -> None:
    schema.migrate(empty_database)
    with database.connect(empty_database) as conn:
        append.append(conn, batch(clicks(2)), actor="tests")
        append.append(conn, batch(clicks(1, content="other")), actor="tests")
        published(conn, 2, 3, {clicks(1)[0].click_id: "invalid"})
        entries = log.read(conn)
    before = definitions(empty_database)
    schema.migrate(empty_database)
    with database.connect(empty_database) as conn:
        assert log.read(conn) == entries
    assert definitions(empty_database) == before


def test_two_ledgers_have_different_names(empty_database: str, database_url: str) -> None:
    schema.migrate(empty_database)
    names = set()
    for url in (empty_database, database_url):
        with database.connect(url) as conn:
            names.add(log.entry(conn, 1).payload["ledger_id"])
    assert len(names) == 2
    assert definitions(empty_database) == definitions(database_url)


def test_processes_that_migrate_at_once_make_one_ledger(empty_database: str) -> None:
    migrating = [sys.executable, "-c", MIGRATE, empty_database]
    running = [subprocess.Popen(migrating, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    with database.connect(empty_database) as conn:
        assert [entry.kind for entry in log.read(conn)] == ["ledger_created"]


def test_failed_migration_leaves_the_database_empty(empty_database: str) -> None:
    with database.connect(empty_database) as conn:
        conn.execute("CREATE TABLE billing_periods (stranger int)")  # in the way of the third file
    with pytest.raises(Exception, match="billing_periods"):
        schema.migrate(empty_database)
    with database.connect(empty_database) as conn:
        assert conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall() == [
            ("billing_periods",)
        ]
        conn.execute("DROP TABLE billing_periods")
    schema.migrate(empty_database)


def test_map_of_version_0_1_0_learns_by_which_publication_each_piece_decides(empty_database: str) -> None:
    command.upgrade(schema._config(empty_database), "0002")
    with database.connect(empty_database) as conn:
        for publication in ("10, 7, 9, '[2,4)', 12", "15, 7, 14, '[2,4)', NULL"):
            conn.execute(f"INSERT INTO publications VALUES ({publication})".encode())
        conn.execute("UPDATE authority SET in_force = '[1,10)'")
        for piece in ("'[2,4)', 7, '[10,12)'", "'[2,4)', 7, '[15,)'", "'[4,)', NULL, '[10,)'"):
            conn.execute(f"INSERT INTO authority VALUES ({piece})".encode())
    schema.migrate(empty_database)
    with database.connect(empty_database) as conn:
        found = conn.execute(
            "SELECT lower(in_force), published, click_id_min FROM authority WHERE run_id = 7"
        ).fetchall()
        assert sorted(found) == [(10, 10, None), (15, 15, None)]
        assert conn.execute("SELECT DISTINCT published FROM authority WHERE run_id IS NULL").fetchall() == [(0,)]


def test_checkpoints_signed_before_they_were_entries_are_recorded_as_they_are(empty_database: str) -> None:
    schema.migrate(empty_database, "reading")
    with database.connect(empty_database) as conn:
        key = signed_note.generate(checkpoint_keys.origin(conn))
        checkpoint_keys.announce(conn, key, "tests")
        for size in (2, 3, 4):  # as they were signed then
            root = merkle_tiles.Tree(conn).root(size)
            note = signed_note.sign(checkpoints.body(key.name, size, root), key)
            conn.execute("INSERT INTO checkpoints VALUES (%s, %s, %s)", (size, root, note))
            log.record(conn, "noted", {}, "tests")
        before = conn.execute("SELECT * FROM checkpoints ORDER BY size").fetchall()
    schema.migrate(empty_database)
    with database.connect(empty_database) as conn:
        assert conn.execute("SELECT * FROM checkpoints ORDER BY size").fetchall() == before
        entries = log.read(conn, after=5)
        assert {(entry.kind, entry.actor) for entry in entries} == {("checkpoint_signed", "migration")}
        assert [entry.payload["size"] for entry in entries] == [2, 3, 4]
        assert audit.verify(conn).ok
        assert checkpoints.sign(conn, key, "tests").size == 8
        assert audit.verify(conn).ok
        conn.execute("SET session_replication_role = replica")
        conn.execute("DELETE FROM checkpoints WHERE size = 3")
        [line] = checkpoints.verify(conn)
        assert line == "checkpoint over 3 entries: signed by entry 7, its row is missing"


def test_ledger_in_another_schema_lives_there_alone(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as admin:
        admin.execute("CREATE SCHEMA elsewhere")
        set_path = sql.SQL("ALTER DATABASE {} SET search_path = elsewhere")
        admin.execute(set_path.format(sql.Identifier(admin.info.dbname)))
    schema.migrate(empty_database)
    with database.connect(empty_database, role=Role.SCORER) as scorer:
        append.append(scorer, batch(clicks(3)), actor="tests")
    with database.connect(empty_database) as conn:
        billing.close_period(conn, "2024-03", "tests")
        retention.detach(conn, date(2024, 3, 10), "tests", "older than 13 months")
        assert audit.verify(conn).ok
        elsewhere = "SELECT DISTINCT relnamespace::regnamespace::text FROM pg_class WHERE relname LIKE 'decisions%'"
        assert conn.execute(elsewhere).fetchall() == [("elsewhere",)]


def test_server_that_does_not_answer_is_unavailable(tmp_path: Any) -> None:
    with pytest.raises(errors.Unavailable, match="does not answer"):
        schema.migrate(f"postgresql:///clickledger?host={tmp_path}")
