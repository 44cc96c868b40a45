"""Incidents: what is wrong with a deployment and how far putting it right has come.

Invariants:
- every step is an entry of the log and the row that caches it, in one transaction;
- a deployment epoch has one open incident at most;
- an incident moves along `Status.following` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from clickledger import errors
from clickledger.ledger import database, log

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
    conn: database.Connection, deployment_epoch: int, model_version: int, evidence: Mapping[str, Any], actor: str
) -> Incident | None:
    """Raise an incident for an epoch with its evidence; None when the epoch has an open one already."""
    with log.writing(conn) as writer:
        if any(Status(row[0]).open for row in writer.execute(SELECT_STATUSES, (deployment_epoch,))):
            return None
        payload = {"deployment_epoch": deployment_epoch, "model_version": model_version, **evidence}
        raised = writer.record("anomaly_raised", payload, actor).position
        writer.execute(INSERT_INCIDENT, (raised, Status.RAISED.value, deployment_epoch, model_version, raised))
    return get(conn, raised)


def move(
    conn: database.Connection, incident_id: int, status: Status, actor: str, reason: str = "", run_id: int | None = None
) -> Incident:
    """Move an incident on. Raises NotFound, or Refused when it may not go there from where it stands."""
    with log.writing(conn) as writer:
        move_within(writer, incident_id, status, actor, reason, run_id)
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


def history(conn: database.Connection, incident_id: int) -> list[log.Entry]:
    """The incident's entries in order: its evidence first, then every step."""
    raised = log.entry(conn, incident_id)
    moves = log.read(conn, after=incident_id, kinds=["incident_moved"])
    return [raised, *(entry for entry in moves if entry.payload["incident_id"] == incident_id)]


def _incident(row: tuple[Any, ...]) -> Incident:
    return Incident(row[0], Status(row[1]), *row[2:])
