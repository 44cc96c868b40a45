"""Signed notes: text that ends in a newline, a blank line, then signature lines (C2SP signed-note, Ed25519 only).

Invariants:
- there is one accepted spelling: base64 that does not encode back to itself is refused;
- a signature of an unknown key is left alone, one of a known key that does not hold refuses the whole note;
- a signing key never appears in a repr or in a message.

Text forms of keys are those of c2sp.org/signed-note and golang.org/x/mod/sumdb/note.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from clickledger.errors import InvalidInput, VerificationFailed

ED25519 = b"\x01"
PRIVATE_PREFIX = "PRIVATE+KEY+"
SIGNATURES_MAX = 100
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key under a name; as text `name+hex(id)+base64(0x01, key)`."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """Four bytes that tell the keys of one name apart; an identifier, not a commitment."""
        return _key_id(self.name, self.public)

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_base64(ED25519 + self.public)}"

    def holds(self, text: str, signature: bytes) -> bool:
        """Whether `signature` is this key's over `text`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key under a name; as text `PRIVATE+KEY+name+hex(id)+base64(0x01, seed)`."""

    name: str
    seed: bytes = field(repr=False)

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        return VerifierKey(self.name, self._private().public_key().public_bytes_raw())

    def secret_text(self) -> str:
        """The key as it is kept in a file."""
        return f"{PRIVATE_PREFIX}{self.name}+{self.verifier.key_id.hex()}+{_base64(ED25519 + self.seed)}"

    def signature(self, text: str) -> bytes:
        """The 64 bytes of an Ed25519 signature over `text`."""
        return self._private().sign(text.encode())

    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


class Signature(NamedTuple):
    """One signature line."""

    name: str
    key_id: bytes
    signature: bytes


class Note(NamedTuple):
    """A note as read; nothing is verified."""

    text: str
    signatures: list[Signature]


class Opened(NamedTuple):
    """A note whose signatures by known keys all hold; `by` has at least one of them."""

    text: str
    by: list[VerifierKey]


def generate(name: str) -> SigningKey:
    """A new key. Raises InvalidInput for a name that a note cannot carry."""
    _check_name(name)
    return SigningKey(name, Ed25519PrivateKey.generate().private_bytes_raw())


def verifier_key(text: str) -> VerifierKey:
    """A verifier key from its text form. Raises InvalidInput."""
    name, key_id, public = _key_parts(text, "verifier key", text)
    key = VerifierKey(name, public)
    if key.key_id != key_id:
        raise InvalidInput(f"verifier key of {name}: expected id {key.key_id.hex()}, got {key_id.hex()}")
    return key


def signing_key(text: str) -> SigningKey:
    """A signing key from its text form. Raises InvalidInput, which says nothing of the text."""
    name, key_id, seed = _key_parts(text.removeprefix(PRIVATE_PREFIX), "signing key", "a text kept out of messages")
    key = SigningKey(name, seed)
    if not text.startswith(PRIVATE_PREFIX) or key.verifier.key_id != key_id:
        raise InvalidInput(f"signing key of {name}: expected {PRIVATE_PREFIX}NAME+ID+KEY whose id is that of its key")
    return key


def sign(text: str, *keys: SigningKey) -> str:
    """The note: `text`, which ends in a newline, signed by each key in turn. Raises InvalidInput."""
    if not text.endswith("\n") or _has_control(text):
        raise InvalidInput("note: expected text that ends in a newline, without other control characters")
    lines = [f"— {key.name} {_base64(key.verifier.key_id + key.signature(text))}\n" for key in keys]
    return text + "\n" + "".join(lines)


def parse(note: str) -> Note:
    """Text and signatures of a note; nothing is verified. Raises InvalidInput when it is not of the form."""
    text, blank, lines = note.rpartition("\n\n")
    if not blank or not lines.endswith("\n") or _has_control(note):
        raise InvalidInput("note: expected text, a blank line and signature lines")
    signatures = [_signature(line) for line in lines[:-1].split("\n")]
    if len(signatures) > SIGNATURES_MAX:
        raise InvalidInput(f"note: expected {SIGNATURES_MAX} signatures at most, got {len(signatures)}")
    return Note(text + "\n", signatures)


def open_note(note: str, keys: Sequence[VerifierKey]) -> Opened:
    """The text of a note that one of `keys` signed. Raises InvalidInput or VerificationFailed."""
    text, signatures = parse(note)
    by = []
    for signature in signatures:
        for key in keys:
            if (key.name, key.key_id) != (signature.name, signature.key_id):
                continue
            if not key.holds(text, signature.signature):
                raise VerificationFailed(f"note: the signature of {key.name}+{key.key_id.hex()} does not hold")
            by.append(key)
    if not by:
        signers = ", ".join(f"{s.name}+{s.key_id.hex()}" for s in signatures)
        raise VerificationFailed(f"note: expected the signature of a known key, got those of {signers}")
    return Opened(text, by)


def _signature(line: str) -> Signature:
    dash, _, rest = line.partition(" ")
    name, space, encoded = rest.partition(" ")
    raw = _from_base64(encoded)
    if dash != "—" or not space or not _is_name(name) or raw is None or len(raw) <= len(b"id__"):
        raise InvalidInput(f"note: expected a signature line, got {line!r}")
    return Signature(name, raw[:4], raw[4:])


def _key_parts(text: str, what: str, shown: str) -> tuple[str, bytes, bytes]:
    name, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    raw = _from_base64(encoded)
    if not _is_name(name) or raw is None or raw[:1] != ED25519 or len(raw) != 1 + _KEY_BYTES:
        raise InvalidInput(f"{what}: expected NAME+ID+KEY of an Ed25519 key, got {shown}")
    try:
        identifier = bytes.fromhex(key_id)
    except ValueError:
        identifier = b""
    if identifier.hex() != key_id or len(identifier) != 4:
        raise InvalidInput(f"{what} of {name}: expected an id of 8 hex digits")
    return name, identifier, raw[1:]


def _key_id(name: str, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _from_base64(text: str) -> bytes | None:
    """The bytes, or None unless `text` is the one encoding of them."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if _base64(raw) == text else None


def _check_name(name: str) -> None:
    if not _is_name(name):
        raise InvalidInput(f"key name: expected a name without spaces and plus signs, got {name!r}")


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() or ord(c) < 32 for c in name)


def _has_control(text: str) -> bool:
    return any(ord(c) < 32 and c != "\n" for c in text)
