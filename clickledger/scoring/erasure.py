"""Erasure: the key of the pseudonyms is destroyed, entries stay, so that the chain still verifies.

Invariants:
- set aside, recorded, destroyed, in this order: from the first step on nobody takes the key up again (intake makes a
  new one), and a key is gone only after the log says so;
- whatever is cut short is completed by the next call, which records nothing twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from clickledger import errors
from clickledger.ledger import database, log
from clickledger.scoring import pseudonym_key

KIND = "pseudonym_key_destroyed"
SELECT_DESTROYED = f"SELECT position, payload FROM log WHERE kind = '{KIND}' ORDER BY position"


class Erased(NamedTuple):
    """A destroyed key: the entry that says so, and its fingerprint."""

    position: int
    fingerprint: str


def is_cut_short(key_file: Path) -> bool:
    """Whether an earlier call set a key aside and did not come to its end: the next one completes that, and no more."""
    return _condemned(key_file.resolve()).exists()


def erase(conn: database.Connection, key_file: Path, actor: str, reason: str) -> Erased:
    """Destroy the key at `key_file` after recording it; completes a call that was cut short instead, if one was.

    Raises NotFound without a key, InvalidSetting when the file holds none.
    """
    key_file = key_file.resolve()  # a link would be removed and what it leads to stay
    condemned = _condemned(key_file)
    with log.writing(conn) as writer:  # one eraser at a time
        if not condemned.exists():
            _set_aside(key_file, condemned)
        erased = _recorded(writer, condemned, actor, reason)
    pseudonym_key.destroy(condemned)
    return erased


def _condemned(key_file: Path) -> Path:
    return key_file.with_name(key_file.name + ".condemned")


def _set_aside(key_file: Path, condemned: Path) -> None:
    try:
        pseudonym_key.read(key_file)
        key_file.rename(condemned)
    except FileNotFoundError as error:
        raise errors.NotFound(f"expected the key of the pseudonyms in {key_file}, found no file") from error
    except OSError as error:
        raise errors.Unavailable(f"cannot set {key_file} aside: {error}") from error
    pseudonym_key.sync_folder(condemned.parent)


def _recorded(writer: log.Writer, condemned: Path, actor: str, reason: str) -> Erased:
    """The entry of the condemned key: the one that a call before wrote, else a new one."""
    known = [Erased(at, json.loads(text)["fingerprint"]) for at, text in writer.execute(SELECT_DESTROYED)]
    try:
        fingerprint = pseudonym_key.fingerprint(pseudonym_key.read(condemned))
    except errors.InvalidSetting:
        if known:  # overwritten already, which comes after its entry, the newest of this kind
            return known[-1]
        raise
    for erased in known:
        if erased.fingerprint == fingerprint:
            return erased
    entry = writer.record("pseudonym_key_destroyed", {"fingerprint": fingerprint}, actor, reason)
    return Erased(entry.position, fingerprint)
