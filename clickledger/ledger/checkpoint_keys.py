"""Keys that sign checkpoints: who may speak for this ledger, and since when, is in its log.

Invariants:
- a checkpoint of size N is signed by the key that the newest key entry at or below position N names;
- a key entry carries a note signed by the new key and, unless that one was lost, by the key before it: whoever trusts
  the old key can come to trust the new one without trusting the log.
"""

from __future__ import annotations

from typing import NamedTuple

from clickledger import errors
from clickledger.ledger import database, log, signed_note
from clickledger.ledger.signed_note import SigningKey, VerifierKey

KINDS = ("checkpoint_key_set", "checkpoint_key_rotated")
STATEMENT_FORMAT = "clickledger:checkpoint-key:1"


class KeyEntry(NamedTuple):
    """The key in force from `position` on; `statement` is the signed note that names it."""

    position: int
    verifier: VerifierKey
    previous: VerifierKey | None
    statement: str


def origin(conn: database.Connection) -> str:
    """The ledger's name: first line of its checkpoints, and the name of every key that may sign them."""
    return f"clickledger/{log.entry(conn, 1).payload['ledger_id']}"


def history(conn: database.Connection) -> list[KeyEntry]:
    """Every key there was, in log order. Raises InvariantBroken naming an entry that is none."""
    return [_key_entry(entry) for entry in log.read(conn, kinds=KINDS)]


def in_force(keys: list[KeyEntry], size: int) -> VerifierKey | None:
    """The key that signs a checkpoint of that size."""
    return next((key.verifier for key in reversed(keys) if key.position <= size), None)


def announce(conn: database.Connection, key: SigningKey, actor: str, reason: str = "") -> log.Entry:
    """Record the first key. Raises InvalidInput for a key of another ledger, Conflict when there is one already."""
    _check_name(conn, key)
    with log.writing(conn) as writer:
        if known := history(conn):
            raise errors.Conflict(f"expected a ledger without key, got one with {known[-1].verifier}")
        return writer.record("checkpoint_key_set", _payload(key, None, [key]), actor, reason)


def rotate(
    conn: database.Connection, old: SigningKey | None, new: SigningKey, actor: str, reason: str = ""
) -> log.Entry:
    """Record that `new` signs from now on. Without `old`, which was lost, only the log vouches for the new one.

    Raises Conflict unless `old` is the key in force.
    """
    _check_name(conn, new)
    with log.writing(conn) as writer:
        known = history(conn)
        if not known:
            raise errors.Conflict("expected a ledger with a key to rotate, got one without")
        if old is not None and old.verifier != known[-1].verifier:
            raise errors.Conflict(f"expected the key in force, {known[-1].verifier}, got {old.verifier}")
        payload = _payload(new, known[-1].verifier, [new] if old is None else [new, old])
        return writer.record("checkpoint_key_rotated", payload, actor, reason)


def problems(keys: list[KeyEntry], name: str) -> list[str]:
    """What is wrong with the statements of a ledger's keys, one line each; `name` is its origin."""
    found, before = [], None
    for key in keys:
        if key.previous != before or key.statement.split("\n\n")[0] + "\n" != _text(name, key.verifier, before):
            found.append(f"key entry {key.position}: expected a statement on {key.verifier} after {before or 'none'}")
        else:
            found += _signature_problems(key)
        before = key.verifier
    return found


def _signature_problems(key: KeyEntry) -> list[str]:
    known = [key.verifier] + ([key.previous] if key.previous else [])
    try:
        opened = signed_note.open_note(key.statement, known)
    except (errors.InvalidInput, errors.VerificationFailed) as error:
        return [f"key entry {key.position}: {error}"]
    return [] if key.verifier in opened.by else [f"key entry {key.position}: its key did not sign its statement"]


def _payload(key: SigningKey, previous: VerifierKey | None, signers: list[SigningKey]) -> dict[str, str | None]:
    return {
        "verifier_key": str(key.verifier),
        "previous_key": str(previous) if previous else None,
        "statement": signed_note.sign(_text(key.name, key.verifier, previous), *signers),
    }


def _text(name: str, key: VerifierKey, previous: VerifierKey | None) -> str:
    return f"{STATEMENT_FORMAT}\n{name}\n{key}\n{previous or 'none'}\n"


def _key_entry(entry: log.Entry) -> KeyEntry:
    try:
        payload = entry.payload
        previous = payload["previous_key"]
        return KeyEntry(
            entry.position,
            signed_note.verifier_key(payload["verifier_key"]),
            signed_note.verifier_key(previous) if previous else None,
            str(payload["statement"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, errors.InvalidInput) as error:
        raise errors.InvariantBroken(f"entry {entry.position}: its payload names no key: {error}") from error


def _check_name(conn: database.Connection, key: SigningKey) -> None:
    if key.name != (name := origin(conn)):
        raise errors.InvalidInput(f"signing key: expected one of {name}, got one of {key.name}")
