"""A log of any length: entries as `write_entry` makes them, so many that one call each would take long."""

from __future__ import annotations

from clickledger.ledger import database, log

WRITE = """
    DO $$ BEGIN
        PERFORM take_log_lock();
        PERFORM write_entry('noted', 'tests', '', '{}', 0, sha256(''::bytea)) FROM generate_series(1, %d);
    END $$"""


def grow(conn: database.Connection, to: int) -> None:
    """Control entries until the head is at `to`."""
    conn.execute((WRITE % (to - log.head(conn).position)).encode())
    assert log.head(conn).position == to
