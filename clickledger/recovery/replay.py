"""Planning a replay: which positions, through which model, what it would change, what it cannot, how long it takes.

Nothing is written before `start`. A plan is named by its digest, which covers the content of its range: what `start` is
given by that name is what was looked at.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from clickledger import errors
from clickledger.ledger import authority, authority_map, canonical, database, deployments, log, runs
from clickledger.recovery import block_ranges, incidents, redecide, rollback, sampling
from clickledger.recovery.incidents import Status
from clickledger.recovery.sampling import Estimate
from clickledger.scoring import decide, rescore

SAMPLE_UNITS, SAMPLE_UNIT_CLICKS = 40, 500  # runs of neighbouring batches: reading one costs little more than one batch
Scope = dict[str, list[str]]

COUNT_UNDECIDABLE = """
    SELECT feature_schema, count(*) FROM clicks
    WHERE log_position >= {lo} AND log_position < {hi} AND feature_schema <> {schema} GROUP BY 1 ORDER BY 1"""
COUNT_UNCOUNTED = """
    SELECT reason, count(*) FROM decisions
    WHERE log_position >= {lo} AND log_position < {hi} AND verdict = 'undecided' AND reason = ANY (%s)
    GROUP BY 1 ORDER BY 1"""
SELECT_OF_INCIDENT = """
    SELECT run_id FROM replay_runs WHERE incident_id = %s AND status <> 'abandoned' AND kind = 'range'
    ORDER BY run_id DESC LIMIT 1"""


@dataclass(frozen=True)
class Plan:
    """A replay of log positions [lo, hi) through a model and calibration, limited to `scope` ({} = all)."""

    lo: int
    hi: int
    model_version: int
    calibration_version: int
    scope: Scope
    incident_id: int | None
    last_chain_hash: bytes  # of the entry at hi - 1: pins the content of the whole range

    @property
    def digest(self) -> str:
        """The name of the plan, 64 hexadecimal digits."""
        fields = {
            "positions": [self.lo, self.hi],
            "model_version": self.model_version,
            "calibration_version": self.calibration_version,
            "scope": self.scope,
            "incident_id": self.incident_id,
            "last_chain_hash": self.last_chain_hash.hex(),
        }
        return hashlib.sha256(b"clickledger:plan:1" + canonical.canonical_json(fields).encode()).hexdigest()


@dataclass(frozen=True)
class Preview:
    """What a plan would do: clicks in its range, an estimate from a sample, and what stays as it is."""

    clicks: int
    estimate: Estimate
    seconds: float  # with the given number of workers
    not_replayed: dict[str, int] = field(default_factory=dict)  # reason -> clicks


def for_incident(conn: database.Connection, incident_id: int, scope: Scope | None = None) -> Plan:
    """Everything decided while the incident's model was live, through the stable model that replaced it, or would.

    Raises NotFound, or Refused when there is no stable model.
    """
    incident = incidents.get(conn, incident_id)
    if (range_ := deployments.model_positions(conn, incident.model_version)) is None:
        raise errors.InvariantBroken(f"incident {incident_id}: model {incident.model_version} was never deployed")
    current = deployments.current(conn)
    if incident.model_version in deployments.models_of(current.routing):
        stable = rollback.choose(conn, incident.model_version)
        return _plan(conn, *range_, stable.model_version, stable.calibration_version, scope, incident_id)
    return _plan(conn, *range_, *rollback.main_route(current.routing), scope, incident_id)


def for_positions(
    conn: database.Connection,
    lo: int,
    hi: int,
    model_version: int,
    calibration_version: int,
    scope: Scope | None = None,
) -> Plan:
    """An explicit range through an explicit model. Raises InvalidInput when the range is not below the head."""
    return _plan(conn, lo, hi, model_version, calibration_version, scope, None)


def _plan(
    conn: database.Connection,
    lo: int,
    hi: int,
    model_version: int,
    calibration_version: int,
    scope: Scope | None,
    incident_id: int | None,
) -> Plan:
    head = log.head(conn).position
    if not 1 <= lo < hi <= head + 1:
        raise errors.InvalidInput(f"positions: expected a range within [1, {head + 1}), got [{lo}, {hi})")
    allowed = {redecide.SCOPE_SLICES, redecide.SCOPE_ADVERTISERS}
    if unknown := (scope or {}).keys() - allowed:
        raise errors.InvalidInput(f"scope: expected {sorted(allowed)}, got {sorted(unknown)}")
    last = log.entry(conn, hi - 1)
    return Plan(lo, hi, model_version, calibration_version, scope or {}, incident_id, last.chain_hash)


def preview(conn: database.Connection, plan: Plan, workers: int = 1, seed: int = 0) -> Preview:
    """What the plan would change, estimated from parts of its range chosen at random. Writes nothing.

    Raises Refused when the range holds no click.
    """
    units = runs.cut(runs.batches(conn, plan.lo, plan.hi), plan.lo, plan.hi, SAMPLE_UNIT_CLICKS)
    if not units:
        raise errors.Refused(f"positions [{plan.lo}, {plan.hi}) hold no click: nothing to replay")
    clicks = sum(unit.row_count for unit in units)
    block_ranges.summarise(conn)
    judge = redecide.judge_of(conn, plan.model_version, plan.calibration_version)
    chosen = random.Random(seed).sample(units, min(len(units), SAMPLE_UNITS))
    began = time.perf_counter()
    sampled = _sample(conn, plan, chosen, judge)
    elapsed = time.perf_counter() - began
    estimate = sampling.estimate(sampled, len(units), clicks)
    # Reading many small parts costs what writing adds to whole chunks (measured: 73k and 79k clicks/s).
    seconds = elapsed / estimate.sampled_clicks * clicks / workers
    return Preview(clicks, estimate, seconds, _not_replayed(conn, plan, judge))


def _sample(
    conn: database.Connection, plan: Plan, units: Sequence[runs.Chunk], judge: redecide.Judge
) -> list[sampling.Unit]:
    run = _as_run(plan)
    pieces = authority.in_force(conn)
    found = []
    for lo, hi, _ in units:
        clicks = redecide.read(conn, lo, hi)
        decided = redecide.decisions(conn, run, lo, hi, clicks, judge)
        before = _verdicts_in_force(conn, pieces, lo, hi)
        found.append(sampling.changes(clicks, decided.verdict, [before[click] for click in clicks.click_id]))
    return found


def _as_run(plan: Plan) -> runs.Run:
    """The run the plan would become, for deciding only."""
    scope = canonical.canonical_json(plan.scope)
    versions = (plan.model_version, plan.calibration_version)
    return runs.Run(0, plan.lo, plan.hi, "rescore", *versions, scope, 0, plan.incident_id, "planned", None)


def _verdicts_in_force(
    conn: database.Connection, pieces: list[authority_map.Piece], lo: int, hi: int
) -> dict[bytes, str]:
    query = authority.rows_between(pieces, lo, hi, "uuid_send(click_id), verdict::text")
    with conn.cursor(binary=True) as cursor:
        return {row[0]: row[1] for row in cursor.execute(query.encode(), prepare=False)}


def _not_replayed(conn: database.Connection, plan: Plan, judge: redecide.Judge) -> dict[str, int]:
    bounds = {"lo": int(plan.lo), "hi": int(plan.hi), "schema": int(judge.model.feature_schema)}
    by_schema = conn.execute(COUNT_UNDECIDABLE.format(**bounds).encode()).fetchall()
    counting = list(rescore.COUNTING_REASONS)
    uncounted = conn.execute(COUNT_UNCOUNTED.format(**bounds).encode(), (counting,)).fetchall()
    schemas = {f"{redecide.UNKNOWN_SCHEMA} {schema}": count for schema, count in by_schema}
    return schemas | {f"{decide.UNDECIDED}: {reason}": count for reason, count in uncounted}


def start(
    conn: database.Connection,
    plan: Plan,
    actor: str,
    reason: str,
    *,
    digest: str | None = None,
    chunk_rows: int = runs.CHUNK_ROWS,
) -> runs.Run:
    """Make a plan a run, whose chunks workers then take; its incident moves to `replaying`.

    Completes what a crash in between left half done: an incident that waits for its replay and has a run gets that one.
    Raises StalePlan when `digest` names another plan, Refused when the range holds no click or the incident does not
    wait for a replay.
    """
    if digest is not None and digest != plan.digest:
        raise errors.StalePlan(f"expected plan {plan.digest}, got {digest}: plan again")
    if plan.incident_id is not None:
        _check_waits(conn, plan.incident_id)
        if (known := run_of_incident(conn, plan.incident_id)) is not None:
            return _attach(conn, plan.incident_id, known, actor)
    block_ranges.summarise(conn)
    run = runs.plan(
        conn,
        plan.lo,
        plan.hi,
        model_version=plan.model_version,
        calibration_version=plan.calibration_version,
        actor=actor,
        reason=reason,
        scope=plan.scope,
        incident_id=plan.incident_id,
        chunk_rows=chunk_rows,
    )
    return run if plan.incident_id is None else _attach(conn, plan.incident_id, run, actor)


def run_of_incident(conn: database.Connection, incident_id: int) -> runs.Run | None:
    """The newest run of an incident that was not abandoned."""
    row = conn.execute(SELECT_OF_INCIDENT, (incident_id,)).fetchone()
    return None if row is None else runs.get(conn, int(row[0]))


def _check_waits(conn: database.Connection, incident_id: int) -> None:
    incident = incidents.get(conn, incident_id)
    if incident.status is not Status.ROLLED_BACK:
        run = f" (run {incident.run_id})" if incident.run_id else ""
        wanted = Status.ROLLED_BACK.value
        raise errors.Refused(f"incident {incident_id} is {incident.status.value}{run}: expected {wanted} to replay")


def _attach(conn: database.Connection, incident_id: int, run: runs.Run, actor: str) -> runs.Run:
    incidents.move(conn, incident_id, Status.REPLAYING, actor, f"run {run.run_id}", run_id=run.run_id)
    return run
