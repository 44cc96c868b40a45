"""The key that signs checkpoints as a file, and the files that leave the ledger: checkpoints and bundles.

Invariants:
- a key is on the disk before the log names it, so that no crash leaves a ledger whose key nobody has;
- a rotation that was interrupted is finished by asking for it again.
"""

from __future__ import annotations

from pathlib import Path

from clickledger import errors, verify_bundle
from clickledger.ledger import checkpoint_key_file, checkpoint_keys, checkpoints, database, proof_bundle, signed_note
from clickledger.ledger.signed_note import SigningKey
from clickledger.settings import Settings


def new_key(conn: database.Connection, chosen: Settings, actor: str, reason: str) -> SigningKey:
    """Make the ledger's first key where the settings hold none, and record it. Raises Conflict when it has one."""
    if known := checkpoint_keys.history(conn):
        raise errors.Conflict(
            f"expected a ledger without key, got one with {known[-1].verifier}: clickledger audit key rotate"
        )
    key = checkpoint_key_file.of(chosen)
    if key is None:
        key = signed_note.generate(checkpoint_keys.origin(conn))
        checkpoint_key_file.write(checkpoint_key_file.place(chosen), key)
    checkpoint_keys.announce(conn, key, actor, reason)
    return key


def rotate_key(
    conn: database.Connection, chosen: Settings, actor: str, reason: str, *, lost: bool = False, to: Path | None = None
) -> SigningKey:
    """A new key in place of the one in force; in its file, or in the file `to`, which the settings must then name.

    Raises Conflict unless the old key is the one in force; with `lost` it need not be there.
    """
    if chosen.checkpoint_key is not None and to is None:
        raise errors.InvalidInput("checkpoint_key is in the environment: expected --to FILE for the new key")
    if to is not None and to.exists():
        raise errors.Conflict(f"to: expected no such file yet, got {to}")
    place = to or checkpoint_key_file.place(chosen)
    pending = place.with_name(f"{place.name}.new")
    new = _pending_key(conn, pending)
    known = checkpoint_keys.history(conn)
    if not known or known[-1].verifier != new.verifier:
        old = None if lost else checkpoint_key_file.of(chosen)
        if old is None and not lost:
            raise errors.NotFound(f"expected the key in force in {checkpoint_key_file.place(chosen)}, got none")
        checkpoint_keys.rotate(conn, old, new, actor, reason)
    checkpoint_key_file.put_in_place(pending, place)
    return new


def _pending_key(conn: database.Connection, pending: Path) -> SigningKey:
    """The new key of a rotation that was interrupted, or a fresh one."""
    if not pending.exists():
        checkpoint_key_file.write(pending, signed_note.generate(checkpoint_keys.origin(conn)))
    return checkpoint_key_file.read(pending)


def read_checkpoint(path: Path) -> str:
    """The note of a checkpoint in a file. Raises InvalidInput when the file cannot be read or holds none."""
    try:
        note = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InvalidInput(f"checkpoint: expected a file to read, got {path}: {error}") from error
    try:
        checkpoints.parse(note)
    except errors.InvalidInput as error:
        raise errors.InvalidInput(f"{path}: expected a signed checkpoint: {error}") from error
    return note


def checked(conn: database.Connection, bundle: proof_bundle.Bundle) -> verify_bundle.Verified:
    """What a bundle proves to whoever trusts the keys of this ledger. Raises VerificationFailed.

    Asked before a bundle is handed out: nobody gets one that will not verify.
    """
    keys = [verify_bundle.key(str(entry.verifier)) for entry in checkpoint_keys.history(conn)]
    try:
        return verify_bundle.verify(bundle.text, keys)
    except verify_bundle.Refused as error:
        raise errors.VerificationFailed(f"the ledger is not what was logged: {error}: run audit verify") from error
