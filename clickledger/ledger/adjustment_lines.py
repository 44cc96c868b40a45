"""The adjustment lines of a comparison as bytes: what its entry pins of them."""

from __future__ import annotations

import hashlib
import uuid

from clickledger.ledger import copied_rows, database

DOMAIN = b"clickledger:adjustments:1"
COLUMNS = (
    "adjustment_set", "line", "click_id", "advertiser_id", "campaign_id", "currency", "slice", "from_run_id",
    "from_verdict", "to_verdict", "amount_micros", "write_off_micros", "original_period", "posting_period",
)  # fmt: skip
SELECT_LINES = f"SELECT {', '.join(COLUMNS)} FROM adjustments WHERE adjustment_set = '{{set}}' ORDER BY line"


def digest(conn: database.Connection, adjustment_set: uuid.UUID) -> str:
    """SHA-256 (hex) over the lines of a set in order, each in its binary wire form, every field behind its length."""
    total = hashlib.sha256(DOMAIN)
    for row in copied_rows.stream(conn, SELECT_LINES.format(set=adjustment_set)):
        total.update(row)
    return total.hexdigest()
