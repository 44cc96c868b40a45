"""What the models in shadow would have decided, beside the log and outside its lock.

A row names the model and calibration it is of.
Best effort: a worker that dies between append and here leaves these rows out, and nobody is billed by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clickledger.ledger import database, wire
from clickledger.ledger.records import Batch
from clickledger.scoring.deciding import ShadowDecisions

INSERT_SHADOW_SCORES = """
    INSERT INTO shadow_scores (click_id, log_position, deployment_epoch, model_version, calibration_version, score,
                               threshold, verdict, live_verdict)
    SELECT u.click_id, %s, %s, %s, %s, u.score, u.threshold, u.verdict::verdict, u.live::verdict
    FROM unnest(%s, %s, %s, %s, %s) AS u (click_id, score, threshold, verdict, live)"""


def write(conn: database.Connection, batch: Batch, position: int, shadows: Sequence[ShadowDecisions]) -> None:
    """Write what each model in shadow decides of rows of a batch appended at `position`.

    Not flushed to disk before it returns: what a crash of the server may lose is evidence of a moment, and waiting for
    the flush would delay the decisions of the next batch.
    """
    with conn.transaction():
        conn.execute("SET LOCAL synchronous_commit = off")
        for shadow in shadows:
            parameters = (position, batch.deployment_epoch, *shadow.versions, *_columns(batch, shadow))
            conn.execute(INSERT_SHADOW_SCORES, parameters, prepare=True)


def _columns(batch: Batch, shadow: ShadowDecisions) -> list[Any]:
    rows = shadow.rows.tolist()
    block = wire.FixedBlock([
        ("click_id", wire.UUID, wire.opaque([batch.click_id[i] for i in rows], wire.UUID)),
        ("score", wire.FLOAT4, np.asarray(shadow.decided.score)),
        ("threshold", wire.FLOAT4, np.asarray(shadow.decided.threshold)),
    ])  # fmt: skip
    texts = (shadow.decided.verdict, [batch.verdict[i] for i in rows])
    fixed = [block.array(name) for name in ("click_id", "score", "threshold")]
    return [*fixed, *(wire.array_of(wire.repeated_text(text), wire.TEXT_OID) for text in texts)]
