"""Starting a replay: a plan becomes a run, whose chunks workers then take; and doing one all over again."""

from __future__ import annotations

from clickledger import errors
from clickledger.ledger import database, deployments, log, publication, runs
from clickledger.ledger.authority_map import RANGE
from clickledger.recovery import block_ranges, incidents, plans, publishing
from clickledger.recovery.incidents import Status
from clickledger.recovery.plans import Plan, What

SELECT_OF_INCIDENT = """
    SELECT run_id FROM replay_runs WHERE incident_id = %s AND status <> 'abandoned' AND kind = 'range'
    ORDER BY run_id DESC LIMIT 1"""


def start(conn: database.Connection, plan: Plan, actor: str, reason: str, *, chunk_rows: int | None = None) -> runs.Run:
    """Make a plan a run; its incident moves to `replaying` with it, in one transaction.

    Of several who start a replay of one incident, one has it; the others are refused and leave no run behind.
    Completes what version 0.1.0 left half done when it crashed: an incident that waits for its replay and has a run
    gets that one. Raises Refused when the range holds no click or the incident does not wait for a replay.
    """
    number = plan.incident_id
    if number is not None:
        _check_waits(conn, number)
        if (known := run_of_incident(conn, number)) is not None:
            incidents.move(conn, number, Status.REPLAYING, actor, f"run {known.run_id}", run_id=known.run_id)
            return known

    def attach(writer: log.Writer, run_id: int) -> None:
        if number is not None:
            named = sorted(runs.named_models(plan.model_version, plan.routes))
            if gone := [model for model in named if deployments.is_fenced(writer, model)]:
                raise errors.StalePlan(f"model {gone[0]}, which was to decide again, has been rolled back: plan again")
            incidents.move_within(writer, number, Status.REPLAYING, actor, f"run {run_id}", run_id)

    block_ranges.summarise(conn)
    usual = runs.CHUNK_ROWS if plan.mode == runs.RESCORE else runs.RECOUNTED_CHUNK_ROWS
    return runs.plan(
        conn,
        plan.lo,
        plan.hi,
        model_version=plan.model_version,
        calibration_version=plan.calibration_version,
        actor=actor,
        reason=reason,
        mode=plan.mode,
        kind=plan.kind,
        scope=plan.scope,
        routes=plans.routes_of(plan),
        incident_id=number,
        chunk_rows=chunk_rows or usual,
        plan_digest=plan.digest,
        also=attach,
    )


def again(conn: database.Connection, run_id: int, actor: str, reason: str) -> runs.Run:
    """A new run in place of one, for the same range, model and scope; that one is abandoned and its rows stay.

    Raises Refused while it is published, for a sparse run, which was stated and not computed, where its incident takes
    no other run or none can be planned, and where its model was rolled back since; the run stays as it is then.
    """
    run = runs.get(conn, run_id)
    if run.mode not in (runs.RESCORE, runs.RECOMPUTE):
        raise errors.Refused(f"run {run_id} states its decisions: there is nothing to compute again")
    what = What((run.model_version, run.calibration_version), run.scope_filter, run.mode, run.kind, run.routes)
    if run.incident_id is not None and run.kind == RANGE:
        if (incident := incidents.get(conn, run.incident_id)).status is Status.ABANDONED:
            raise errors.Refused(
                f"incident {incident.incident_id} is abandoned: expected one that is open to plan again"
            )
        plan = plans.for_incident(conn, run.incident_id, run.scope_filter)
    else:
        if back := publication.rolled_back(conn.rows, run):
            raise errors.Refused(
                f"model {back[0]}, by which run {run_id} decides, was rolled back since, at position {back[1]}: "
                "plan a run through another one by clickledger replay plan"
            )
        plan = plans.for_positions(conn, run.lo, run.hi, what, f"in place of run {run_id}")
    if run.status == "abandoned":
        return start(conn, plan, actor, reason)
    publishing.abandon(conn, run_id, actor, reason)
    with database.committed(f"run {run_id} is given up"):
        return start(conn, plan, actor, reason)


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
