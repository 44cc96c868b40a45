"""Re-scoring: recorded decisions recomputed from the snapshots they were made on, which must give the same bits.

Live decisions are checked for their route as well: the model and calibration that the deployment's routing gives for
the click's slice and user. What was left undecided because its model or route could not be used has no score to
compare; it must say so and nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from clickledger.ledger import database, deployments
from clickledger.scoring import decide, feature_spec
from clickledger.scoring import model as models_
from clickledger.scoring.deciding import MODEL_UNUSABLE

FAILURES_MAX = 20
FETCH_ROWS = 10_000
# Sparse runs state decisions that no model made alone: there is nothing to compute them from.
STATED = "SELECT run_id FROM replay_runs WHERE kind = 'sparse'"
COUNT_ROWS = f"""
    SELECT (SELECT count(*) FROM decisions),
           (SELECT count(*) FROM delayed_decisions WHERE NOT carried AND run_id NOT IN ({STATED}))"""
SELECT_LIVE = """
    SELECT d.click_id, NULL::bigint, c.slice, c.user_key, c.features, c.feature_schema, d.deployment_epoch,
           d.model_version,
           d.calibration_version, d.score, d.threshold, d.verdict::text, d.reason
    FROM decisions d TABLESAMPLE BERNOULLI (%s) REPEATABLE (%s) JOIN clicks c USING (click_id)"""
SELECT_DELAYED = f"""
    SELECT d.click_id, d.run_id, c.slice, c.user_key, coalesce(f.features, c.features), c.feature_schema,
           d.deployment_epoch, d.model_version,
           d.calibration_version, d.score, d.threshold, d.verdict::text, d.reason
    FROM delayed_decisions d TABLESAMPLE BERNOULLI (%s) REPEATABLE (%s) JOIN clicks c USING (click_id)
    LEFT JOIN run_features f ON f.run_id = d.run_id AND f.click_id = d.click_id
    WHERE NOT d.carried AND d.run_id NOT IN ({STATED})"""
# Reasons that came with the click, from its counting; every other reason must come out of deciding again.
COUNTING_REASONS = frozenset({"late", "future"})


class _Recorded(NamedTuple):
    click_id: Any
    run_id: int | None
    slice: str
    user_key: Any
    features: bytes
    feature_schema: int
    deployment_epoch: int
    model_version: int
    calibration_version: int
    score: float
    threshold: float
    verdict: str
    reason: str


@dataclass
class Rescored:
    """How many decisions were recomputed, how many came out the same to the bit, and the first that did not."""

    rescored: int = 0
    exact: int = 0
    total: int = 0  # decisions there are to choose from
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every recomputed decision is the recorded one."""
        return self.rescored == self.exact


def sample(conn: database.Connection, rows_max: int = 50_000, seed: int = 0) -> Rescored:
    """Recompute about `rows_max` live and delayed decisions (all of them when there are no more), chosen by `seed`."""
    total = sum(conn.execute(COUNT_ROWS).fetchone() or (0, 0))
    percent = 100.0 if total <= rows_max else 100.0 * rows_max / total
    result = Rescored(total=total)
    routings = {e: json.loads(text) for e, text in conn.execute("SELECT epoch, routing FROM deployments")}
    judges: dict[tuple[int, int], tuple[models_.Model | None, dict[str, float]]] = {}
    for query in (SELECT_LIVE, SELECT_DELAYED):
        # It outlives its transaction, which the server would end while a step of it is recomputed for long.
        with conn.cursor(name="rescore", withhold=True) as cursor:
            cursor.execute(query.encode(), (percent, seed))
            while rows := [_Recorded(*row) for row in cursor.fetchmany(FETCH_ROWS)]:
                _check(conn, rows, routings, judges, result)
    return result


def _check(
    conn: database.Connection,
    rows: list[_Recorded],
    routings: dict[int, dict[str, Any]],
    judges: dict[tuple[int, int], tuple[models_.Model | None, dict[str, float]]],
    result: Rescored,
) -> None:
    by_judge: dict[tuple[tuple[int, int], int], list[_Recorded]] = {}
    for row in rows:
        if row.run_id is None and row.reason == MODEL_UNUSABLE:
            _check_unusable(row, result)
            continue
        by_judge.setdefault(((row.model_version, row.calibration_version), row.feature_schema), []).append(row)
    for (pair, _), judged in by_judge.items():
        if pair not in judges:
            judges[pair] = _judge(conn, *pair)
        _compare(judged, *judges[pair], routings, result)


def _check_unusable(row: _Recorded, result: Rescored) -> None:
    left_open = row.verdict == decide.UNDECIDED and np.isnan(row.score) and np.isnan(row.threshold)
    result.rescored += 1
    result.exact += bool(left_open)
    if not left_open and len(result.failures) < FAILURES_MAX:
        result.failures.append(f"click {row.click_id}: {MODEL_UNUSABLE}, but {row.verdict} at {row.score!r}")


def _judge(
    conn: database.Connection, model_version: int, calibration_version: int
) -> tuple[models_.Model | None, dict[str, float]]:
    if model_version == 0:
        return None, {}
    artefact = deployments.load_artefact(conn, model_version)
    return models_.from_artefact(artefact), deployments.load_thresholds(conn, calibration_version)


def _compare(
    rows: list[_Recorded],
    model: models_.Model | None,
    thresholds: dict[str, float],
    routings: dict[int, dict[str, Any]],
    result: Rescored,
) -> None:
    features = feature_spec.unpack_snapshots([bytes(row.features) for row in rows], rows[0].feature_schema)
    reasons = [row.reason if row.reason in COUNTING_REASONS else "" for row in rows]
    decided = decide.decide(features, [row.slice for row in rows], reasons, model, thresholds)
    recorded_bits = np.array([(row.score, row.threshold) for row in rows], np.float32).view(np.uint32)
    bits = np.column_stack([decided.score, decided.threshold]).astype(np.float32).view(np.uint32)
    undecided = np.isnan(decided.score)
    for i, row in enumerate(rows):
        same_bits = bool((bits[i] == recorded_bits[i]).all()) or (bool(undecided[i]) and np.isnan(row.score))
        same = same_bits and (decided.verdict[i], decided.reason[i]) == (row.verdict, row.reason)
        routed = row.run_id is not None or _routed(routings, row)
        result.rescored += 1
        result.exact += same and routed
        if not (same and routed) and len(result.failures) < FAILURES_MAX:
            result.failures.append(_explain(row, decided, i, routed))


def _routed(routings: dict[int, dict[str, Any]], row: _Recorded) -> bool:
    routing = routings[row.deployment_epoch]
    recorded = (row.model_version, row.calibration_version)
    if not routing["routes"]:
        return recorded == (0, 0)
    return decide.route(routing, [row.slice], [row.user_key.bytes])[0] == recorded


def _explain(row: _Recorded, decided: decide.Decided, i: int, routed: bool) -> str:
    which = "live decision" if row.run_id is None else f"decision of run {row.run_id}"
    if not routed:
        return f"click {row.click_id}: epoch {row.deployment_epoch} does not route it to model {row.model_version}"
    expected = f"{row.verdict} at {row.score!r} against {row.threshold!r}"
    return f"click {row.click_id}, {which}: recorded {expected}, got {decided.verdict[i]} at {decided.score[i]!r}"
