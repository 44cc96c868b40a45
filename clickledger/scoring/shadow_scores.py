"""What the models in shadow would have decided, beside the log and outside its lock.

A row names the model and calibration it is of.
Best effort: a worker that dies between append and here leaves these rows out, and nobody is billed by them.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
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

SLOT_SECONDS = 600  # one without a score is no hour in shadow, unless no click came in it
SELECT_SCORED = """
    SELECT DISTINCT floor(extract(epoch FROM l.recorded_at) / %(slot)s)::bigint FROM (
        SELECT DISTINCT log_position FROM shadow_scores
        WHERE model_version = %(model)s AND calibration_version = %(calibration)s
          AND log_position > (SELECT set_position FROM calibrations WHERE calibration_version = %(calibration)s)) s
    JOIN log l ON l.position = s.log_position"""
SELECT_DECIDED = """
    SELECT DISTINCT floor(extract(epoch FROM recorded_at) / %(slot)s)::bigint FROM log
    WHERE kind = 'clicks_decided'
      AND position > (SELECT set_position FROM calibrations WHERE calibration_version = %(calibration)s)"""


def hours(conn: database.Connection, model_version: int, calibration_version: int) -> float:
    """How long a model with this calibration has run in shadow, by the log's times, to ten minutes; see `covered`."""
    pair = {"model": model_version, "calibration": calibration_version, "slot": SLOT_SECONDS}
    scored, decided = (
        {int(slot) for (slot,) in conn.execute(query, pair).fetchall()} for query in (SELECT_SCORED, SELECT_DECIDED)
    )
    return covered(scored, decided) * SLOT_SECONDS / 3600


def covered(scored: Set[int], decided: Set[int]) -> int:
    """Slots of time from the first to the last that was scored, but for those with decided clicks and no score."""
    if not scored:
        return 0
    first, last = min(scored), max(scored)
    missed = sum(first < slot < last for slot in decided - scored)
    return last - first + 1 - missed


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
