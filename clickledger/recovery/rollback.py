"""Going back to the last stable model: which one that is, and the one entry that does it.

The last stable model is the deployment's shadow, which was watched all along; where there is none that can be used, the
newest earlier deployment that does not hold the bad model and was not rolled back itself. A model can be used when it
loads and reads the snapshots that are recorded now: the table of facts in force stays in force, whatever stood beside
the model once. What was considered, and why it was not taken, is in the entry.

A bad model that was replaced meanwhile is fenced all the same: its batches may still be in flight.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from clickledger import errors
from clickledger.ledger import database, deployments, log
from clickledger.ledger.deployments import RolledBack, Routing
from clickledger.recovery import incidents
from clickledger.recovery.incidents import Incident, Status
from clickledger.scoring import decide, feature_spec
from clickledger.scoring import model as models_

SELECT_OTHERS = "SELECT epoch, routing, revoked_position FROM deployments WHERE epoch < %s ORDER BY epoch DESC"
SELECT_REVOKED = "SELECT revoked_position FROM deployments WHERE epoch = %s"
TAKEN = "taken"
ATTEMPTS = 3


class Candidate(NamedTuple):
    """What could be put in force, where it was found, and whether it was taken or why not."""

    found: str
    model_version: int
    calibration_version: int
    why: str


class Stable(NamedTuple):
    """What to go back to, where it was found, and everything that was considered, in order."""

    routing: Routing
    model_version: int
    calibration_version: int
    found: str
    considered: list[Candidate]


def choose(conn: database.Connection, bad_model: int) -> Stable:
    """The last stable model beside a bad one. Raises Refused, saying what was tried, when none can be used."""
    current = deployments.current(conn)
    considered: list[Candidate] = []
    for found, routing, fault in _options(conn, current, bad_model):
        model, calibration = main_route(routing)
        why = fault or _fault_of(conn, routing)
        considered.append(Candidate(found, model, calibration, why or TAKEN))
        if why is None:
            kept = {**routing, "shadow": _usable_shadow(conn, routing)}
            return Stable(_beside(current.routing, kept, bad_model), model, calibration, found, considered)
    tried = "; ".join(f"{one.found}: {one.why}" for one in considered) or "no shadow and no earlier deployment"
    raise errors.Refused(f"no stable model to go back to from model {bad_model} ({tried}): deploy one")


def _beside(before: Routing, routing: Routing, bad_model: int) -> Routing:
    """A routing to go back to with the candidates of now, since the old ones were judged long ago.

    But for those that decide in it, or are its shadow: nothing that runs twice may hold a rollback up.
    """
    pairs = [(r["model"], r["calibration"]) for r in [*routing["routes"], routing.get("shadow")] if r]
    candidates = deployments.candidates_without(before, bad_model)
    others = [route for route in candidates if (route["model"], route["calibration"]) not in pairs]
    return deployments.with_candidates(routing, others)


def _options(
    conn: database.Connection, current: deployments.Deployment, bad_model: int
) -> Iterator[tuple[str, Routing, str | None]]:
    """The shadow, then the earlier deployments from the newest on: name, routing, and what speaks against it."""
    others = [(e, json.loads(text), revoked) for e, text, revoked in conn.execute(SELECT_OTHERS, (current.epoch,))]
    if shadow := current.routing.get("shadow"):
        routes = [{"slice": decide.ANY_SLICE, "share": 1.0, **shadow}]
        before = _shadow_before(others, shadow, bad_model)
        routing = {**current.routing, "routes": routes, "shadow": before}
        yield f"shadow of epoch {current.epoch}", routing, _holds(routing, bad_model)
    for epoch, routing, revoked in others:
        if not routing["routes"]:
            continue
        shadow = routing.get("shadow")
        kept = shadow if shadow and int(shadow["model"]) != bad_model else None
        fault = _holds(routing, bad_model) or (f"rolled back at position {revoked}" if revoked else None)
        facts = deployments.facts_version(current.routing)
        yield f"deployment epoch {epoch}", deployments.with_facts({**routing, "shadow": kept}, facts), fault


def _shadow_before(
    others: Sequence[tuple[int, Routing, int | None]], stable: Mapping[str, Any], bad_model: int
) -> dict[str, Any] | None:
    """What ran beside a pair when it last decided for everybody, that it is watched again; nothing rolled back since.

    A canary takes that place for its stable model, and gives it up with its rollback.
    """
    revoked = {bad_model}.union(*(deployments.models_of(routing) for _, routing, at in others if at is not None))
    for _, routing, _ in others:
        if routing["routes"] and all(stable.items() <= route.items() for route in routing["routes"]):
            shadow: dict[str, Any] | None = routing.get("shadow")
            return shadow if shadow and int(shadow["model"]) not in revoked else None
    return None


def _holds(routing: Routing, bad_model: int) -> str | None:
    return f"decides with model {bad_model} itself" if bad_model in deployments.models_of(routing) else None


def _fault_of(conn: database.Connection, routing: Routing) -> str | None:
    facts = deployments.facts_version(routing)
    return next((fault for route in routing["routes"] if (fault := _fault(conn, route, facts))), None)


def _usable_shadow(conn: database.Connection, routing: Routing) -> dict[str, Any] | None:
    shadow: dict[str, Any] | None = routing.get("shadow")
    facts = deployments.facts_version(routing)
    return shadow if shadow and _fault(conn, shadow, facts) is None else None


def roll_back(
    conn: database.Connection, bad_model: int, actor: str, reason: str = "", incident_id: int | None = None
) -> RolledBack:
    """Fence a bad model; where it is live, put the last stable one in force, else what replaced it stays.

    Raises Refused when no epoch of it is left to fence, or it is live and no other model is stable.
    """
    for attempt in range(ATTEMPTS):
        try:
            current = deployments.current(conn)
            if bad_model not in deployments.models_of(current.routing):
                return deployments.fence(conn, bad_model, actor, reason, incident_id)
            stable = choose(conn, bad_model)
            told = [one._asdict() for one in stable.considered]
            return deployments.roll_back(
                conn, bad_model, stable.routing, actor, reason, incident_id, told, chosen_under=current.epoch
            )
        except errors.Refused:  # somebody may have deployed or replaced it between the two
            if attempt + 1 == ATTEMPTS:
                raise
    raise errors.InvariantBroken("expected a rollback or its refusal")


def considered(conn: database.Connection, done: RolledBack) -> list[dict[str, Any]]:
    """What a rollback considered, as its entry says it: none where the model had been replaced already."""
    return list(log.entry(conn, done.position).payload.get("considered", []))


def roll_back_incident(
    conn: database.Connection, incident: Incident, actor: str, reason: str = ""
) -> RolledBack | None:
    """Roll an incident's model back and move the incident; completes what a crash in between left half done.

    None when the model had been fenced before. Raises Refused when the incident is past that.
    """
    incidents.check_may_move(incident, Status.ROLLED_BACK)
    done = None
    if deployments.holding(conn, incident.model_version):
        why = reason or f"incident {incident.incident_id}"
        done = roll_back(conn, incident.model_version, actor, why, incident.incident_id)
    incidents.move(conn, incident.incident_id, Status.ROLLED_BACK, actor, reason)
    return done


def revoked(conn: database.Connection, deployment_epoch: int) -> bool:
    """Whether a rollback has fenced an epoch."""
    row = conn.execute(SELECT_REVOKED, (deployment_epoch,)).fetchone()
    return row is not None and row[0] is not None


def stable_routes(routing: Routing) -> dict[str, tuple[int, int]]:
    """By which model and calibration each slice is decided for good, "*" for all others: a canary is left out.

    Where several decide for a slice, the canary is the first (`deployments.with_canary`). Raises Refused when nothing
    is deployed, or several remain and none of them is the one for that slice.
    """
    if not routing["routes"]:
        raise errors.Refused("no model is deployed: nothing to replay through")
    by_slice: dict[str, list[tuple[int, int]]] = {}
    for route in routing["routes"]:
        by_slice.setdefault(str(route["slice"]), []).append((int(route["model"]), int(route["calibration"])))
    stable = {name: list(dict.fromkeys(pairs[1:] or pairs)) for name, pairs in by_slice.items()}
    for name, pairs in stable.items():
        if len(pairs) > 1:
            named = " and ".join(f"{model} (calibration {calibration})" for model, calibration in pairs)
            raise errors.Refused(
                f"slice {name!r}: expected one stable model to replay through, got models {named}; name one: "
                f"clickledger replay plan --positions LO HI --model {pairs[0][0]} --calibration {pairs[0][1]}"
            )
    return {name: pairs[0] for name, pairs in stable.items()}


def main_route(routing: Routing) -> tuple[int, int]:
    """Model and calibration of most of the traffic, to name a routing by. Raises Refused when nothing is deployed."""
    if not routing["routes"]:
        raise errors.Refused("no model is deployed")
    fallback = [route for route in routing["routes"] if route["slice"] == decide.ANY_SLICE]
    route = max(fallback or routing["routes"], key=lambda r: float(r["share"]))
    return int(route["model"]), int(route["calibration"])


def _fault(conn: database.Connection, route: dict[str, Any], facts_version: int) -> str | None:
    """Why a model and its calibration cannot be used with the snapshots of now, or None."""
    try:
        model = models_.from_artefact(deployments.load_artefact(conn, int(route["model"])))
        recorded = feature_spec.recorded_schema(facts_version)
        if not feature_spec.feeds(recorded, model.feature_schema):
            return f"it reads snapshots of schema {model.feature_schema}, those recorded now are of {recorded}"
        decide.threshold_of(deployments.load_thresholds(conn, int(route["calibration"])), decide.ANY_SLICE)
    except (errors.InvalidInput, errors.NotFound) as error:
        return str(error)
    return None
