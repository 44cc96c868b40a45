"""Publishing, reverting and giving up a run, and its incident with it."""

from __future__ import annotations

from clickledger import errors
from clickledger.ledger import comparison, database, publication, runs
from clickledger.ledger.caps import NO_CAPS, Caps
from clickledger.ledger.publication import Published
from clickledger.recovery import incidents, progress
from clickledger.recovery.incidents import Incident, Status
from clickledger.settings import Settings

FOLLOWS_RUN = {Status.REPLAYING, Status.COMPARED, Status.PUBLISHED}
STATUS_OF_STAGE = {
    "abandoned": Status.ROLLED_BACK,
    "compared": Status.COMPARED,
    "published": Status.PUBLISHED,
}


def caps_of(chosen: Settings) -> Caps:
    """The caps that are set."""
    return Caps(chosen.cap_publication_micros, chosen.cap_advertiser_micros, chosen.cap_day_micros)


def compare(conn: database.Connection, run_id: int, actor: str) -> comparison.Comparison:
    """Compare a staged run with what is in force now; earlier comparisons of it are stale. Raises Refused."""
    compared = comparison.compare(conn, run_id, actor)
    _follow(conn, run_id, actor, f"run {run_id} is compared, digest {compared.digest}")
    return compared


def publish(
    conn: database.Connection, run_id: int, digest: str, actor: str, reason: str, caps: Caps = NO_CAPS
) -> Published:
    """Put a run in force as the comparison named by `digest` said. Raises StalePlan, Refused, NotFound."""
    published = publication.publish(conn, run_id, digest, actor, reason, caps)
    _follow(conn, run_id, actor, f"run {run_id} is published, at position {published.position}")
    return published


def revert(conn: database.Connection, run_id: int, actor: str, reason: str, caps: Caps = NO_CAPS) -> Published:
    """Take a publication away. Raises Refused unless it is in force and on top, and no cap is in the way."""
    reverted = publication.revert(conn, run_id, actor, reason, caps)
    _follow(conn, run_id, actor, f"run {run_id} is reverted, at position {reverted.position}")
    return reverted


def abandon(conn: database.Connection, run_id: int, actor: str, reason: str) -> None:
    """Give a run up; its incident goes back to before the replay.

    Raises Refused while it is published, or when it was given up already.
    """
    runs.abandon(conn, run_id, actor, reason)
    _follow(conn, run_id, actor, f"run {run_id} is given up")


def follow_run(conn: database.Connection, incident: Incident, actor: str) -> None:
    """Bring an incident to where its run stands, which somebody may have published, reverted or abandoned."""
    if incident.run_id is None or incident.status not in FOLLOWS_RUN:
        return
    wanted = STATUS_OF_STAGE.get(progress.of_run(conn, incident.run_id).stage)
    if wanted is None or wanted is incident.status:
        return
    try:
        if wanted not in incident.status.following:  # between replaying, published and rolled_back lies compared
            incidents.move(conn, incident.incident_id, Status.COMPARED, actor, f"run {incident.run_id}")
        incidents.move(conn, incident.incident_id, wanted, actor, f"run {incident.run_id}")
    except errors.Refused:
        # Somebody moved it meanwhile; who follows later takes it further. What was done to the run is not refused.
        if incidents.get(conn, incident.incident_id).status is incident.status:
            raise


def _follow(conn: database.Connection, run_id: int, actor: str, done: str) -> None:
    """What was done is committed by now; when this fails, `steps.advance` brings the incident along later."""
    with database.committed(done):
        incident_id = runs.get(conn, run_id).incident_id
        if incident_id is not None:
            follow_run(conn, incidents.get(conn, incident_id), actor)
