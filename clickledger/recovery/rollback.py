"""Going back to the last stable model: which one that is, and the one entry that does it.

The last stable model is the deployment's shadow, which was watched all along; where there is none that can be used, the
newest earlier deployment that does not hold the bad model. A model can be used when it loads and reads the snapshots
that are recorded now.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from clickledger import errors
from clickledger.ledger import database, deployments
from clickledger.ledger.deployments import RolledBack, Routing
from clickledger.recovery import incidents
from clickledger.recovery.incidents import Incident, Status
from clickledger.scoring import decide
from clickledger.scoring import model as models_

SELECT_EARLIER = """
    SELECT epoch, routing FROM deployments
    WHERE epoch < %s AND revoked_position IS NULL ORDER BY epoch DESC"""
SELECT_REVOKED = "SELECT revoked_position FROM deployments WHERE epoch = %s"


class Stable(NamedTuple):
    """What to go back to, and where it was found."""

    routing: Routing
    model_version: int
    calibration_version: int
    found: str


def choose(conn: database.Connection, bad_model: int) -> Stable:
    """The last stable model beside a bad one. Raises Refused when there is none that can be used."""
    current = deployments.current(conn)
    shadow = current.routing.get("shadow")
    if shadow and int(shadow["model"]) != bad_model and not (fault := _fault(conn, shadow)):
        routing = {**current.routing, "routes": [{"slice": decide.ANY_SLICE, "share": 1.0, **shadow}], "shadow": None}
        routing = deployments.with_candidates(routing, deployments.candidates_without(routing, bad_model))
        return Stable(routing, int(shadow["model"]), int(shadow["calibration"]), f"shadow of epoch {current.epoch}")
    faults = [f"shadow: {fault}"] if shadow and int(shadow["model"]) != bad_model else []
    for epoch, text in conn.execute(SELECT_EARLIER, (current.epoch,)).fetchall():
        routing = json.loads(text)
        if not routing["routes"] or bad_model in deployments.models_of(routing):
            continue
        unusable = [fault for route in routing["routes"] if (fault := _fault(conn, route))]
        if not unusable:
            # Candidates are those of now: the old ones were judged long ago.
            candidates = deployments.candidates_without(current.routing, bad_model)
            return _of_deployment(epoch, deployments.with_candidates(routing, candidates), bad_model)
        faults.append(f"epoch {epoch}: {unusable[0]}")
    tried = "; ".join(faults) or "no shadow and no earlier deployment without it"
    raise errors.Refused(f"no stable model to go back to from model {bad_model} ({tried}): deploy one")


def roll_back(
    conn: database.Connection, bad_model: int, actor: str, reason: str = "", incident_id: int | None = None
) -> RolledBack:
    """Fence a bad model and put the last stable one in force. Raises Refused when it is not live or none is stable."""
    deployments.require_live(deployments.current(conn), bad_model)  # or choosing would be said to have failed
    return deployments.roll_back(conn, bad_model, choose(conn, bad_model).routing, actor, reason, incident_id)


def roll_back_incident(
    conn: database.Connection, incident: Incident, actor: str, reason: str = ""
) -> RolledBack | None:
    """Roll an incident's model back and move the incident; completes what a crash in between left half done.

    None when its epoch had been revoked before. Raises Refused when the incident is past that.
    """
    incidents.check_may_move(incident, Status.ROLLED_BACK)
    done = None
    if not revoked(conn, incident.deployment_epoch):
        why = reason or f"incident {incident.incident_id}"
        done = roll_back(conn, incident.model_version, actor, why, incident.incident_id)
    incidents.move(conn, incident.incident_id, Status.ROLLED_BACK, actor, reason)
    return done


def revoked(conn: database.Connection, deployment_epoch: int) -> bool:
    """Whether a rollback has fenced an epoch."""
    row = conn.execute(SELECT_REVOKED, (deployment_epoch,)).fetchone()
    return row is not None and row[0] is not None


def main_route(routing: Routing) -> tuple[int, int]:
    """Model and calibration of most of the traffic. Raises Refused when nothing is deployed."""
    if not routing["routes"]:
        raise errors.Refused("no model is deployed: nothing to replay through")
    fallback = [route for route in routing["routes"] if route["slice"] == decide.ANY_SLICE]
    route = max(fallback or routing["routes"], key=lambda r: float(r["share"]))
    return int(route["model"]), int(route["calibration"])


def _of_deployment(epoch: int, routing: Routing, bad_model: int) -> Stable:
    shadow = routing.get("shadow")
    kept = shadow if shadow and int(shadow["model"]) != bad_model else None
    return Stable({**routing, "shadow": kept}, *main_route(routing), f"deployment epoch {epoch}")


def _fault(conn: database.Connection, route: dict[str, Any]) -> str | None:
    """Why a model and its calibration cannot be used now, or None."""
    try:
        models_.from_artefact(deployments.load_artefact(conn, int(route["model"])))  # refuses another snapshot schema
        decide.threshold_of(deployments.load_thresholds(conn, int(route["calibration"])), decide.ANY_SLICE)
    except (errors.InvalidInput, errors.NotFound) as error:
        return str(error)
    return None
