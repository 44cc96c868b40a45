"""Incidents: what is wrong with a deployment and how far putting it right has come.

Invariants:
- every step is an entry of the log and the row that caches it, in one transaction;
- a deployment epoch has one open incident at most;
- an incident moves along `Status.following` only; notes and acknowledgements move nothing.

Several may be open at once, of different epochs: each is rolled back, replayed and published by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from clickledger import errors
from clickledger.ledger import database, deployments, log

RAISED, MOVED, NOTED, ACKNOWLEDGED = "anomaly_raised", "incident_moved", "incident_noted", "incident_acknowledged"
PROPOSED, PUBLICATION_PROPOSED = "rollback_proposed", "publication_proposed"
BY_HAND = "by hand"
OWN = (  # they name their incident
    MOVED,
    NOTED,
    ACKNOWLEDGED,
    PROPOSED,
    PUBLICATION_PROPOSED,
    "rollback_declared",
    "replay_planned",
)
OF_RUNS = (
    "replay_paused",
    "replay_resumed",
    "replay_staged",
    "replay_compared",
    "replay_published",
    "replay_reverted",
    "replay_abandoned",
)
SELECT_INCIDENT = """
    SELECT incident_id, status, deployment_epoch, model_version, run_id, updated_position
    FROM incidents WHERE incident_id = %s"""
SELECT_INCIDENTS = """
    SELECT incident_id, status, deployment_epoch, model_version, run_id, updated_position
    FROM incidents WHERE %s::integer IS NULL OR deployment_epoch = %s ORDER BY incident_id"""
SELECT_UNSETTLED = """
    SELECT incident_id, status, deployment_epoch, model_version, run_id, updated_position FROM incidents i
    WHERE status = ANY (%s) OR (status = %s AND NOT EXISTS (
        SELECT FROM publications p WHERE p.run_id = i.run_id AND p.reverted_position IS NULL))
    ORDER BY incident_id"""
SELECT_STATUSES = "SELECT status FROM incidents WHERE deployment_epoch = %s"
SELECT_RAISED = "SELECT min(incident_id) FROM incidents WHERE status = %s"
INSERT_INCIDENT = "INSERT INTO incidents VALUES (%s, %s, %s, %s, NULL, %s)"
UPDATE_INCIDENT = """
    UPDATE incidents SET status = %s, run_id = coalesce(%s, run_id), updated_position = %s WHERE incident_id = %s"""


class Status(Enum):
    """Where an incident stands; `following` says where it may go from there."""

    RAISED = "raised"
    ROLLED_BACK = "rolled_back"
    REPLAYING = "replaying"
    COMPARED = "compared"
    PUBLISHED = "published"
    ABANDONED = "abandoned"

    @property
    def following(self) -> frozenset[Status]:
        """The statuses an incident may move to from this one."""
        return _FOLLOWING[self]

    @property
    def open(self) -> bool:
        """Whether something remains to be done."""
        return self not in {Status.PUBLISHED, Status.ABANDONED}


_FOLLOWING = {
    Status.RAISED: frozenset({Status.ROLLED_BACK, Status.ABANDONED}),
    Status.ROLLED_BACK: frozenset({Status.REPLAYING, Status.ABANDONED}),
    Status.REPLAYING: frozenset({Status.COMPARED, Status.ROLLED_BACK, Status.ABANDONED}),  # back: its run was abandoned
    Status.COMPARED: frozenset({Status.PUBLISHED, Status.ROLLED_BACK, Status.ABANDONED}),
    Status.PUBLISHED: frozenset({Status.COMPARED}),  # reverted: it may be published again
    Status.ABANDONED: frozenset(),
}
OPEN = [status.value for status in Status if status.open]


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident; `incident_id` is the position of its `anomaly_raised` entry."""

    incident_id: int
    status: Status
    deployment_epoch: int
    model_version: int
    run_id: int | None
    updated_position: int


def raise_incident(
    conn: database.Connection,
    deployment_epoch: int,
    model_version: int,
    evidence: Mapping[str, Any],
    actor: str,
    reason: str = "",
) -> Incident | None:
    """Raise an incident for an epoch with its evidence; None when the epoch has an open one already."""
    with log.writing(conn) as writer:
        if any(Status(row[0]).open for row in writer.execute(SELECT_STATUSES, (deployment_epoch,))):
            return None
        payload = {"deployment_epoch": deployment_epoch, "model_version": model_version, **evidence}
        raised = writer.record("anomaly_raised", payload, actor, reason).position
        writer.execute(INSERT_INCIDENT, (raised, Status.RAISED.value, deployment_epoch, model_version, raised))
    with database.committed(f"incident {raised} is raised"):
        return get(conn, raised)


def raise_by_hand(conn: database.Connection, model_version: int | None, actor: str, reason: str) -> Incident:
    """Raise an incident of a model of the deployment in force, on somebody's word.

    Raises Refused when the model is not live, none is named of several, or the epoch has an open incident.
    """
    deployment = deployments.current(conn)
    live = deployments.models_of(deployment.routing)
    if (model_version is None and len(live) != 1) or (model_version is not None and model_version not in live):
        named = "none" if model_version is None else str(model_version)
        raise errors.Refused(f"model: expected one of {sorted(live)}, live in epoch {deployment.epoch}, got {named}")
    model = min(live) if model_version is None else model_version
    evidence = {
        "onset": deployment.position,
        "signals": [BY_HAND],
        "affected": [deployment.position, log.head(conn).position + 1],
    }
    raised = raise_incident(conn, deployment.epoch, model, evidence, actor, reason)
    if raised is None:
        raise errors.Refused(f"epoch {deployment.epoch} has an open incident: clickledger incident list")
    return raised


def move(
    conn: database.Connection, incident_id: int, status: Status, actor: str, reason: str = "", run_id: int | None = None
) -> Incident:
    """Move an incident on. Raises NotFound, or Refused when it may not go there from where it stands."""
    with log.writing(conn) as writer:
        move_within(writer, incident_id, status, actor, reason, run_id)
    with database.committed(f"incident {incident_id} is {status.value}"):
        return get(conn, incident_id)


def move_within(
    writer: log.Writer, incident_id: int, status: Status, actor: str, reason: str = "", run_id: int | None = None
) -> None:
    """Move an incident on in a transaction that does something else as well. Raises like `move`."""
    found = writer.execute(SELECT_INCIDENT, (incident_id,))
    if not found:
        raise errors.NotFound(f"no incident {incident_id}")
    check_may_move(_incident(found[0]), status)
    payload: dict[str, Any] = {"incident_id": incident_id, "status": status.value}
    if run_id is not None:
        payload["run_id"] = run_id
    entry = writer.record("incident_moved", payload, actor, reason)
    writer.execute(UPDATE_INCIDENT, (status.value, run_id, entry.position, incident_id))


def check_may_move(incident: Incident, status: Status) -> None:
    """Raise Refused unless an incident may move to `status` from where it stands."""
    if status not in incident.status.following:
        allowed = ", ".join(sorted(s.value for s in incident.status.following)) or "nothing"
        stands = f"incident {incident.incident_id} is {incident.status.value}"
        raise errors.Refused(f"{stands}: it cannot become {status.value} now (what may follow: {allowed})")


def get(conn: database.Connection, incident_id: int) -> Incident:
    """An incident by its id. Raises NotFound."""
    row = conn.execute(SELECT_INCIDENT, (incident_id,)).fetchone()
    if row is None:
        raise errors.NotFound(f"no incident {incident_id}")
    return _incident(row)


def listed(conn: database.Connection, deployment_epoch: int | None = None) -> list[Incident]:
    """All incidents, or those of one deployment epoch, in the order they were raised."""
    return [_incident(row) for row in conn.execute(SELECT_INCIDENTS, (deployment_epoch, deployment_epoch))]


def unsettled(conn: database.Connection) -> list[Incident]:
    """The open incidents, and the published ones whose publication was reverted since."""
    return [_incident(row) for row in conn.execute(SELECT_UNSETTLED, (OPEN, Status.PUBLISHED.value))]


def note(conn: database.Connection, incident_id: int, text: str, actor: str) -> log.Entry:
    """Write something down with an incident; it moves nothing. Raises NotFound, InvalidInput for an empty note."""
    if not text.strip():
        raise errors.InvalidInput("note: expected a text, got an empty one")
    get(conn, incident_id)
    return log.record(conn, "incident_noted", {"incident_id": incident_id}, actor, text)


def acknowledge(conn: database.Connection, incident_id: int, actor: str, reason: str = "") -> log.Entry:
    """Say that somebody is at an open incident; whoever does so later has it. Raises NotFound, Refused."""
    incident = get(conn, incident_id)
    if not incident.status.open:
        raise errors.Refused(f"incident {incident_id} is {incident.status.value}: nothing is left to take on")
    return log.record(conn, "incident_acknowledged", {"incident_id": incident_id}, actor, reason)


def require_none_raised(where: database.Connection | log.Writer, what: str) -> None:
    """Raise Refused while an incident is raised and nobody has rolled back or set it aside.

    None is raised any more before a writer is done, which holds the log's lock.
    """
    [(incident_id,)] = where.execute(SELECT_RAISED, (Status.RAISED.value,))
    if incident_id is not None:
        raise errors.Refused(f"{what}: incident {incident_id} is raised: clickledger incident show {incident_id}")


def holders(conn: database.Connection) -> dict[int, str]:
    """Who is at each incident that somebody acknowledged."""
    return {entry.payload["incident_id"]: entry.actor for entry in log.read(conn, kinds=[ACKNOWLEDGED])}


def history(conn: database.Connection, incident_id: int) -> list[log.Entry]:
    """The incident's entries in order: its evidence first, then every step."""
    return [entry for entry in timeline(conn, incident_id) if entry.kind in {RAISED, MOVED}]


def timeline(conn: database.Connection, incident_id: int) -> list[log.Entry]:
    """Everything that happened about an incident, in order: its own entries, its rollback, those of its runs."""
    raised = log.entry(conn, incident_id)
    runs: set[int] = set()
    told = [raised]
    for entry in log.read(conn, after=incident_id, kinds=[*OWN, *OF_RUNS]):
        payload = entry.payload
        if payload.get("incident_id") == incident_id:
            told.append(entry)
            runs |= {entry.position} if entry.kind == "replay_planned" else set()
        elif payload.get("run_id") in runs:
            told.append(entry)
    return told


def _incident(row: tuple[Any, ...]) -> Incident:
    return Incident(row[0], Status(row[1]), *row[2:])
