"""From the schema of release 0.1.0, with data, to the newest: what was written then still verifies, reads and goes on.

Clients of the old version are the SQL they sent, written out here: their code is gone by then.
"""

from __future__ import annotations

import secrets
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from batches import batch, clicks
from replays import published

from clickledger.ledger import append, audit, billing, database, log, provenance, schema

RELEASED = "0002"  # the newest revision of release 0.1.0
DATA = Path(__file__).with_name("release_0_1_0.sql")
DAYS = ("2024-01-31", "2024-02-01", "2024-02-29")
EMPTIED = ("deployments", "counter_epochs", "log", "authority", "known_customers_upto")
HEAD, NEW_DAY = 28, "2024-03-01"
# One new click as a client of 0.1.0 sent it, and the leaf it computed.
OLD_APPEND = """
    SELECT position, new_count, new_ordinals FROM append_batch('a client of 0.1.0', 3, 2, 1, ARRAY[ROW(
        '018df229-9d30-78a9-be42-1546f8d4cae1', '64d43954-25f8-a0e3-5694-bf5f56f64201',
        '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', 1000, 0,
        '\\x8911584d4c53ab056dd1389014eec22e263e8b16f69c9a41b9527c35fff2c793', 0, 0, 0.0, 1.0, 'test', '', 'pixel',
        'phone', 'adv-1', 'camp-1', 'EUR', true, 'phone/in', '\\x01000000', 'valid', '')::decided_click],
        '\\x34aa7b2e87dba94fc70f2e628b35ad2c5341f4ab7eb61675eff4d94a85377de4'::bytea, {look})"""
OLD_CONTROL_ENTRY = "SELECT position FROM write_entry('noted', 'a client of 0.1.0', '', '{}', 0, sha256(''::bytea))"


@pytest.fixture
def released(servers: Any) -> Iterator[str]:
    """The address of a ledger of release 0.1.0, with data."""
    name = f"released_{secrets.token_hex(6)}"
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        url = str(servers.database_url).replace("/clickledger?", f"/{name}?")
        schema.migrate(url, RELEASED)
        fill(url)
        yield url
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def fill(url: str) -> None:
    """Lay the rows of the old ledger in place of those of an empty one."""
    with psycopg.connect(url) as conn:
        for day in DAYS:
            conn.execute("SELECT ensure_day(%s::date)", (day,))
        conn.execute("SET session_replication_role = replica")
        for table in EMPTIED:
            conn.execute(f"DELETE FROM {table}".encode())
        conn.execute(DATA.read_bytes())


def told(conn: database.Connection) -> tuple[Any, ...]:
    """What an auditor and billing had read of the old ledger, by the views and functions that it has in any release."""
    decisions = "SELECT click_id, verdict::text, run_id, log_position FROM authoritative_decisions_as_of(%s) ORDER BY 1"
    positions = [conn.execute(decisions, (position,)).fetchall() for position in range(HEAD + 1)]
    feed = conn.execute(
        "SELECT * FROM billing_entries WHERE position <= %s ORDER BY position, line", (HEAD,)
    ).fetchall()
    return positions, feed, log.read(conn)[:HEAD]


def told_by_readers(conn: database.Connection) -> tuple[Any, ...]:
    """The same of the old ledger's part by the readers of this release."""
    return billing.totals(conn, HEAD), billing.feed_total(conn, HEAD), billing.read(conn, limit=100).entries[:9]


def test_ledger_of_the_release_before_verifies_and_reads_as_it_did(released: str) -> None:
    with database.connect(released) as conn:
        before = told(conn)
    schema.migrate(released)
    with database.connect(released) as conn:
        assert {check: found for check, found in audit.verify(conn).failures.items() if found} == {}
        assert told(conn) == before
        ([totals], (posted, written_off), entries) = told_by_readers(conn)
        assert posted + written_off == totals.billed_micros
        assert [tuple(entry.values())[:2] for entry in entries] == [row[:2] for row in before[1][:9]]
        assert (totals.clicks, totals.valid, totals.invalid, totals.undecided) == (8, 6, 2, 0)
        assert provenance.why(conn, uuid.UUID("018d5cd0-bc00-7f55-b0f5-a1810b7af78c"))


def test_upgraded_ledger_goes_on(released: str) -> None:
    with database.connect(released) as conn:
        third = "SELECT position, line FROM billing_entries ORDER BY position, line OFFSET 2 LIMIT 1"
        position, line = conn.execute(third).fetchone() or (0, 0)
        cursor = billing.Cursor(position, line, log.entry(conn, position).chain_hash.hex())  # a client's of 0.1.0
    schema.migrate(released)
    with database.connect(released) as conn:
        repeated = append.append(conn, batch(clicks(1, "2024-01-31"), 3, 2), actor="tests")
        assert (repeated.outcome, repeated.first[0].log_position) == (["repeat"], 5)
        assert append.append(conn, batch(clicks(2, NEW_DAY), 3, 2), actor="tests").position == HEAD + 1
        published(conn, 1, HEAD + 2, {clicks(1, NEW_DAY)[0].click_id: "invalid"})
        assert len(billing.read(conn, cursor, 100).entries) > 5
        assert audit.verify(conn).ok


def test_upgrading_twice_changes_nothing(released: str) -> None:
    schema.migrate(released)
    with database.connect(released) as conn:
        before = told(conn), told_by_readers(conn), conn.execute("SELECT version_num FROM alembic_version").fetchall()
    schema.migrate(released)
    with database.connect(released) as conn:
        version = conn.execute("SELECT version_num FROM alembic_version").fetchall()
        assert (told(conn), told_by_readers(conn), version) == before


def test_client_of_the_release_before_appends_to_the_upgraded_ledger(released: str) -> None:
    schema.migrate(released)
    with database.connect(released) as conn:
        for look, expected in (("false", (HEAD + 1, 1, None)), ("true", (None, 0, None)), ("false", (None, 0, None))):
            assert conn.execute(OLD_APPEND.replace("{look}", look).encode()).fetchone() == expected
        with conn.transaction():
            conn.execute("SELECT take_log_lock()")
            assert conn.execute(OLD_CONTROL_ENTRY).fetchone() == (HEAD + 2,)
        assert audit.verify(conn).ok


def test_clients_of_the_release_before_write_while_the_ledger_is_upgraded(released: str) -> None:
    """They may be told to try again; they are never told anything else, and nothing of theirs is lost."""
    upgraded = threading.Event()

    def write() -> int:
        written = 0
        with psycopg.connect(released, autocommit=True) as conn:
            while not (upgraded.is_set() and written > 3):
                try:
                    conn.execute(OLD_APPEND.replace("{look}", "false").encode())
                    with conn.transaction():
                        conn.execute("SELECT take_log_lock()")
                        conn.execute(OLD_CONTROL_ENTRY)
                    written += 1
                except psycopg.errors.DeadlockDetected:
                    continue
        return written

    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(write) for _ in range(2)]
        try:
            schema.migrate(released)
        finally:
            upgraded.set()
        written = sum(future.result() for future in writing)
    with database.connect(released) as conn:
        assert (
            len([entry for entry in log.read(conn, kinds=["noted"]) if entry.actor == "a client of 0.1.0"]) == written
        )
        assert audit.verify(conn).ok
