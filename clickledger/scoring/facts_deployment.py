"""Tables of facts in and out of force.

Invariants:
- a table comes into force, and goes out of it, by an entry of its own, which changes no route;
- never while a model that decides or runs in shadow would then lack what it reads: snapshots carry the union of what
  all of them need, so that rolling back is always possible.
"""

from __future__ import annotations

from clickledger.errors import Refused
from clickledger.ledger import database, deployments
from clickledger.ledger.deployments import Routing
from clickledger.scoring import facts, shadowing


def put_in_force(conn: database.Connection, version: int, *, actor: str, reason: str) -> int:
    """Record snapshots with this table from now on, 0 for none; the epoch in force.

    Raises NotFound, and Refused where nothing is deployed, or models that decide or run in shadow would lack what they
    read.
    """
    facts.load(conn, version)  # raises before anybody looks into it

    def changed(before: Routing) -> Routing:
        if not before["routes"]:
            raise Refused("expected a deployment to record facts under, got none; deploy a model first")
        routing = deployments.with_facts(before, version)
        shadowing.require_fed(conn, routing)
        return routing

    return deployments.amend(conn, changed, actor, reason)
