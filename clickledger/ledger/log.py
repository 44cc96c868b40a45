"""The log: control entries, reading in order, and the one lock that makes position order commit order.

Invariants:
- nothing is written to the log without its lock, and nothing whose time grows with more than the entry's own rows
  happens under it;
- a transaction that takes the lock touches no other locked rows afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.rows import class_row

from clickledger import errors
from clickledger.ledger import canonical, database

SELECT_ENTRIES = """
    SELECT position, kind, recorded_at, actor, reason, payload AS payload_text, row_count, content_digest, chain_hash
    FROM log WHERE position > %(after)s AND (%(kinds)s::text[] IS NULL OR kind = ANY (%(kinds)s))
    ORDER BY position LIMIT %(limit)s"""
SELECT_HEAD = "SELECT position, chain_hash, recorded_at FROM log ORDER BY position DESC LIMIT 1"
SELECT_RECORDED = "SELECT recorded_at FROM log WHERE position = %s"
RECORD_ENTRY = "SELECT position, recorded_at, chain_hash FROM record_entry(%s, %s, %s, %s, %s)"

NO_LIMIT = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log as stored; `payload_text` is canonical JSON."""

    position: int
    kind: str
    recorded_at: datetime
    actor: str
    reason: str
    payload_text: str
    row_count: int
    content_digest: bytes
    chain_hash: bytes

    @property
    def payload(self) -> Any:
        """The decoded payload."""
        return json.loads(self.payload_text)

    @property
    def recorded_at_ms(self) -> int:
        """Unix time, milliseconds; exact, since entries are recorded on whole milliseconds."""
        return int(self.recorded_at.timestamp()) * 1000 + self.recorded_at.microsecond // 1000


class Head(NamedTuple):
    """The newest entry: what a cursor carries."""

    position: int
    chain_hash: bytes
    recorded_at: datetime


class Writer:
    """Writes entries and the caches they change in one transaction that holds the log lock."""

    def __init__(self, conn: database.Connection) -> None:
        self._conn = conn

    @property
    def next_position(self) -> int:
        """Position the next recorded entry gets."""
        return head(self._conn).position + 1

    def record(
        self,
        kind: str,
        payload: dict[str, Any],
        actor: str,
        reason: str = "",
        *,
        leaf_bytes: bytes = b"",
    ) -> Entry:
        """Append one entry; `leaf_bytes` are the leaves of the rows written with it, 32 bytes each."""
        text = _encoded(kind, payload, actor, reason)
        if not actor:
            raise errors.InvalidInput(f"actor: expected who does this, got an empty name for {kind}")
        count, digest = len(leaf_bytes) // canonical.LEAF_BYTES, canonical.content_digest(leaf_bytes)
        row = self._conn.execute(RECORD_ENTRY, (kind, actor, reason, text, leaf_bytes)).fetchone()
        if row is None:
            raise errors.InvariantBroken(f"record_entry returned nothing for {kind}")
        position, recorded_at, chain_hash = row
        return Entry(position, kind, recorded_at, actor, reason, text, count, digest, chain_hash)

    def confirm_earlier(self) -> None:
        """Let this commit, which may write nothing else, wait for synchronous standbys as the first answer's did.

        For who is about to answer that something was there before: who hears that takes it for safe.
        """
        self._conn.execute("SELECT await_standbys()")

    def execute(self, statement: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement in the same transaction; rows if it returns any."""
        cursor = self._conn.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def _encoded(kind: str, payload: dict[str, Any], actor: str, reason: str) -> str:
    """The payload's text; a shell passes bytes that are no text as lone surrogates, which have no encoding."""
    try:
        text = canonical.canonical_json(payload)
        for written in (text, actor, reason):
            written.encode()
    except (TypeError, ValueError) as error:
        raise errors.InvalidInput(f"{kind} cannot be recorded: {error}") from error
    return text


@contextmanager
def writing(conn: database.Connection) -> Iterator[Writer]:
    """A transaction holding the log lock, from after it was granted until commit.

    Raises Unavailable when the commit may have happened or not, or is here but not on a synchronous standby.
    """
    with conn.transaction():
        conn.execute(
            "SELECT take_log_lock()"
        )  # its own statement: the next one must see what the last holder committed
        yield Writer(conn)
    database.require_confirmed(conn)


def record(conn: database.Connection, kind: str, payload: dict[str, Any], actor: str, reason: str = "") -> Entry:
    """Append one control entry in its own transaction."""
    with writing(conn) as log:
        return log.record(kind, payload, actor, reason)


def head(conn: database.Connection) -> Head:
    """The newest entry. Raises InvariantBroken on a log without genesis."""
    row = conn.execute(SELECT_HEAD).fetchone()
    if row is None:
        raise errors.InvariantBroken("the log is empty: expected at least its ledger_created entry")
    return Head(*row)


def position_at(conn: database.Connection, moment: datetime) -> int:
    """The newest position recorded at or before a moment, in a few look-ups; 0 where there is none."""
    lo, hi = 0, head(conn).position
    while lo < hi:
        middle = (lo + hi + 1) // 2
        row = conn.execute(SELECT_RECORDED, (middle,)).fetchone()
        lo, hi = (middle, hi) if row and row[0] <= moment else (lo, middle - 1)
    return lo


def read(
    conn: database.Connection, after: int = 0, kinds: Sequence[str] | None = None, limit: int = 1_000_000
) -> list[Entry]:
    """Entries after a position, in order, all kinds or the given ones."""
    wanted = {"after": after, "kinds": None if kinds is None else list(kinds), "limit": limit}
    with conn.cursor(row_factory=class_row(Entry)) as cursor:
        return cursor.execute(SELECT_ENTRIES, wanted).fetchall()


def entry(conn: database.Connection, position: int) -> Entry:
    """The entry at a position. Raises NotFound."""
    found = read(conn, after=position - 1, limit=1)
    if not found or found[0].position != position:
        raise errors.NotFound(f"the log has no entry at position {position}")
    return found[0]


def first_at(conn: database.Connection, moment: datetime) -> int:
    """The first position recorded at a moment or later, the one after the head without any; as `position_at`."""
    lo, hi = 1, head(conn).position + 1
    while lo < hi:
        middle = (lo + hi) // 2
        row = conn.execute(SELECT_RECORDED, (middle,)).fetchone()
        lo, hi = (middle + 1, hi) if row and row[0] < moment else (lo, middle)
    return lo
