"""What the log says of checkpoints: each is an entry, whose note anybody can verify, and a row that must say the same.

Invariants:
- entry and row are written in one transaction under the log's lock;
- every entry has its row and every row its entry, equal in size, root, note and time: `checkpoints` holds nothing that
  the log does not.

Sizes, roots and signatures are `checkpoints`' to verify: this is about one table and one kind of entry being the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from clickledger import errors
from clickledger.ledger import canonical, database

# Whole microseconds since 1970, which is how exactly the server keeps a time; NULL for one that is not finite.
SIGNED_AT_US = "CASE WHEN isfinite(signed_at) THEN (extract(epoch FROM signed_at) * 1000000)::bigint END"
SELECT_ROWS = f"SELECT size, coalesce(root, ''), coalesce(note, ''), {SIGNED_AT_US} FROM checkpoints ORDER BY size"
# The kind stands in the text: with a parameter no plan could use the index of control entries.
SELECT_NEWEST_ENTRY = """
    SELECT position, payload FROM log WHERE kind = 'checkpoint_signed' ORDER BY position DESC LIMIT 1"""
SELECT_DIGESTS = """
    SELECT position, sha256(convert_to(payload, 'UTF8')) FROM log WHERE kind = 'checkpoint_signed' ORDER BY position"""
SELECT_PAYLOADS = "SELECT position, payload FROM log WHERE position = ANY (%s) ORDER BY position"
SELECT_OTHERS_SINCE = "SELECT EXISTS (SELECT FROM log WHERE position > %s AND kind <> 'checkpoint_signed')"
FAILURES_MAX = 20


class Row(NamedTuple):
    """A row of `checkpoints`; `signed_at_us` is when it was stored, by the server's clock."""

    size: int
    root: bytes
    note: str
    signed_at_us: int | None


def payload(row: Row) -> dict[str, Any]:
    """What the entry of a checkpoint says: all that its row does."""
    root = bytes(row.root).hex()
    return {"note": row.note, "root": root, "signed_at_us": row.signed_at_us, "size": row.size}


def rows(conn: database.Connection) -> list[Row]:
    """Every stored checkpoint, by size."""
    return [Row(*row) for row in conn.execute(SELECT_ROWS)]


def newest(conn: database.Connection) -> Row | None:
    """The stored checkpoint that covers most, if there is any."""
    row = conn.execute(f"{SELECT_ROWS} DESC LIMIT 1".encode()).fetchone()
    return Row(*row) if row else None


def others_since(conn: database.Connection, size: int) -> bool:
    """Whether anything but checkpoints was recorded after the entry at position `size`."""
    return conn.execute(SELECT_OTHERS_SINCE, (size,)).fetchone() == (True,)


def require_same(conn: database.Connection, row: Row | None) -> None:
    """The newest row against the newest entry. Raises VerificationFailed unless they say the same."""
    position, text = conn.execute(SELECT_NEWEST_ENTRY).fetchone() or (None, None)
    if text != (canonical.canonical_json(payload(row)) if row else None):
        entry = f"that of entry {position}" if position else "none, since no entry says that one was signed"
        got = f"one over {row.size} entries that it does not name" if row else "none"
        raise errors.VerificationFailed(f"newest checkpoint: expected {entry}, got {got}: run audit verify")


def differences(conn: database.Connection, stored: Iterable[Row]) -> list[str]:
    """Entries without a row that says the same, and rows without an entry; one line each."""
    recorded: dict[bytes, int] = {}
    failures = []
    for position, digest in conn.execute(SELECT_DIGESTS):
        if (first := recorded.setdefault(bytes(digest), position)) != position:
            failures.append(f"entry {position}: it says of a checkpoint what entry {first} said already")
    unrecorded = [row for row in stored if recorded.pop(_digest(row), None) is None]
    lone = {row.size: payload(row) for row in unrecorded}
    entries = conn.execute(SELECT_PAYLOADS, (list(recorded.values())[:FAILURES_MAX],))
    failures += [_of_entry(position, text, lone) for position, text in entries]
    return failures + [
        f"checkpoint over {size} entries: expected an entry that says what its row does, got none" for size in lone
    ]


def _digest(row: Row) -> bytes:
    return hashlib.sha256(canonical.canonical_json(payload(row)).encode()).digest()


def _of_entry(position: int, text: str, lone: dict[int, dict[str, Any]]) -> str:
    """Why no row says what an entry does; takes the row that differs from it out of `lone`."""
    try:
        said = json.loads(text)
        size = int(said["size"])
    except (ValueError, LookupError, TypeError):
        return f"entry {position}: its payload is not that of checkpoint_signed"
    row = lone.pop(size, None)
    if row is None:
        return f"checkpoint over {size} entries: signed by entry {position}, its row is missing"
    other = " and ".join(name for name in row if row[name] != said.get(name)) or "spelling"
    return f"checkpoint over {size} entries: its row has another {other} than entry {position} recorded"
