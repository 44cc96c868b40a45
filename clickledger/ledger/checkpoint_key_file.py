"""The private key of checkpoints: in a file that only its owner can read, or in a setting; never in the database."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from clickledger.errors import InvalidSetting
from clickledger.ledger import signed_note
from clickledger.ledger.signed_note import SigningKey
from clickledger.settings import Settings


def of(settings: Settings) -> SigningKey | None:
    """The key of the settings, None when there is none. Raises InvalidSetting or InvalidInput, which do not show it."""
    if settings.checkpoint_key is not None:
        return signed_note.signing_key(settings.checkpoint_key)
    path = place(settings)
    return read(path) if path.exists() else None


def place(settings: Settings) -> Path:
    """Where the key is kept, unless the setting holds the key itself."""
    return settings.checkpoint_key_file or settings.home / "checkpoint.key"


def read(path: Path) -> SigningKey:
    """The key kept at `path`. Raises InvalidSetting when others can read it or nobody can."""
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"checkpoint_key_file: expected a file to read, got {path}: {error}") from error
    if mode & 0o077:
        raise InvalidSetting(f"checkpoint_key_file: expected {path} readable by its owner only (0600), got {mode:04o}")
    return signed_note.signing_key(text)


def write(path: Path, key: SigningKey) -> None:
    """Keep a key at `path`: the whole of it or nothing. Raises FileExistsError where there is one already."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(key.secret_text() + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(draft)  # unlike a rename it fails when another process was first
    finally:
        draft.unlink()


def put_in_place(pending: Path, path: Path) -> None:
    """Let a key that was written aside take the place of the one before it, for good."""
    pending.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
