"""What an append carries: n decided clicks as columns, their wire form and their leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clickledger.errors import InvalidInput
from clickledger.ledger import canonical, wire

VERDICTS = ("valid", "invalid", "undecided")


@dataclass(frozen=True, slots=True)
class Batch:
    """n clicks decided under one deployment and counted under one counter epoch; every column has n values.

    Keys are 16 bytes, `intake_digest` 32; `features` are little-endian int32 snapshots; `seq` 0 means not counted;
    `score` and `threshold` are logits, NaN when undecided.
    """

    deployment_epoch: int
    counter_epoch: int
    feature_schema: int
    click_id: Sequence[bytes]
    source: Sequence[str]
    external_id: Sequence[str]
    user_key: Sequence[bytes]
    session_key: Sequence[bytes]
    ip_key: Sequence[bytes]
    device: Sequence[str]
    device_kind: Sequence[str]
    advertiser_id: Sequence[str]
    campaign_id: Sequence[str]
    cost_micros: Sequence[int] | NDArray[np.int64]
    currency: Sequence[str]
    logged_in: Sequence[bool | None]
    slice: Sequence[str]
    intake_digest: Sequence[bytes]
    features: Sequence[bytes]
    seq: Sequence[int] | NDArray[np.int64]
    model_version: Sequence[int] | NDArray[np.int32]
    calibration_version: Sequence[int] | NDArray[np.int32]
    score: Sequence[float] | NDArray[np.float32]
    threshold: Sequence[float] | NDArray[np.float32]
    verdict: Sequence[str]
    reason: Sequence[str]

    def __len__(self) -> int:
        return len(self.click_id)

    def take(self, rows: Sequence[int]) -> Batch:
        """The same batch with only the given rows, in the given order."""
        scalars = ("deployment_epoch", "counter_epoch", "feature_schema")
        index = np.asarray(rows, dtype=np.intp)
        changed: dict[str, Any] = {}
        for field in fields(self):
            column = getattr(self, field.name)
            if field.name in scalars:
                changed[field.name] = column
            elif isinstance(column, np.ndarray):
                changed[field.name] = column[index]
            else:
                changed[field.name] = [column[i] for i in rows]
        return Batch(**changed)


class Encoded(NamedTuple):
    """A batch in wire form: array parameters by name, and one 32-byte leaf per row."""

    arrays: dict[str, wire.WireArray]
    leaves: bytes
    rows: list[bytes]


def encode(batch: Batch) -> Encoded:
    """Wire arrays and leaves of a batch, in its own row order. Raises InvalidInput when a column cannot be encoded."""
    try:
        return _encode(batch)
    except (ValueError, TypeError, KeyError, OverflowError, UnicodeEncodeError) as error:
        raise InvalidInput(f"batch of {len(batch)} clicks cannot be encoded: {error}") from error


def _encode(batch: Batch) -> Encoded:
    n = len(batch)
    if bad := set(batch.verdict) - set(VERDICTS):
        raise ValueError(f"expected verdict in {VERDICTS}, got {sorted(bad)}")
    if n and (cost := min(batch.cost_micros)) < 0:
        raise ValueError(f"cost_micros: expected >= 0, got {cost}")
    click_id = wire.opaque(batch.click_id, wire.UUID)
    click = wire.FixedBlock([
        ("click_id", wire.UUID, click_id),
        ("user_key", wire.UUID, wire.opaque(batch.user_key, wire.UUID)),
        ("session_key", wire.UUID, wire.opaque(batch.session_key, wire.UUID)),
        ("ip_key", wire.UUID, wire.opaque(batch.ip_key, wire.UUID)),
        ("cost_micros", wire.INT8, batch.cost_micros),
        ("seq", wire.INT8, batch.seq),
        ("intake_digest", wire.DIGEST, wire.opaque(batch.intake_digest, wire.DIGEST)),
        ("feature_schema", wire.INT4, np.full(n, batch.feature_schema)),
        ("counter_epoch", wire.INT4, np.full(n, batch.counter_epoch)),
    ])  # fmt: skip
    decision = wire.FixedBlock([
        ("click_id", wire.UUID, click_id),
        ("cost_micros", wire.INT8, batch.cost_micros),
        ("deployment_epoch", wire.INT4, np.full(n, batch.deployment_epoch)),
        ("model_version", wire.INT4, batch.model_version),
        ("calibration_version", wire.INT4, batch.calibration_version),
        ("score", wire.FLOAT4, batch.score),
        ("threshold", wire.FLOAT4, batch.threshold),
        ("carried", wire.BOOL, np.zeros(n, np.uint8)),
    ])  # fmt: skip
    texts = {
        "source": wire.repeated_text(batch.source),
        "external_id": wire.distinct_text(batch.external_id),
        "device": wire.repeated_text(batch.device),
        "device_kind": wire.repeated_text(batch.device_kind),
        "advertiser_id": wire.repeated_text(batch.advertiser_id),
        "campaign_id": wire.repeated_text(batch.campaign_id),
        "currency": wire.repeated_text(batch.currency),
        "logged_in": wire.bool_elements(batch.logged_in),
        "slice": wire.repeated_text(batch.slice),
        "features": wire.byte_elements(batch.features),
        "verdict": wire.repeated_text(batch.verdict),
        "reason": wire.repeated_text(batch.reason),
    }
    click_texts = [texts[name] for name in canonical.CLICK_COLUMNS if name in texts]
    decision_texts = [texts[name] for name in canonical.DECISION_COLUMNS if name in texts]
    parts = zip(click.rows(), *click_texts, decision.rows(), *decision_texts, strict=True)
    rows = [b"".join(part) for part in parts]
    return Encoded(_arrays(click, decision, texts), canonical.leaves(canonical.DECIDED_CLICK_DOMAIN, rows), rows)


def _arrays(
    click: wire.FixedBlock, decision: wire.FixedBlock, texts: dict[str, list[bytes]]
) -> dict[str, wire.WireArray]:
    arrays = {name: click.array(name) for name in canonical.CLICK_COLUMNS[:7]}
    for name in ("model_version", "calibration_version", "score", "threshold"):
        arrays[name] = decision.array(name)
    oids = {"logged_in": wire.ELEMENT_OIDS[wire.BOOL], "features": wire.BYTEA_OID}
    for name, elements in texts.items():
        arrays[name] = wire.array_of(elements, oids.get(name, wire.TEXT_OID))
    return arrays
