"""An incident for those it concerns, ready to paste: what happened, what it cost, what was done, what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from clickledger.console import output
from clickledger.console import recovery_words as words
from clickledger.ledger import comparison, database, deployments, log
from clickledger.ledger.comparison import Comparison
from clickledger.recovery import incidents, progress
from clickledger.recovery.incidents import Incident


def facts(conn: database.Connection, incident: Incident) -> dict[str, Any]:
    """What a summary says, as JSON values. None where it has not come to that."""
    told = incidents.timeline(conn, incident.incident_id)
    evidence = told[0].payload
    run = None if incident.run_id is None else progress.of_run(conn, incident.run_id)
    compared = None if run is None or run.comparison_id is None else comparison.latest(conn, run.run_id)
    rolled_back = _last(told, "rollback_declared")
    return {
        "incident_id": incident.incident_id,
        "status": incident.status.value,
        "model_version": incident.model_version,
        "deployment_epoch": incident.deployment_epoch,
        "raised_at": _time(told[0]),
        "raised_by": told[0].actor,
        "onset_at": _onset(conn, evidence),
        "signals": evidence.get("signals", []),
        "slice": evidence.get("slice"),
        "held_by": incidents.holders(conn).get(incident.incident_id),
        "rolled_back_at": _time(rolled_back),
        "stable_models": sorted(deployments.models_of(rolled_back.payload["routing"])) if rolled_back else [],
        "run_id": incident.run_id,
        "clicks": None if run is None else run.clicks,
        "flips": None if compared is None else compared.summary["flips"],
        "to_valid": None if compared is None else compared.summary["to_valid"],
        "to_invalid": None if compared is None else compared.summary["to_invalid"],
        "money": {} if compared is None else _money(compared),
        "left_to_people": _left_to_people(told, incident),
        "published_at": _time(_last(told, "replay_published")) if incident.status.value == "published" else None,
        "notes": [{"at": _time(e), "actor": e.actor, "text": e.reason} for e in told if e.kind == incidents.NOTED],
        "next": words.after_incident(conn, incident),
    }


def text(said: dict[str, Any]) -> str:
    """The summary in plain text; every figure has its unit, every moment is UTC."""
    number, model = said["incident_id"], said["model_version"]
    lines = [
        f"Incident {number}: model {model}, deployment epoch {said['deployment_epoch']}. Status: {said['status']}.",
        f"In the hands of {said['held_by'] or 'nobody yet'}.",
        "",
        f"What happened: {_what(said)}",
        f"What was done: {_done(said)}",
        f"What it changes: {_change(said)}",
    ]
    lines += [f"Note of {note['at']}, {note['actor']}: {note['text']}" for note in said["notes"]]
    return "\n".join(map(output.printable, [*lines, "", f"Next: {said['next']}"]))


def _what(said: dict[str, Any]) -> str:
    signals = ", ".join(said["signals"]) or "none"
    since = f" The model had been deployed at {said['onset_at']}." if said["onset_at"] else ""
    where = f", most in slice {said['slice']}" if said["slice"] else ""
    return f"at {said['raised_at']} {said['raised_by']} raised it on the signals {signals}{where}.{since}"


def _done(said: dict[str, Any]) -> str:
    if said["rolled_back_at"] is None:
        return f"nothing yet; model {said['model_version']} may decide on."
    models = ", ".join(map(str, said["stable_models"]))
    done = f"rolled back at {said['rolled_back_at']}, model {models} decides since"
    if said["run_id"] is not None:
        done += f"; run {said['run_id']} decides {said['clicks']:,} clicks again"
    if said["published_at"]:
        return f"{done}; published at {said['published_at']}."
    why = said["left_to_people"]
    return f"{done}; not published" + (f", which is left to people: {why}." if why else ".")


def _change(said: dict[str, Any]) -> str:
    if said["flips"] is None:
        return "not known before the replay is compared."
    moneys = "; ".join(
        f"{currency} {sums['before'] / 1e6:,.2f} {sums['change'] / 1e6:+,.2f} = {sums['after'] / 1e6:,.2f}"
        for currency, sums in said["money"].items()
    )
    verb = "" if said["published_at"] else "would "
    return (
        f"{said['flips']:,} decisions {verb}change, {said['to_valid']:,} to valid and {said['to_invalid']:,} to "
        f"invalid; billed in that range {moneys}."
    )


def _money(compared: Comparison) -> dict[str, dict[str, int]]:
    return {
        currency: {
            "before": sums["billed_before_micros"],
            "change": sums["adjustments_micros"] + sums["write_off_micros"],
            "after": sums["billed_after_micros"],
        }
        for currency, sums in sorted(compared.by("currency").items())
    }


def _onset(conn: database.Connection, evidence: dict[str, Any]) -> str | None:
    return _time(log.entry(conn, int(evidence["onset"]))) if evidence.get("onset") else None


def _last(told: Sequence[log.Entry], kind: str) -> log.Entry | None:
    return next((entry for entry in reversed(told) if entry.kind == kind), None)


def _left_to_people(told: Sequence[log.Entry], incident: Incident) -> str | None:
    """Why the incident's run was not published by itself; None where that was not tried, or is settled."""
    proposed = _last(told, incidents.PUBLICATION_PROPOSED)
    waits = incident.status is incidents.Status.COMPARED
    return proposed.reason if proposed and waits and proposed.payload["run_id"] == incident.run_id else None


def _time(entry: log.Entry | None) -> str | None:
    return None if entry is None else stamp(entry.recorded_at)


def stamp(moment: datetime) -> str:
    """A moment as people read it, to the second."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
