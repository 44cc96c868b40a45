"""The first deployment of a new ledger: the velocity rule, until something better was trained."""

from __future__ import annotations

import logging

from clickledger.ledger import database, deployments
from clickledger.scoring import model as models_
from clickledger.scoring import velocity

logger = logging.getLogger(__name__)

CLICKS_PER_HOUR = 20  # of one user; the rule needs no training and rarely meets a person
VELOCITY = "velocity"
_LOCK = 7163956285231296108


def is_new(conn: database.Connection) -> bool:
    """Whether nothing was ever deployed and no model but the velocity rule is there to be."""
    other = conn.execute("SELECT 1 FROM models WHERE kind <> %s LIMIT 1", (VELOCITY,)).fetchone()
    return other is None and deployments.current(conn).epoch == 0


def is_rule_of_thumb(conn: database.Connection, model_version: int) -> bool:
    """Whether a model is the rule that a new ledger begins with: nobody trained it, so nothing is measured by it.

    Raises NotFound.
    """
    stated = deployments.registration(conn, model_version).payload
    return stated["kind"] == VELOCITY and "clicks_per_hour" in stated["metadata"]


def ensure_first_deployment(conn: database.Connection, actor: str = "bootstrap") -> int | None:
    """Deploy the velocity rule where nothing was ever deployed and no other model is there to be; its epoch, or None.

    Idempotent, and completes what a crash left half done. Several callers at once deploy it once.
    """
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        epoch = _deploy(conn, actor) if is_new(conn) else None
    database.require_confirmed(conn)  # within, there was no commit yet
    return epoch


def _deploy(conn: database.Connection, actor: str) -> int:
    rule = velocity.velocity_model(CLICKS_PER_HOUR)
    reason = f"a new ledger: a user's clicks reach {CLICKS_PER_HOUR} in an hour"
    version = deployments.register_model(conn, models_.to_artefact(rule), rule.kind, dict(rule.metadata), actor, reason)
    calibration = deployments.set_calibration(conn, version, {"*": 0.0}, {}, actor, reason)
    route = {"slice": "*", "share": 1.0, "model": version, "calibration": calibration}
    epoch = deployments.deploy(conn, {"routes": [route], "shadow": None}, actor, reason)
    logger.info("first deployment epoch=%d model=%d", epoch, version)
    return epoch
