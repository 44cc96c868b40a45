"""What is written down for somebody to say yes; proposals are entries and change nothing.

A rollback, under policy `propose`: where to go back to and why, what the replay would change, and the commands. The bad
model decides on meanwhile, so the range of the replay will have grown.

A publication that policy `auto` would have made and that was refused, by a cap or else: it is with people from then on,
since nobody expects a correction to come into force by itself once the day, and with it a cap, is over.
"""

from __future__ import annotations

from typing import Any

from clickledger import errors
from clickledger.ledger import database, log
from clickledger.ledger.comparison import Comparison
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


def propose_publication(
    conn: database.Connection,
    incident: Incident,
    compared: Comparison,
    why: str,
    actor: str,
    *,
    plan_again: bool = False,
) -> log.Entry | None:
    """Record that people are to publish the compared run of an incident, or to plan it anew, once for the run.

    None when it is proposed.
    """
    if is_proposed(conn, compared.run_id):
        return None
    publish = [
        f"clickledger replay compare {compared.run_id}",
        f"clickledger replay publish {compared.run_id} --digest DIGEST --reason ...",
    ]
    anew = [
        f"clickledger replay cancel {compared.run_id} --reason ...",
        f"clickledger replay plan --incident {incident.incident_id}",
    ]
    payload = {
        "incident_id": incident.incident_id,
        "run_id": compared.run_id,
        "digest": compared.digest,
        "gross_micros": compared.summary["gross_micros"],
        "commands": anew if plan_again else publish,
    }
    return log.record(conn, "publication_proposed", payload, actor, why)


def is_proposed(conn: database.Connection, run_id: int) -> bool:
    """Whether a run waits for people to publish it."""
    found = log.read(conn, after=run_id, kinds=[incidents.PUBLICATION_PROPOSED])
    return any(entry.payload["run_id"] == run_id for entry in found)


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
