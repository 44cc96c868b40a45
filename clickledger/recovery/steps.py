"""What happens next, by itself: each incident and run taken one step further, as the policy allows.

Every step reads where the ledger stands and is safe to repeat: a crash between two steps is mended by the next call.

    raised       -> roll back                      policy `auto`; `propose` prepares it and says how, `observe` waits
    rolled_back  -> start the replay               `auto_replay`, the first time; again only by hand
    replaying    -> (workers) stage, compare       always: it changes nothing that is in force
    compared     -> published                      up to `auto_publish_gross_micros` of gross money, 0 by default;
                                                   else by hand, and the incident follows. What a cap or else refuses
                                                   then is proposed to people, once, and never tried again
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from clickledger import errors
from clickledger.ledger import comparison, database, deployments, runs
from clickledger.ledger.caps import NO_CAPS, Caps
from clickledger.recovery import incidents, plans, progress, proposing, publishing, replay, rollback
from clickledger.recovery.incidents import Incident, Status

logger = logging.getLogger(__name__)

TRY_LOCK = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
UNLOCK = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"


@dataclass(frozen=True, slots=True)
class Policy:
    """What may happen without asking."""

    rollback: Literal["observe", "propose", "auto"] = "auto"
    auto_replay: bool = True
    auto_publish_gross_micros: int = 0  # the sum of absolute amounts of one publication, under policy `auto`
    workers: int = 1  # what a proposal reckons with
    caps: Caps = NO_CAPS  # above them it takes two people, whatever the policy


@contextmanager
def alone(conn: database.Connection, what: str) -> Iterator[bool]:
    """Whether nobody else does `what` now; as long as the block lasts nobody else will."""
    name = f"clickledger {what}"
    row = conn.execute(TRY_LOCK, (name,)).fetchone()
    got = bool(row and row[0])
    try:
        yield got
    finally:
        if got and not conn.closed:
            conn.execute(UNLOCK, (name,))


def advance(conn: database.Connection, policy: Policy, actor: str) -> None:
    """Take every incident as far as it goes by itself."""
    with alone(conn, "advance") as mine:
        for incident in incidents.unsettled(conn) if mine else []:
            try:
                _advance(conn, incident, policy, actor)
            except errors.Refused as refusal:  # waits for somebody; the others go on
                logger.warning("incident %d stays %s: %s", incident.incident_id, incident.status.value, refusal)
            except errors.Unavailable:
                raise
            except errors.ClickledgerError as error:  # one incident that cannot be helped must not hold up the others
                logger.error("incident %d stays %s: %s", incident.incident_id, incident.status.value, error)


def _advance(conn: database.Connection, incident: Incident, policy: Policy, actor: str) -> None:
    number = incident.incident_id
    if incident.status is Status.RAISED and _may_roll_back(conn, incident, policy):
        rollback.roll_back_incident(conn, incident, actor)
        incident = incidents.get(conn, number)
    if incident.status is Status.ROLLED_BACK and _may_replay(conn, incident, policy):
        plan = plans.for_incident(conn, number)
        if plan.row_count:
            replay.start(conn, plan, actor, f"incident {number}")
        else:  # fenced before it decided anything: it would be refused at every sweep
            incidents.move(conn, number, Status.ABANDONED, actor, "its model decided no click: nothing to replay")
        return
    publishing.follow_run(conn, incident, actor)
    if incident.status is Status.RAISED and policy.rollback == "propose":
        proposing.propose(conn, incident, policy.workers, actor)
    if (incident := incidents.get(conn, number)).status is Status.COMPARED and incident.run_id is not None:
        _publish_if_small(conn, incident, incident.run_id, policy, actor)


def _publish_if_small(conn: database.Connection, incident: Incident, run_id: int, policy: Policy, actor: str) -> None:
    """Publish a compared run whose gross money is within the cap, unless it is with people: reverted, or proposed."""
    compared = comparison.latest(conn, run_id)
    gross, cap = int(compared.summary["gross_micros"]), policy.auto_publish_gross_micros
    reverted = progress.of_run(conn, run_id).reverted_position is not None
    if policy.rollback != "auto" or not cap or gross > cap or reverted or proposing.is_proposed(conn, run_id):
        return
    try:
        reason = f"gross {gross} micros, policy publishes up to {cap}"
        publishing.publish(conn, run_id, compared.digest, actor, reason, policy.caps)
    except errors.OutdatedRun as outdated:  # no comparison mends that
        logger.warning("incident %d: people are to plan its replay anew: %s", incident.incident_id, outdated)
        proposing.propose_publication(conn, incident, compared, str(outdated), actor, plan_again=True)
    except errors.StalePlan:
        publishing.compare(conn, run_id, actor)  # the next call looks at that
    except errors.Refused as refusal:
        if progress.of_run(conn, run_id).stage == "compared":  # nobody published it meanwhile
            logger.warning("incident %d: its correction is for people to publish: %s", incident.incident_id, refusal)
            proposing.propose_publication(conn, incident, compared, str(refusal), actor)


def _may_roll_back(conn: database.Connection, incident: Incident, policy: Policy) -> bool:
    return policy.rollback == "auto" or not deployments.holding(conn, incident.model_version)


def _may_replay(conn: database.Connection, incident: Incident, policy: Policy) -> bool:
    first = incident.run_id is None  # whoever gave a run up will say what comes next
    return (policy.auto_replay and first) or replay.run_of_incident(conn, incident.incident_id) is not None


def finish(conn: database.Connection, run_id: int, actor: str) -> comparison.Comparison | None:
    """Stage and compare a run whose chunks are all done, and move its incident.

    None when it is compared already, or somebody else is at it. Raises Refused while chunks are missing.
    """
    with alone(conn, f"finish {run_id}") as mine:
        if not mine or progress.of_run(conn, run_id).comparison_id is not None:
            return None
        run = runs.stage(conn, run_id, actor)
        compared = comparison.compare(conn, run_id, actor)
        if run.incident_id is not None:
            publishing.follow_run(conn, incidents.get(conn, run.incident_id), actor)
        return compared
