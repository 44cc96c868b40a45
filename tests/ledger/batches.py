"""Batches for the ledger's tests: rows as dataclasses, turned into the columns that an append takes."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from clickledger.ledger.records import Batch

NAN = float("nan")


def at(day: str, second: int = 0) -> int:
    """Milliseconds since 1970 of a second of a UTC day, YYYY-MM-DD."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() + second) * 1000


def click_id(at_ms: int, number: int) -> bytes:
    """A UUIDv7 of that time, unique by number."""
    tail = bytearray(hashlib.sha256(number.to_bytes(8)).digest()[:10])
    tail[0] = 0x70 | tail[0] & 0x0F
    tail[2] = 0x80 | tail[2] & 0x3F
    return at_ms.to_bytes(6) + bytes(tail)


def key(text: str) -> bytes:
    """16 bytes that stand for a pseudonym."""
    return hashlib.sha256(text.encode()).digest()[:16]


@dataclass(frozen=True)
class Row:
    """One decided click; `content` stands for the sender's fields: another content is another intake digest."""

    click_id: bytes
    verdict: str = "valid"
    content: str = "first"
    cost_micros: int = 1_000
    advertiser_id: str = "adv-1"
    campaign_id: str = "camp-1"
    currency: str = "EUR"
    slice: str = "phone/in"
    reason: str = ""
    source: str = "test"
    external_id: str = ""
    device: str = "pixel"
    logged_in: bool | None = True
    features: bytes = b"\x01\x00\x00\x00"
    seq: int = 0
    score: float = 0.0
    threshold: float = 1.0
    model_version: int = 0
    calibration_version: int = 0

    @property
    def intake_digest(self) -> bytes:
        return hashlib.sha256(self.click_id + self.content.encode()).digest()

    @property
    def uuid(self) -> uuid.UUID:
        return uuid.UUID(bytes=self.click_id)


ROW_COLUMNS = (
    "click_id", "source", "external_id", "device", "advertiser_id", "campaign_id", "cost_micros", "currency",
    "logged_in", "slice", "intake_digest", "features", "seq", "model_version", "calibration_version", "score",
    "threshold", "verdict", "reason",
)  # fmt: skip


def batch(rows: Sequence[Row], epoch: int = 0, counter_epoch: int = 1) -> Batch:
    """The rows as one batch, in their order."""
    columns = {name: [getattr(row, name) for row in rows] for name in ROW_COLUMNS}
    keys = [key(row.campaign_id + row.slice) for row in rows]
    return Batch(
        deployment_epoch=epoch,
        counter_epoch=counter_epoch,
        feature_schema=1,
        user_key=keys,
        session_key=keys,
        ip_key=keys,
        device_kind=["phone"] * len(rows),
        **columns,
    )


def clicks(count: int, day: str = "2024-03-10", start: int = 0, **fields: object) -> list[Row]:
    """`count` clicks a second apart, numbered from `start`."""
    return [Row(click_id(at(day, n), n), **fields) for n in range(start, start + count)]  # type: ignore[arg-type]
