"""Policy `propose`: what a rollback and a replay would do, prepared and written down, for somebody to say yes.

The proposal is an entry with the evidence beside it: where to go back to and why, what the replay would change, and the
commands. It changes nothing. The bad model decides on meanwhile, so the range of the replay will have grown.
"""

from __future__ import annotations

from typing import Any

from clickledger import errors
from clickledger.ledger import database, log
from clickledger.recovery import incidents, plans, preview, rollback
from clickledger.recovery.incidents import Incident
from clickledger.recovery.plans import Plan


def propose(conn: database.Connection, incident: Incident, workers: int, actor: str) -> log.Entry | None:
    """Record the proposal of a raised incident, once; the entry, None when there is one. Raises Refused."""
    if of_incident(conn, incident.incident_id) is not None:
        return None
    return log.record(conn, "rollback_proposed", _prepared(conn, incident, workers), actor)


def of_incident(conn: database.Connection, incident_id: int) -> log.Entry | None:
    """The proposal of an incident; None without one."""
    found = log.read(conn, after=incident_id, kinds=[incidents.PROPOSED])
    return next((entry for entry in found if entry.payload["incident_id"] == incident_id), None)


def _prepared(conn: database.Connection, incident: Incident, workers: int) -> dict[str, Any]:
    number = incident.incident_id
    stable = rollback.choose(conn, incident.model_version)
    plan = plans.for_incident(conn, number)
    return {
        "incident_id": number,
        "rollback_to": {"model": stable.model_version, "calibration": stable.calibration_version},
        "found": stable.found,
        "considered": [one._asdict() for one in stable.considered],
        "positions": [plan.lo, plan.hi],
        "would_change": _estimated(conn, plan, workers),
        "commands": [
            f"clickledger rollback --incident {number} --reason ...",
            f"clickledger replay plan --incident {number}",
        ],
    }


def _estimated(conn: database.Connection, plan: Plan, workers: int) -> dict[str, Any]:
    try:
        found = preview.preview(conn, plan, workers)
    except errors.Refused as refusal:  # nothing to replay yet
        return {"clicks": 0, "why": str(refusal)}
    estimate = found.fields()["estimate"]  # of each quantity: about how much, and between which bounds
    bounded = {name: estimate[name] for name in ("to_valid", "to_invalid", "to_undecided", "change_micros")}
    return {"clicks": found.clicks, "seconds": round(found.seconds.value, 1), **bounded}
