"""Delayed decisions in bulk: canonical rows out of columns, and into the table by binary COPY."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clickledger.ledger import canonical, database, wire

COPY_ROWS = f"COPY delayed_decisions ({', '.join(canonical.DELAYED_COLUMNS)}) FROM STDIN (FORMAT BINARY)"
COPY_HEADER, COPY_TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
FIELD_COUNT = len(canonical.DELAYED_COLUMNS).to_bytes(2)
FIXED = {
    "run_id": wire.INT8, "log_position": wire.INT8, "line": wire.INT4, "click_id": wire.UUID, "cost_micros": wire.INT8,
    "deployment_epoch": wire.INT4, "model_version": wire.INT4, "calibration_version": wire.INT4, "score": wire.FLOAT4,
    "threshold": wire.FLOAT4, "carried": wire.BOOL,
}  # fmt: skip


def encode(run_id: int, columns: Mapping[str, Sequence[Any]]) -> list[bytes]:
    """n canonical rows of a run: PostgreSQL's binary wire form of `canonical.DELAYED_COLUMNS`.

    `columns` has n values for each column but `run_id`; click ids as 16 bytes each.
    """
    values: dict[str, Any] = {
        **columns,
        "run_id": np.full(len(columns["click_id"]), run_id),
        "click_id": wire.opaque(columns["click_id"], wire.UUID),
    }
    fixed = wire.FixedBlock([(name, form, values[name]) for name, form in FIXED.items()])
    texts = [wire.repeated_text(columns[name]) for name in canonical.DELAYED_COLUMNS if name not in FIXED]
    return [b"".join(parts) for parts in zip(fixed.rows(), *texts, strict=True)]


def digest(rows: Sequence[bytes]) -> bytes:
    """What a chunk says of its canonical rows, which are in (log_position, line) order."""
    return canonical.content_digest(canonical.leaves(canonical.DELAYED_DECISION_DOMAIN, rows))


def copy(conn: database.Connection, rows: Sequence[bytes]) -> None:
    """Write canonical rows, in the transaction that is open."""
    copy_rows(conn, COPY_ROWS, FIELD_COUNT, rows)


def copy_rows(conn: database.Connection, statement: str, field_count: bytes, rows: Sequence[bytes]) -> None:
    """Write rows in their binary wire form by a COPY of so many fields, in the transaction that is open."""
    with conn.cursor() as cursor, cursor.copy(statement.encode()) as stream:
        stream.write(b"".join([COPY_HEADER, *(field_count + row for row in rows), COPY_TRAILER]))
