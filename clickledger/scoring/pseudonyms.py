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

from clickledger.errors import InvalidSetting
from clickledger.scoring.pseudonym_key import KEY_BYTES

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
