"""The one canonical byte form: entries, rows and JSON, as they are hashed.

Invariants:
- every field is length-prefixed and every hash names its domain and version, so no two different things share bytes;
- a row's canonical bytes are PostgreSQL's binary wire form of its columns, each behind its int32 length (-1 = NULL), in
  the order of `CLICK_COLUMNS` and `DECISION_COLUMNS`: what the server sends by binary COPY is hashed as it is.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from typing import Any

ENTRY_DOMAIN = b"clickledger:entry:1"
ENTRY_LEAF_DOMAIN = b"clickledger:entry-leaf:1"
DECIDED_CLICK_DOMAIN = b"\x00clickledger:decided-click:1"
DELAYED_DECISION_DOMAIN = b"\x00clickledger:delayed-decision:1"
OUTCOME_DOMAIN = b"\x00clickledger:outcome:1"
GENESIS_HASH = bytes(32)
EMPTY_DIGEST = hashlib.sha256(b"").digest()
LEAF_BYTES = 32

# Fixed-width columns first: they are encoded for a whole batch at once.
CLICK_COLUMNS = (
    "click_id", "user_key", "session_key", "ip_key", "cost_micros", "seq", "intake_digest", "feature_schema",
    "counter_epoch", "source", "external_id", "device", "device_kind", "advertiser_id", "campaign_id", "currency",
    "logged_in", "slice", "features",
)  # fmt: skip
DECISION_COLUMNS = (
    "click_id", "cost_micros", "deployment_epoch", "model_version", "calibration_version", "score", "threshold",
    "carried", "advertiser_id", "campaign_id", "currency", "slice", "verdict", "reason",
)  # fmt: skip
DELAYED_COLUMNS = ("run_id", "log_position", "line", *DECISION_COLUMNS)
OUTCOME_COLUMNS = ("click_id", "kind", "occurred_at_ms", "value_micros")

_INT64 = struct.Struct(">q")
_LENGTH = struct.Struct(">i")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, shortest floats; raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def length_prefixed(value: bytes) -> bytes:
    """`value` behind its length as a big-endian int32."""
    return _LENGTH.pack(len(value)) + value


def entry_hash(
    position: int,
    kind: str,
    recorded_at_ms: int,
    actor: str,
    reason: str,
    payload: str,
    row_count: int,
    content_digest: bytes,
    previous: bytes,
) -> bytes:
    """The chain hash (32 bytes) of one log entry after `previous`, the chain hash of the entry before it.

    The database function write_entry is the writer; this is its independent reader.
    """
    return hashlib.sha256(
        ENTRY_DOMAIN
        + _INT64.pack(position)
        + length_prefixed(kind.encode())
        + _INT64.pack(recorded_at_ms)
        + length_prefixed(actor.encode())
        + length_prefixed(reason.encode())
        + length_prefixed(payload.encode())
        + _INT64.pack(row_count)
        + length_prefixed(content_digest)
        + previous
    ).digest()


def entry_leaf(chain_hash: bytes) -> bytes:
    """What the Merkle tree holds of an entry: leaf data, not yet hashed; leaf N - 1 is the entry at position N.

    The chain hash covers every field of the entry, its position and all entries before it.
    """
    return ENTRY_LEAF_DOMAIN + chain_hash


def leaves(domain: bytes, rows: Iterable[bytes]) -> bytes:
    """One SHA-256 leaf (32 bytes) per canonical row, concatenated."""
    prefix = hashlib.sha256(domain)
    parts = []
    for row in rows:
        digest = prefix.copy()
        digest.update(row)
        parts.append(digest.digest())
    return b"".join(parts)


def content_digest(leaf_bytes: bytes) -> bytes:
    """What a log entry says of its rows: SHA-256 over their leaves in line order."""
    return hashlib.sha256(leaf_bytes).digest()


def run_digest(chunks: Iterable[tuple[int, int, int, bytes]]) -> bytes:
    """What staging says of a run: SHA-256 over its chunks (lo, hi, row_count, content digest) in order."""
    total = hashlib.sha256(b"clickledger:run:1")
    for lo, hi, row_count, digest in chunks:
        total.update(_INT64.pack(lo) + _INT64.pack(hi) + _INT64.pack(row_count) + length_prefixed(digest))
    return total.digest()
