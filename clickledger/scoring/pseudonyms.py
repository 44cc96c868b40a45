"""Keyed pseudonyms: what the ledger keeps instead of user ids, session ids and addresses.

Invariants:
- a pseudonym is HMAC-SHA256 under the installation's key, cut to 16 bytes: without the key it can be neither computed
  nor guessed, and destroying the key erases who was meant;
- kinds are separated: a user and an address with the same text get unrelated pseudonyms;
- user ids are the platform's and mean the same account whatever source a click came through.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import stat
from pathlib import Path

from clickledger.errors import InvalidSetting

KEY_BYTES = 32
PSEUDONYM_BYTES = 16
_DOMAIN = b"clickledger.pseudonym.v1/"
_IPV6_HOST_BYTES = 8


class Pseudonyms:
    """Turns identifiers into 16-byte pseudonyms under one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise InvalidSetting(f"pseudonym key: expected {KEY_BYTES} bytes, got {len(key)}")
        self._user, self._session, self._ip = (
            hmac.new(key, _DOMAIN + kind + b"\0", "sha256") for kind in (b"user", b"session", b"ip")
        )

    @classmethod
    def from_hex(cls, text: str, origin: str = "pseudonym key") -> Pseudonyms:
        """Read a key of 64 hexadecimal digits; `origin` names in errors where it came from. The key is never shown."""
        try:
            key = bytes.fromhex(text.strip())
        except ValueError:
            raise InvalidSetting(
                f"{origin}: expected {2 * KEY_BYTES} hexadecimal digits, got other characters"
            ) from None
        if len(key) != KEY_BYTES:
            raise InvalidSetting(f"{origin}: expected {2 * KEY_BYTES} hexadecimal digits, got {2 * len(key)}")
        return cls(key)

    @classmethod
    def from_file(cls, path: Path) -> Pseudonyms:
        """Read the key kept at `path`, creating it (mode 0600, its folder too) on first use.

        Raises `InvalidSetting` when the file cannot be read, holds no key, or can be read by others.
        """
        origin = f"pseudonym key file {path}"
        try:
            if not path.exists():
                _create_key_file(path)
            mode = stat.S_IMODE(path.stat().st_mode)
            text = path.read_text(encoding="ascii", errors="replace")
        except OSError as error:
            raise InvalidSetting(f"{origin}: expected a readable file, got: {error.strerror}") from error
        if mode & 0o077:
            raise InvalidSetting(f"{origin}: expected mode 0600, got {mode:04o}; others could read the key")
        return cls.from_hex(text, origin)

    def user(self, user_id: str) -> bytes:
        """The pseudonym of an account or cookie."""
        return _digest(self._user, user_id.encode())

    def session(self, user_id: str, session_id: str | None) -> bytes:
        """The pseudonym of a session of a user; None is the one session of a user whose sender names none."""
        user = user_id.encode()
        named = b"" if session_id is None else b"\1" + session_id.encode()
        return _digest(self._session, len(user).to_bytes(4, "big") + user + named)

    def ip(self, ip: str) -> bytes:
        """The pseudonym of an address. IPv6 counts as its /64, what one subscriber holds; opaque text as it is."""
        return _digest(self._ip, _canonical_ip(ip).encode())


def _digest(keyed: hmac.HMAC, message: bytes) -> bytes:
    mac = keyed.copy()
    mac.update(message)
    return mac.digest()[:PSEUDONYM_BYTES]


def _canonical_ip(ip: str) -> str:
    if ":" not in ip:  # IPv4 has one spelling only
        return ip
    try:
        address = ipaddress.IPv6Address(ip)
    except ValueError:
        return ip
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.packed[:_IPV6_HOST_BYTES].hex() + "/64"


def _create_key_file(path: Path) -> None:
    """Write a new key aside and link it into place: a process that loses the race reads the winner's whole key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(aside)
    except FileExistsError:
        pass
    finally:
        aside.unlink()
