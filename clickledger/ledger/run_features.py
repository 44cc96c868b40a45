"""What a `recompute` run decided on, where that is not the recorded snapshot: canonical rows, in bulk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from clickledger.ledger import canonical, database, delayed, wire

DOMAIN = b"\x00clickledger:run_features:1"
COLUMNS = ("run_id", "log_position", "line", "click_id", "features")
COPY_ROWS = f"COPY run_features ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
FIXED = {"run_id": wire.INT8, "log_position": wire.INT8, "line": wire.INT4, "click_id": wire.UUID}
FIELD_COUNT = len(COLUMNS).to_bytes(2)


def encode(run_id: int, columns: Mapping[str, Sequence[Any]], features: Sequence[bytes]) -> list[bytes]:
    """n canonical rows of a run: PostgreSQL's binary wire form of `COLUMNS`.

    `columns` has n click ids (16 bytes each), log positions and lines; `features` the n snapshots.
    """
    if not features:
        return []
    values: dict[str, Any] = {
        **columns,
        "run_id": np.full(len(features), run_id),
        "click_id": wire.opaque(columns["click_id"], wire.UUID),
    }
    fixed = wire.FixedBlock([(name, form, values[name]) for name, form in FIXED.items()])
    return [b"".join(parts) for parts in zip(fixed.rows(), wire.byte_elements(features), strict=True)]


def digest(rows: Iterable[bytes]) -> bytes:
    """What a chunk says of its canonical rows, which are in (log_position, line) order."""
    return canonical.content_digest(canonical.leaves(DOMAIN, rows))


def copy(conn: database.Connection, rows: Sequence[bytes]) -> None:
    """Write canonical rows, in the transaction that is open."""
    if rows:
        delayed.copy_rows(conn, COPY_ROWS, FIELD_COUNT, rows)
