"""Tables of slow facts, such as the networks of data centres: registered by digest, each an entry of the log.

Invariants:
- the version of a table is the position of the entry that registered it, so it is looked up, never searched for;
- the content is the file as it was given, an artefact under its SHA-256, which the entry names; what its lines mean is
  for `scoring` to know;
- which version is in force is the deployment's to say (`deployments.facts_version`).
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from clickledger import errors
from clickledger.ledger import database, log

KIND = "fact_table_set"
SELECT_ENTRY = "SELECT payload::json->>'name', payload::json->>'digest' FROM log WHERE position = %s AND kind = %s"
SELECT_KNOWN = """
    SELECT position FROM log
    WHERE kind = %s AND payload::json->>'name' = %s AND payload::json->>'digest' = %s ORDER BY position LIMIT 1"""
SELECT_CONTENT = "SELECT content FROM artefacts WHERE digest = %s"


class FactTable(NamedTuple):
    """A registered table with its content."""

    version: int
    name: str
    content: bytes


def register(conn: database.Connection, name: str, content: bytes, row_count: int, actor: str, reason: str = "") -> int:
    """Store a table under its SHA-256; its version. The same content of that name again keeps its version."""
    digest = hashlib.sha256(content).digest()
    # One transaction, so that an artefact is never without its entry; sent before the lock is taken, as it is large.
    with conn.transaction():
        conn.execute("INSERT INTO artefacts VALUES (%s, %s) ON CONFLICT DO NOTHING", (digest, content))
        with log.writing(conn) as writer:
            known = writer.execute(SELECT_KNOWN, (KIND, name, digest.hex()))
            version = int(known[0][0]) if known else writer.next_position
            if known:
                writer.confirm_earlier()
            else:
                payload = {"name": name, "version": version, "digest": digest.hex(), "rows": row_count}
                if (position := writer.record("fact_table_set", payload, actor, reason).position) != version:
                    raise errors.InvariantBroken(f"table of facts: expected position {version}, got {position}")
    database.require_confirmed(conn)  # within, there was no commit yet
    return version


def load(conn: database.Connection, version: int) -> FactTable:
    """A registered table. Raises NotFound, and InvariantBroken where its content is not what was registered."""
    row = conn.execute(SELECT_ENTRY, (version, KIND)).fetchone()
    if row is None:
        raise _unknown(version)
    name, digest = row
    found = conn.execute(SELECT_CONTENT, (bytes.fromhex(digest),)).fetchone()
    if found is None or hashlib.sha256(found[0]).hexdigest() != digest:
        raise errors.InvariantBroken(
            f"table of facts {version}: expected content of digest {digest}, got other or none"
        )
    return FactTable(version, name, bytes(found[0]))


def require(writer: log.Writer, version: int) -> None:
    """Raise NotFound unless a table of that version is registered."""
    if not writer.execute(SELECT_ENTRY, (version, KIND)):
        raise _unknown(version)


def entry(conn: database.Connection, version: int) -> log.Entry:
    """The entry that registered a table. Raises NotFound."""
    try:
        found = log.entry(conn, version)
    except errors.NotFound:
        raise _unknown(version) from None
    if found.kind != KIND:
        raise _unknown(version)
    return found


def listed(conn: database.Connection) -> list[dict[str, Any]]:
    """What the entries of all tables say, the newest first, with who registered each, when and why."""
    return [
        {**one.payload, "actor": one.actor, "reason": one.reason, "recorded_at": one.recorded_at}
        for one in reversed(log.read(conn, kinds=[KIND]))
    ]


def _unknown(version: int) -> errors.NotFound:
    return errors.NotFound(f"no table of facts with version {version}")
