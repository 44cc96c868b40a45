"""What makes a click that click: its id, its slice and the digest of what its sender said.

Invariants:
- the same (source, external id, event time) has the same click id everywhere and for ever;
- the intake digest covers the sender's fields only, pseudonymised ones as their pseudonyms: it can be derived again
  from a stored click, and differs when any of these fields does.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from clickledger.scoring.click import Click

TIME_BITS = 48  # of a click id, which begins with its event time in Unix milliseconds
_CLICK_ID_DOMAIN = b"clickledger.click_id.v1\0"
_INTAKE_DOMAIN = b"clickledger.intake.v1\0"
_UUIDV7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_SLICE_LOGIN = {None: "unknown", False: "out", True: "in"}
_LOGIN_BYTES = {None: b"", False: b"\0", True: b"\1"}


class Sent(NamedTuple):
    """What the sender said, validated, in the order of `Click`; times in Unix milliseconds, keys of 16 bytes."""

    source: str
    external_id: str
    event_time_ms: int
    user_key: bytes
    session_key: bytes
    ip_key: bytes
    device: str
    device_kind: str
    advertiser_id: str
    campaign_id: str
    cost_micros: int
    currency: str
    logged_in: bool | None


def slice_label(device_kind: str, logged_in: bool | None) -> str:
    """The traffic slice of a click: `device_kind/in`, `/out` or `/unknown`."""
    return f"{device_kind}/{_SLICE_LOGIN[logged_in]}"


def click_id_of(source: str, external_id: str, event_time_ms: int) -> bytes:
    """The click id (16 bytes, UUIDv7): the sender's own where it is one of this event time, else one derived from it.

    A derived id has the event time in its first 48 bits and bits of SHA-256 in the rest.
    """
    if _UUIDV7.fullmatch(external_id):
        own = bytes.fromhex(external_id.replace("-", ""))
        if int.from_bytes(own[:6], "big") == event_time_ms:
            return own
    time = event_time_ms.to_bytes(TIME_BITS // 8, "big")
    noise = bytearray(hashlib.sha256(_CLICK_ID_DOMAIN + _framed(source.encode(), external_id.encode(), time)).digest())
    noise[0] = 0x70 | (noise[0] & 0x0F)  # version 7
    noise[2] = 0x80 | (noise[2] & 0x3F)  # variant of RFC 9562
    return time + bytes(noise[:10])


def intake_digest(sent: Sent) -> bytes:
    """SHA-256 (32 bytes) over the sender's fields, each behind its length."""
    parts = (
        sent.source.encode(),
        sent.external_id.encode(),
        sent.event_time_ms.to_bytes(8, "big"),
        sent.user_key,
        sent.session_key,
        sent.ip_key,
        sent.device.encode(),
        sent.device_kind.encode(),
        sent.advertiser_id.encode(),
        sent.campaign_id.encode(),
        sent.cost_micros.to_bytes(8, "big"),
        sent.currency.encode(),
        _LOGIN_BYTES[sent.logged_in],
    )
    return hashlib.sha256(_INTAKE_DOMAIN + _framed(*parts)).digest()


def sent_of(click: Click) -> Sent:
    """The sender's fields of a click: what its digest must be derived from again."""
    return Sent(*(getattr(click, name) for name in Sent._fields))


def identify(sent: Sent, facts_version: int = 0, data_centre: int = -1) -> Click:
    """The `Click` of validated sender fields: adds id, slice and digest, and what a table said of the address."""
    click_id = click_id_of(sent.source, sent.external_id, sent.event_time_ms)
    label = slice_label(sent.device_kind, sent.logged_in)
    return Click(click_id, *sent, label, intake_digest(sent), facts_version, data_centre)


def _framed(*parts: bytes) -> bytes:
    return b"".join([len(part).to_bytes(4, "big") + part for part in parts])
