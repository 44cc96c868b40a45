"""Deciding recorded clicks again: snapshots out of the ledger, through `decide`, into canonical rows.

Invariants:
- what decides is `scoring.decide`, which decides live clicks too, on the snapshot that was recorded, or in mode
  `recompute` on the one that the log gives (`recounting`): Redis is not read;
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
from clickledger.ledger import authority, database, delayed, deployments, run_features, runs
from clickledger.ledger.runs import Run
from clickledger.recovery import recounting
from clickledger.scoring import decide, feature_spec
from clickledger.scoring import model as models_
from clickledger.scoring.deciding import MODEL_UNUSABLE
from clickledger.scoring.rescore import COUNTING_REASONS

UNKNOWN_SCHEMA = "unknown_feature_schema"
SHORT_SNAPSHOT = "snapshot_without_facts"  # recorded when no table of facts was in force, and the model reads them
SCOPES = SCOPE_SLICES, SCOPE_ADVERTISERS, SCOPE_DEPLOYMENTS = "slices", "advertisers", "deployments"  # of a run
NO_MODEL = 0  # a click that came before any was deployed
Versions = tuple[int, int]  # of a model and a calibration
SELECT_CLICKS = """
    SELECT uuid_send(d.click_id), d.log_position, d.line, d.cost_micros, d.deployment_epoch, d.advertiser_id,
           d.campaign_id, d.currency, d.slice, d.reason, c.features, c.feature_schema
    FROM decisions d JOIN clicks c ON c.click_id = d.click_id
    WHERE d.log_position >= {lo} AND d.log_position < {hi} AND c.log_position >= {lo} AND c.log_position < {hi}
    ORDER BY d.log_position, d.line"""
SELECT_LIVE_VERSIONS = """
    SELECT uuid_send(click_id), model_version, calibration_version FROM decisions
    WHERE log_position >= {lo} AND log_position < {hi}"""
SELECT_IN_FORCE = """
    SELECT uuid_send(click_id), model_version, calibration_version, score, threshold, verdict::text, reason
    FROM ({rows}) in_force"""
VERDICT = 4  # its place in a row of that, behind the click's id


class Judge(NamedTuple):
    """A model with the thresholds of a run."""

    model: models_.Model
    thresholds: Mapping[str, float]


class Judges:
    """Registered models with their thresholds, each loaded when it is first needed."""

    def __init__(self, conn: database.Connection) -> None:
        self._conn = conn
        self._loaded: dict[Versions, Judge] = {}

    def of(self, versions: Versions) -> Judge:
        """Raises NotFound, or InvalidInput when the model cannot be used here."""
        if versions not in self._loaded:
            model = models_.from_artefact(deployments.load_artefact(self._conn, versions[0]))
            self._loaded[versions] = Judge(model, deployments.load_thresholds(self._conn, versions[1]))
        return self._loaded[versions]

    def able(self, versions: Versions) -> bool:
        """Whether a model can be used here, with its thresholds."""
        try:
            decide.threshold_of(self.of(versions).thresholds, decide.ANY_SLICE)
        except (errors.InvalidInput, errors.NotFound):
            return False
        return True


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
    features: dict[int, bytes]  # of rows that were decided on another snapshot than the recorded one


class Rows(NamedTuple):
    """Canonical rows of a run: decisions, and the snapshots that are not the recorded ones (see `run_features`)."""

    decisions: list[bytes]
    features: list[bytes]


def rows(conn: database.Connection, run: Run, lo: int, hi: int, judges: Judges) -> Rows:
    """The canonical rows of a run for the clicks of positions [lo, hi), both kinds in (log_position, line) order."""
    clicks = read(conn, lo, hi)
    if not len(clicks):
        return Rows([], [])
    decided = decisions(conn, run, lo, hi, clicks, judges)
    return Rows(encode(run.run_id, clicks, decided), _changed_features(run.run_id, clicks, decided))


def read(conn: database.Connection, lo: int, hi: int) -> Clicks:
    """The clicks of positions [lo, hi) with what their live decisions say."""
    query = SELECT_CLICKS.format(lo=int(lo), hi=int(hi)).encode()
    with conn.cursor(binary=True) as cursor:
        found = cursor.execute(query, prepare=False).fetchall()
    columns = zip(*found, strict=True) if found else [()] * len(fields(Clicks))
    return Clicks(*columns)


def decisions(conn: database.Connection, run: Run, lo: int, hi: int, clicks: Clicks, judges: Judges) -> Decisions:
    """Decide what is in the run's scope and can be decided; carry the rest.

    Raises Refused when the days that a snapshot depends on are not in the ledger any more.
    """
    wanted = np.flatnonzero(_in_scope(run, clicks)).tolist()
    snapshots: dict[int, bytes] = {}
    lost: set[int] = set()
    if run.mode == runs.RECOMPUTE:
        again = recounting.recount(conn, lo, hi, [clicks.click_id[i] for i in wanted])
        for i in wanted:
            if (counted := again.snapshots.get(clicks.click_id[i])) is not None:
                snapshots[i] = feature_spec.with_facts_of(counted, clicks.features[i])
        lost = {i for i in wanted if clicks.click_id[i] in again.order_lost}
    versions = _versions(conn, run, lo, hi, clicks, judges)
    decided = decide_again(clicks, [i for i in wanted if i not in lost], versions, snapshots, judges)
    for i in lost:
        decided.reason[i] = recounting.ORDER_LOST
    uncounted = [i for i in wanted if clicks.reason[i] in COUNTING_REASONS]
    if decided.carried.any() or uncounted:
        _carry(conn, lo, hi, clicks, decided, uncounted)
    return decided


def _versions(conn: database.Connection, run: Run, lo: int, hi: int, clicks: Clicks, judges: Judges) -> list[Versions]:
    """By which model and calibration each click is decided: the run's, its slice's, or those that decided it live.

    Those that could not be used live, and cannot now, decide nothing.
    """
    if run.model_version != runs.OWN:
        return [(run.model_version, run.calibration_version)] * len(clicks)
    if (routes := run.routes) is not None:
        return [routes.get(slice_, routes[runs.ANY_SLICE]) for slice_ in clicks.slice]
    query = SELECT_LIVE_VERSIONS.format(lo=int(lo), hi=int(hi)).encode()
    with conn.cursor(binary=True) as cursor:
        found = {row[0]: (row[1], row[2]) for row in cursor.execute(query, prepare=False)}
    own = [found[click_id] for click_id in clicks.click_id]
    left_open = {pair for pair, why in zip(own, clicks.reason, strict=True) if why == MODEL_UNUSABLE}
    unusable = {pair for pair in left_open if pair[0] != NO_MODEL and not judges.able(pair)}
    return [(NO_MODEL, NO_MODEL) if pair in unusable else pair for pair in own]


def decide_again(
    clicks: Clicks, wanted: Sequence[int], versions: Sequence[Versions], snapshots: Mapping[int, bytes], judges: Judges
) -> Decisions:
    """The decisions of those of n clicks that are wanted and can be decided; the others are only marked `carried`.

    `snapshots` go over the recorded ones. A click that was not counted has none to decide on, and stays undecided for
    the reason it had.
    """
    n = len(clicks)
    made = Decisions(
        model_version=np.array([model for model, _ in versions], np.int32),
        calibration_version=np.array([calibration for _, calibration in versions], np.int32),
        score=np.full(n, np.nan, np.float32),
        threshold=np.full(n, np.nan, np.float32),
        verdict=[decide.UNDECIDED] * n,
        reason=[""] * n,
        carried=np.ones(n, np.uint8),
        features={i: snapshot for i, snapshot in snapshots.items() if snapshot != clicks.features[i]},
    )
    for pair in sorted(set(versions)):
        rows_ = [i for i in wanted if versions[i] == pair]
        if pair[0] != NO_MODEL:  # what no model decided live stays undecided until one is named
            _judge(clicks, rows_, snapshots, judges.of(pair), made)
    for i, schema in enumerate(clicks.feature_schema):
        if made.carried[i] and schema not in feature_spec.SCHEMAS:
            made.reason[i] = UNKNOWN_SCHEMA
    return made


def _judge(
    clicks: Clicks, wanted: Sequence[int], snapshots: Mapping[int, bytes], judge: Judge, made: Decisions
) -> None:
    """Put the decisions of one model in place, for those clicks whose snapshots it reads."""
    schema = judge.model.feature_schema
    rows_ = [i for i in wanted if feature_spec.feeds(clicks.feature_schema[i], schema)]
    for i in set(wanted).difference(rows_):
        made.reason[i] = SHORT_SNAPSHOT
    reasons = [clicks.reason[i] if clicks.reason[i] in COUNTING_REASONS else "" for i in rows_]
    cut = [
        feature_spec.cut_snapshot(snapshots.get(i, clicks.features[i]), clicks.feature_schema[i], schema) for i in rows_
    ]
    features = feature_spec.unpack_snapshots(cut, schema)
    decided = decide.decide(features, [clicks.slice[i] for i in rows_], reasons, judge.model, judge.thresholds)
    made.score[rows_], made.threshold[rows_], made.carried[rows_] = decided.score, decided.threshold, 0
    for i, verdict, reason in zip(rows_, decided.verdict, decided.reason, strict=True):
        made.verdict[i], made.reason[i] = verdict, reason


def _in_scope(run: Run, clicks: Clicks) -> npt.NDArray[np.bool_]:
    """Which clicks (n,) the run re-decides: those of its slices and of its advertisers, where it names any."""
    columns: dict[str, Sequence[object]] = {
        SCOPE_SLICES: clicks.slice,
        SCOPE_ADVERTISERS: clicks.advertiser_id,
        SCOPE_DEPLOYMENTS: clicks.deployment_epoch,
    }
    inside = np.ones(len(clicks), dtype=np.bool_)
    for name, wanted in run.scope_filter.items():
        if name not in columns:
            raise errors.InvalidInput(f"run {run.run_id}: expected a scope of {sorted(columns)}, got {name!r}")
        chosen = set(wanted)
        inside &= np.array([str(value) in chosen for value in columns[name]])
    return inside


def _carry(
    conn: database.Connection, lo: int, hi: int, clicks: Clicks, decided: Decisions, uncounted: Sequence[int]
) -> None:
    """Put the decisions in force where the run has none of its own.

    Clicks that were not counted have nothing to be decided on: what is in force of them stays, undecided or resolved
    since, and a run that carries them is planned anew where they are resolved before it is published.
    """
    in_force = authority.rows_between(authority.in_force(conn), lo, hi)
    with conn.cursor(binary=True) as cursor:
        found = cursor.execute(SELECT_IN_FORCE.format(rows=in_force).encode(), prepare=False).fetchall()
    by_click = {row[0]: row[1:] for row in found}
    for i in uncounted:
        if clicks.click_id[i] in by_click:
            decided.carried[i] = 1
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


def _changed_features(run_id: int, clicks: Clicks, decided: Decisions) -> list[bytes]:
    """Canonical rows of the snapshots that were decided on and are not the recorded ones."""
    changed = sorted(i for i in decided.features if not decided.carried[i])
    columns = {name: [getattr(clicks, name)[i] for i in changed] for name in ("click_id", "log_position", "line")}
    return run_features.encode(run_id, columns, [decided.features[i] for i in changed])
