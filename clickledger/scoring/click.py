"""A click as every step after intake sees it: validated, with pseudonyms instead of personal identifiers.

Invariants:
- `click_id` is a UUIDv7 whose 48-bit time is `event_time_ms`;
- `intake_digest` covers the sender's fields only: an honest retry has the same digest whatever happened here meanwhile;
- what a table of facts said of the address travels with the version of that table, since the address does not travel.
"""

from __future__ import annotations

import msgspec


class Click(msgspec.Struct, frozen=True, array_like=True):
    """One accepted click. Encoded as a msgpack array on the intake stream, in this field order."""

    click_id: bytes  # 16 bytes, UUIDv7
    source: str
    external_id: str
    event_time_ms: int  # Unix time, milliseconds, UTC
    user_key: bytes  # 16 bytes, keyed pseudonym of the account or cookie
    session_key: bytes  # 16 bytes
    ip_key: bytes  # 16 bytes
    device: str
    device_kind: str
    advertiser_id: str
    campaign_id: str
    cost_micros: int
    currency: str  # ISO 4217, three letters
    logged_in: bool | None
    slice: str
    intake_digest: bytes  # 32 bytes, SHA-256
    facts_version: int = 0  # of the table that was looked into; 0 for none
    data_centre: int = -1  # what it said of the address: 1, 0, or -1 where there was no address to look up


ENCODER = msgspec.msgpack.Encoder()
DECODER = msgspec.msgpack.Decoder(Click)
