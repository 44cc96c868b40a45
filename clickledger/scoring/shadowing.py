"""Candidates in shadow: models beside the one that decides and the stable one, scored on the same clicks to no effect.

Invariants:
- no model is routed to, in shadow or not, that the snapshots recorded now do not feed;
- the stable model in shadow is nobody's to replace here: it is what the detector compares with, and the way back.
"""

from __future__ import annotations

from typing import Any

from clickledger.errors import Refused
from clickledger.ledger import database, deployments
from clickledger.ledger.deployments import Routing
from clickledger.scoring import feature_spec
from clickledger.scoring import model as models_

CANDIDATES_MAX = 2  # each costs every click a forward pass and a row; the newest stay


def require_fed(conn: database.Connection, routing: Routing) -> None:
    """Raise Refused, naming model, place and schema, for a model that is not fed by what is recorded under a routing.

    A snapshot is the union of what the live, shadow and stable models need, so all of them are in the routing.
    """
    recorded = feature_spec.recorded_schema(deployments.facts_version(routing))
    places = [("routes", routing["routes"]), ("shadow", deployments.in_shadow(routing))]
    for place, route in [(place, route) for place, routes in places for route in routes]:
        schema = models_.schema_of(deployments.load_artefact(conn, int(route["model"])))
        if not feature_spec.feeds(recorded, schema):
            known = schema in feature_spec.SCHEMAS
            how = "deploy a table of facts first" if known else "run workers that count its features first"
            raise Refused(
                f"model {route['model']} in {place}: it reads snapshots of schema {schema}, expected one that those "
                f"recorded now feed: {recorded}; {how}"
            )


def require_model_fed(conn: database.Connection, model_version: int) -> None:
    """`require_fed` of a model that is to decide under the deployment in force."""
    current = deployments.current(conn).routing
    wanted = {"routes": [{"model": model_version}], "shadow": None}
    require_fed(conn, deployments.with_facts(wanted, deployments.facts_version(current)))


def enter(
    conn: database.Connection,
    model_version: int,
    calibration_version: int,
    *,
    actor: str,
    reason: str = "",
    extra: dict[str, Any] | None = None,
    candidates_max: int = CANDIDATES_MAX,
) -> int:
    """Let a model run in shadow as the newest candidate; the epoch. The oldest above `candidates_max` leave.

    One that is there already stays as it is. `extra` goes into the payload of the entry. Raises Refused for a model
    that snapshots do not feed, that decides already with this calibration, or where nothing is deployed.
    """
    candidate = {"model": model_version, "calibration": calibration_version}

    def entered(before: Routing) -> Routing:
        alone = {"routes": [], "candidates": [candidate]}
        require_fed(conn, deployments.with_facts(alone, deployments.facts_version(before)))
        _check(before, candidate)
        if candidate in deployments.in_shadow(before):
            return before
        others = deployments.candidates_without(before, model_version)
        return deployments.with_candidates(before, [*others, candidate][-candidates_max:])

    return deployments.amend(conn, entered, actor, reason, extra)


def leave(conn: database.Connection, model_version: int, *, actor: str, reason: str = "") -> int:
    """Take a candidate out of the shadow; the epoch. One that is not there is none already."""
    return deployments.amend(
        conn,
        lambda before: deployments.with_candidates(before, deployments.candidates_without(before, model_version)),
        actor,
        reason,
    )


def _check(routing: Routing, candidate: dict[str, Any]) -> None:
    if not routing["routes"]:
        raise Refused(
            f"model {candidate['model']}: expected a deployment to run beside, got none; deploy a model first"
        )
    if any(candidate.items() <= route.items() for route in routing["routes"]):
        raise Refused(f"model {candidate['model']} decides already with calibration {candidate['calibration']}")
