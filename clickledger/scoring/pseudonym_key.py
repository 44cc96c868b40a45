"""The key of all pseudonyms: made on first use, readable by its owner only, and destroyed for good.

Invariants:
- processes that make the key at the same time agree on one; a process that died while making it leaves none behind;
- the key is never shown: what names it is its fingerprint, from which it cannot be told;
- it is not in the database, nor in anything that is backed up with the database.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from clickledger.errors import InvalidSetting
from clickledger.settings import Settings

KEY_BYTES = 32
_FINGERPRINT = b"clickledger.pseudonym-key.fingerprint.v1"


def of(settings: Settings) -> bytes:
    """The installation's key, 32 bytes, from the setting or from its file, which is made (0600) on first use.

    Raises `InvalidSetting`.
    """
    return bytes.fromhex(settings.pseudonym_key) if settings.pseudonym_key else read_or_make(file_of(settings))


def file_of(settings: Settings) -> Path:
    """Where the key is kept when the setting does not hold it."""
    return settings.pseudonym_key_file or settings.home / "pseudonym.key"


def read_or_make(path: Path) -> bytes:
    """The key kept at `path`, made with its folder where there is none. Raises `InvalidSetting`."""
    try:
        path = path.resolve()  # a link may lead to where the key is yet to be
        if not path.exists():
            _make(path)
        return read(path)
    except OSError as error:
        raise InvalidSetting(f"pseudonym_key_file: expected a file to read or make, got {path}: {error}") from error


def read(path: Path) -> bytes:
    """The key kept at `path`. Raises `InvalidSetting` when it is none or others can read it, OSError without a file."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise InvalidSetting(f"pseudonym_key_file: expected {path} readable by its owner only (0600), got {mode:04o}")
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise InvalidSetting(f"pseudonym_key_file: expected {2 * KEY_BYTES} hex digits in {path}")
    return key


def fingerprint(key: bytes) -> str:
    """The name of a key, 64 hexadecimal digits: HMAC-SHA256 of a fixed text under it."""
    return hmac.new(key, _FINGERPRINT, "sha256").hexdigest()


def destroy(path: Path) -> None:
    """Overwrite the file's bytes in place and remove it. A second call after a crash completes the first.

    What this cannot reach: backups and snapshots, the old blocks of a file system or disk that writes elsewhere, the
    memory of processes that read the key.
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        file.write(bytes(size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, as they are now."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make(path: Path) -> None:
    """Write a new key aside and link it into place: unlike a rename, that fails for all but the first to do it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
