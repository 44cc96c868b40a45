"""What a drill did, counted from the ledger: who was wrongly treated, billed twice, or decided otherwise than said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from clickledger.ledger import database, deployments
from clickledger.recovery import recounting, redecide
from clickledger.scoring import decide, feature_spec
from clickledger.scoring import model as models_
from clickledger.scoring.rescore import COUNTING_REASONS

STEP_POSITIONS = 400  # of batches
EXCUSED = COUNTING_REASONS | {recounting.ORDER_LOST}
SELECT_TREATED = """
    SELECT click_id, verdict::text, cost_micros FROM authoritative_decisions_as_of(%s)
    WHERE log_position >= %s AND log_position < %s"""
# A click is billed its price once, or not at all; what was written off counts as told.
COUNT_DOUBLED = """
    SELECT count(*) FROM (
        SELECT click_id, sum(amount_micros + write_off_micros) AS told FROM billing_entries GROUP BY 1) feed
    JOIN decisions d USING (click_id) WHERE feed.told NOT IN (0, d.cost_micros)"""
COUNT_AFTER = "SELECT count(*) FROM decisions WHERE deployment_epoch = ANY (%s) AND log_position > %s"
SELECT_IN_FORCE = """
    SELECT a.slice, a.score, a.threshold, a.verdict::text, d.reason, c.features
    FROM authoritative_decisions a JOIN decisions d USING (click_id) JOIN clicks c USING (click_id)
    WHERE a.log_position >= %s AND a.log_position < %s"""

# With the versions that decided it live, by which a recount decides it as well.
SELECT_ALL_IN_FORCE = """
    SELECT uuid_send(a.click_id), a.slice, a.score, a.threshold, a.verdict::text, a.reason, d.model_version,
           d.calibration_version
    FROM authoritative_decisions_as_of(%s) a JOIN decisions d USING (click_id)
    WHERE a.log_position >= %s AND a.log_position < %s"""


def treated(conn: database.Connection, as_of: int, lo: int, hi: int, robots: Set[bytes]) -> dict[str, int]:
    """Clicks of people withheld and of robots billed at positions [lo, hi), as of a position, and their money."""
    found = dict.fromkeys(("wrongly_withheld", "wrongly_withheld_micros", "wrongly_billed", "wrongly_billed_micros"), 0)
    for click_id, verdict, cost_micros in conn.execute(SELECT_TREATED, (as_of, lo, hi)):
        robot = click_id.bytes in robots
        name = "wrongly_withheld" if verdict == decide.INVALID and not robot else "wrongly_billed"
        if (verdict == decide.INVALID and not robot) or (verdict == decide.VALID and robot):
            found[name] += 1
            found[f"{name}_micros"] += cost_micros
    return found


def doubled(conn: database.Connection) -> int:
    """Clicks of the whole feed whose lines do not add up to their price or to nothing."""
    return _count(conn, COUNT_DOUBLED, ())


def appended_after(conn: database.Connection, revoked_epochs: list[int], position: int) -> int:
    """Decisions of revoked epochs that stand after the rollback."""
    return _count(conn, COUNT_AFTER, (revoked_epochs, position))


def differs_from(conn: database.Connection, model: int, calibration: int, lo: int, hi: int) -> int:
    """Clicks of positions [lo, hi) whose decision in force is not what a model gives for their snapshot, to the bit."""
    judge = models_.from_artefact(deployments.load_artefact(conn, model))
    thresholds = deployments.load_thresholds(conn, calibration)
    differing = 0
    for start in range(lo, hi, STEP_POSITIONS):
        rows = conn.execute(SELECT_IN_FORCE, (start, min(start + STEP_POSITIONS, hi))).fetchall()
        if rows:
            differing += _differing(rows, judge, thresholds)
    return differing


def differs_from_sound(
    conn: database.Connection, sound: Mapping[bytes, bytes], as_of: int
) -> tuple[int, dict[str, int]]:
    """Clicks of the ledger whose decision in force, as of a position, is not, to the bit, what the model that decided
    them live gives for their sound snapshot, given by click id; but for those that were never counted or have lost
    their place in the order, which are counted by reason.
    """
    judges = redecide.Judges(conn)
    differing, named = 0, Counter[str]()
    for start in range(0, as_of + 1, STEP_POSITIONS):
        by_versions: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
        bounds = (as_of, start, start + STEP_POSITIONS)
        for click_id, *row, model, calibration in conn.execute(SELECT_ALL_IN_FORCE, bounds):
            if row[-1] in EXCUSED:
                named[row[-1]] += 1
            else:
                by_versions.setdefault((model, calibration), []).append((*row, sound[click_id]))
        differing += sum(_differing(rows, *judges.of(versions)) for versions, rows in by_versions.items())
    return differing, dict(named)


def _differing(rows: list[tuple[Any, ...]], judge: models_.Model, thresholds: Mapping[str, float]) -> int:
    slices, scores, limits, verdicts, reasons, snapshots = zip(*rows, strict=True)
    features = feature_spec.unpack_snapshots(snapshots)
    kept = [reason if reason in COUNTING_REASONS else "" for reason in reasons]
    decided = decide.decide(features, slices, kept, judge, thresholds)
    same = np.array([mine == theirs for mine, theirs in zip(decided.verdict, verdicts, strict=True)])
    for mine, theirs in ((decided.score, scores), (decided.threshold, limits)):
        same &= mine.view(np.int32) == np.array(theirs, np.float32).view(np.int32)
    return int((~same).sum())


def _count(conn: database.Connection, query: str, parameters: tuple[Any, ...]) -> int:
    row = conn.execute(query, parameters).fetchone()
    return int(row[0]) if row else 0
