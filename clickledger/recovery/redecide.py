"""Deciding recorded clicks again: snapshots out of the ledger, through `decide`, into canonical rows.

Invariants:
- what decides is `scoring.decide`, which decides live clicks too, on the snapshot that was recorded: Redis is not read;
- every click of the range gives one row, in (log_position, line) order;
- what a run may not or cannot decide is carried: the authoritative decision in force, marked.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clickledger import errors
from clickledger.ledger import authority, database, delayed, deployments
from clickledger.ledger.runs import Run
from clickledger.scoring import decide, feature_spec
from clickledger.scoring import model as models_
from clickledger.scoring.rescore import COUNTING_REASONS

UNKNOWN_SCHEMA = "unknown_feature_schema"
SCOPE_SLICES, SCOPE_ADVERTISERS = "slices", "advertisers"  # what a run may be limited to
SELECT_CLICKS = """
    SELECT uuid_send(d.click_id), d.log_position, d.line, d.cost_micros, d.deployment_epoch, d.advertiser_id,
           d.campaign_id, d.currency, d.slice, d.reason, c.features, c.feature_schema
    FROM decisions d JOIN clicks c ON c.click_id = d.click_id
    WHERE d.log_position >= {lo} AND d.log_position < {hi} AND c.log_position >= {lo} AND c.log_position < {hi}
    ORDER BY d.log_position, d.line"""
SELECT_IN_FORCE = """
    SELECT uuid_send(click_id), model_version, calibration_version, score, threshold, verdict::text, reason
    FROM ({rows}) in_force"""


class Judge(NamedTuple):
    """A model with the thresholds of a run."""

    model: models_.Model
    thresholds: Mapping[str, float]


@dataclass(frozen=True)
class Clicks:
    """n recorded clicks as columns, in (log_position, line) order; `reason` is that of the live decision."""

    click_id: Sequence[bytes]
    log_position: Sequence[int]
    line: Sequence[int]
    cost_micros: Sequence[int]
    deployment_epoch: Sequence[int]
    advertiser_id: Sequence[str]
    campaign_id: Sequence[str]
    currency: Sequence[str]
    slice: Sequence[str]
    reason: Sequence[str]
    features: Sequence[bytes]
    feature_schema: Sequence[int]

    def __len__(self) -> int:
        return len(self.click_id)


@dataclass
class Decisions:
    """n decisions as columns."""

    model_version: npt.NDArray[np.int32]
    calibration_version: npt.NDArray[np.int32]
    score: npt.NDArray[np.float32]
    threshold: npt.NDArray[np.float32]
    verdict: list[str]
    reason: list[str]
    carried: npt.NDArray[np.uint8]


def judge_of(conn: database.Connection, model_version: int, calibration_version: int) -> Judge:
    """A registered model, ready to score. Raises NotFound, or InvalidInput when it cannot be used here."""
    model = models_.from_artefact(deployments.load_artefact(conn, model_version))
    return Judge(model, deployments.load_thresholds(conn, calibration_version))


def rows(conn: database.Connection, run: Run, lo: int, hi: int, judge: Judge) -> list[bytes]:
    """The canonical rows of a run for the clicks of positions [lo, hi)."""
    clicks = read(conn, lo, hi)
    return encode(run.run_id, clicks, decisions(conn, run, lo, hi, clicks, judge)) if len(clicks) else []


def read(conn: database.Connection, lo: int, hi: int) -> Clicks:
    """The clicks of positions [lo, hi) with what their live decisions say."""
    query = SELECT_CLICKS.format(lo=int(lo), hi=int(hi)).encode()
    with conn.cursor(binary=True) as cursor:
        found = cursor.execute(query, prepare=False).fetchall()
    columns = zip(*found, strict=True) if found else [()] * len(fields(Clicks))
    return Clicks(*columns)


def decisions(conn: database.Connection, run: Run, lo: int, hi: int, clicks: Clicks, judge: Judge) -> Decisions:
    """Decide what is in the run's scope and can be decided; carry the rest."""
    decided = decide_again(run, clicks, judge)
    if decided.carried.any():
        _carry(conn, lo, hi, clicks, decided)
    return decided


def decide_again(run: Run, clicks: Clicks, judge: Judge) -> Decisions:
    """Pure: the run's decisions of n clicks, those it may not or cannot decide only marked `carried`.

    A click that was not counted has no snapshot to decide on, and stays undecided for the reason it had.
    """
    n = len(clicks)
    known = np.array(clicks.feature_schema) == judge.model.feature_schema
    own = np.flatnonzero(known & _in_scope(run, clicks))
    made = Decisions(
        model_version=np.full(n, run.model_version, np.int32),
        calibration_version=np.full(n, run.calibration_version, np.int32),
        score=np.full(n, np.nan, np.float32),
        threshold=np.full(n, np.nan, np.float32),
        verdict=[decide.UNDECIDED] * n,
        reason=["" if is_known else UNKNOWN_SCHEMA for is_known in known],
        carried=np.ones(n, np.uint8),
    )
    rows_ = own.tolist()
    reasons = [clicks.reason[i] if clicks.reason[i] in COUNTING_REASONS else "" for i in rows_]
    features = feature_spec.unpack_snapshots([clicks.features[i] for i in rows_], judge.model.feature_schema)
    slices = [clicks.slice[i] for i in rows_]
    decided = decide.decide(features, slices, reasons, judge.model, judge.thresholds)
    made.score[own], made.threshold[own], made.carried[own] = decided.score, decided.threshold, 0
    for i, verdict, reason in zip(rows_, decided.verdict, decided.reason, strict=True):
        made.verdict[i], made.reason[i] = verdict, reason
    return made


def _in_scope(run: Run, clicks: Clicks) -> npt.NDArray[np.bool_]:
    """Which clicks (n,) the run re-decides: those of its slices and of its advertisers, where it names any."""
    columns = {SCOPE_SLICES: clicks.slice, SCOPE_ADVERTISERS: clicks.advertiser_id}
    inside = np.ones(len(clicks), dtype=np.bool_)
    for name, wanted in run.scope_filter.items():
        if name not in columns:
            raise errors.InvalidInput(f"run {run.run_id}: expected a scope of {sorted(columns)}, got {name!r}")
        inside &= np.array([value in set(wanted) for value in columns[name]])
    return inside


def _carry(conn: database.Connection, lo: int, hi: int, clicks: Clicks, decided: Decisions) -> None:
    """Put the decisions in force where the run has none of its own."""
    in_force = authority.rows_between(authority.in_force(conn), lo, hi)
    with conn.cursor(binary=True) as cursor:
        found = cursor.execute(SELECT_IN_FORCE.format(rows=in_force).encode(), prepare=False).fetchall()
    by_click = {row[0]: row[1:] for row in found}
    for i in np.flatnonzero(decided.carried).tolist():
        kept = by_click.get(clicks.click_id[i])
        if kept is None:
            raise errors.InvariantBroken(f"click {uuid.UUID(bytes=clicks.click_id[i])} has no decision in force")
        decided.model_version[i], decided.calibration_version[i] = kept[0], kept[1]
        decided.score[i], decided.threshold[i], decided.verdict[i] = kept[2], kept[3], kept[4]
        decided.reason[i] = kept[5] or decided.reason[i]


def encode(run_id: int, clicks: Clicks, decided: Decisions) -> list[bytes]:
    """n canonical rows: PostgreSQL's binary wire form of `canonical.DELAYED_COLUMNS`."""
    own = ("click_id", "log_position", "line", "cost_micros", "deployment_epoch")
    columns = {name: getattr(clicks, name) for name in (*own, "advertiser_id", "campaign_id", "currency", "slice")}
    again = ("model_version", "calibration_version", "score", "threshold", "carried", "verdict", "reason")
    return delayed.encode(run_id, columns | {name: getattr(decided, name) for name in again})
