"""Why one click was or was not billed: everything the ledger knows of it, in order."""

from __future__ import annotations

import json
import uuid
from typing import Any

from psycopg.rows import dict_row

from clickledger import errors
from clickledger.ledger import billing, database, departed, log

CLICK_ID_VERSION = 7
SELECT_CLICK = """
    SELECT click_id, click_time(click_id) AS event_time, log_position, source, external_id, user_key, session_key,
           ip_key, device, device_kind, advertiser_id, campaign_id, cost_micros, currency, logged_in, slice,
           intake_digest, features, feature_schema, counter_epoch, seq
    FROM clicks WHERE click_id = %s"""
# A plan kept for any click locks every day partition; one made for this click opens its day alone.
PRUNED = "SET LOCAL plan_cache_mode = force_custom_plan"
SELECT_BY_EXTERNAL_ID = "SELECT click_id FROM clicks WHERE external_id = %s LIMIT 2"
SELECT_DECISIONS = """
    SELECT NULL::bigint AS run_id, deployment_epoch, model_version, calibration_version, score, threshold,
           verdict::text, reason, carried, NULL::bytea AS recounted FROM decisions WHERE click_id = %(id)s
    UNION ALL
    SELECT run_id, deployment_epoch, model_version, calibration_version, score, threshold,
           verdict::text, reason, carried,
           (SELECT f.features FROM run_features f WHERE f.run_id = d.run_id AND f.click_id = d.click_id)
    FROM delayed_decisions d WHERE click_id = %(id)s ORDER BY run_id NULLS FIRST"""
SELECT_STORY = """
    SELECT r.run_id, r.kind, r.mode, r.status, r.incident_id, p.position AS published_position, p.reverted_position
    FROM replay_runs r LEFT JOIN publications p USING (run_id)
    WHERE r.run_id = ANY (%s) ORDER BY r.run_id, p.position"""
SELECT_MODELS = """
    SELECT model_version, kind, encode(digest, 'hex') AS digest, registered_position FROM models
    WHERE model_version = ANY (%s)"""
SELECT_CALIBRATIONS = """
    SELECT calibration_version, model_version, thresholds, set_position FROM calibrations
    WHERE calibration_version = ANY (%s)"""
SELECT_AUTHORITATIVE = "SELECT run_id FROM decision_of(%s)"
SELECT_OUTCOMES = "SELECT kind, occurred_at_ms, value_micros, log_position FROM outcomes WHERE click_id = %s ORDER BY 2"
SELECT_CONFLICTS = (
    "SELECT encode(intake_digest, 'hex') AS intake_digest, log_position FROM conflicts WHERE click_id = %s"
)


def find(conn: database.Connection, text: str) -> uuid.UUID:
    """The click id that a person typed: a click id, or the sender's own id when it is unique. Raises NotFound.

    A sender's id alone is looked for among all clicks of all days, since an index on it would cost every append; with
    its source and event time, `scoring.click_identity.click_id_of` names the click at once.
    """
    if (click_id := _as_click_id(text)) is not None:
        return click_id
    rows = conn.execute(SELECT_BY_EXTERNAL_ID, (text,)).fetchall()
    if len(rows) != 1:
        found = "none" if not rows else "several"
        raise errors.NotFound(f"expected a click id or the sender's id of one click, got {text!r}, which names {found}")
    return uuid.UUID(str(rows[0][0]))


def _as_click_id(text: str) -> uuid.UUID | None:
    """A click id as typed. Any other kind of UUID is a sender's id: click ids are version 7, derived ones too."""
    try:
        typed = uuid.UUID(text)
    except ValueError:
        return None
    return typed if typed.version == CLICK_ID_VERSION else None


def why(conn: database.Connection, click_id: uuid.UUID) -> dict[str, Any]:
    """Click, features, every decision in order with who and why, the one in force, what billing was told.

    Raises NotFound, VerificationFailed where what its rows name is not there.
    """
    with database.snapshot(conn):
        conn.execute(PRUNED)
        clicks = _rows(conn, SELECT_CLICK, click_id)
        if not clicks:
            raise errors.NotFound(departed.where_is(conn, click_id) or f"no click {click_id}")
        click = clicks[0]
        decisions = [_decision(conn, row, click) for row in _rows(conn, SELECT_DECISIONS, {"id": click_id})]
        versions = sorted({d["model_version"] for d in decisions})
        calibrations = sorted({d["calibration_version"] for d in decisions})
        return {
            "click": click,
            "entry": _entry(conn, click["log_position"]),
            "decisions": decisions,
            "authoritative_run_id": _authoritative(conn, click_id),
            "models": _rows(conn, SELECT_MODELS, versions),
            "calibrations": _rows(conn, SELECT_CALIBRATIONS, calibrations),
            "outcomes": _rows(conn, SELECT_OUTCOMES, click_id),
            "conflicts": _rows(conn, SELECT_CONFLICTS, click_id),
            "billing": billing.lines_of(conn, click_id),
        }


def _rows(conn: database.Connection, query: str, parameter: Any) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        parameters = parameter if isinstance(parameter, dict) else (parameter,)
        return cursor.execute(query.encode(), parameters).fetchall()


def _decision(conn: database.Connection, row: dict[str, Any], click: dict[str, Any]) -> dict[str, Any]:
    """A decision with the entries behind it: its deployment, or its run's plan, publications and reverts."""
    if row["run_id"] is None:
        return row | {
            "recorded": _entry(conn, click["log_position"]),
            "deployed": _deployed(conn, row["deployment_epoch"]),
        }
    story = _rows(conn, SELECT_STORY, [row["run_id"]])
    moments = [at for part in story for at in (part["published_position"], part["reverted_position"]) if at]
    return row | {
        "recorded": _entry(conn, row["run_id"]),
        "run_kind": story[0]["kind"],
        "run_mode": story[0]["mode"],
        "run_status": story[0]["status"],
        "incident_id": story[0]["incident_id"],
        "history": [_entry(conn, at) for at in sorted(moments)],
    }


def _deployed(conn: database.Connection, epoch: int) -> dict[str, Any]:
    row = conn.execute("SELECT from_position, revoked_position FROM deployments WHERE epoch = %s", (epoch,)).fetchone()
    if row is None:
        raise errors.InvariantBroken(f"a decision names deployment epoch {epoch}, which was never deployed")
    return _entry(conn, row[0]) | {"revoked": _entry(conn, row[1]) if row[1] else None}


def _entry(conn: database.Connection, position: int) -> dict[str, Any]:
    try:
        entry = log.entry(conn, position)
    except errors.NotFound as error:  # a row names it, so it was there
        raise errors.VerificationFailed(
            f"entry {position}: it is missing, and a row of the click names it; clickledger audit verify"
        ) from error
    return {
        "position": position,
        "kind": entry.kind,
        "recorded_at": entry.recorded_at,
        "actor": entry.actor,
        "reason": entry.reason,
        "payload": json.loads(entry.payload_text),
    }


def _authoritative(conn: database.Connection, click_id: uuid.UUID) -> int | None:
    found = conn.execute(SELECT_AUTHORITATIVE, (click_id,)).fetchall()
    if len(found) != 1:
        raise errors.VerificationFailed(
            f"click {click_id}: expected one decision in force, got {len(found)}; clickledger audit verify"
        )
    [(run_id,)] = found
    return None if run_id is None else int(run_id)
