"""`clickledger incident` and `clickledger rollback`: what is wrong with a deployment, and going back.

Everything a worker does by itself can be seen here, and everything it waits for is done here. Each success names the
next command.
"""

from __future__ import annotations

from typing import Annotated

import typer

from clickledger import errors
from clickledger.console import output, recovery_words
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.recovery_words import actor, ledger
from clickledger.ledger.rights import Role
from clickledger.recovery import incidents

ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes into the log.")]
ActorOption = Annotated[str | None, typer.Option("--actor", help="Who does this, for the log; else the user's name.")]
IncidentArgument = Annotated[int, typer.Argument(metavar="INCIDENT", help="Incident id, from `incident list`.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    incident = typer.Typer(help="What is wrong with a deployment, and how far it is put right.", no_args_is_help=True)
    incident.command("list")(incident_list)
    incident.command("show")(incident_show)
    incident.command("abandon")(incident_abandon)
    app.add_typer(incident, name="incident")
    app.command()(rollback)


def incident_list(folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """List all incidents."""
    with ledger(folder, Role.AUDITOR_READER) as conn:
        found = incidents.listed(conn)
    columns = ("incident", "status", "epoch", "model", "run")
    lines = [(i.incident_id, i.status.value, i.deployment_epoch, i.model_version, i.run_id or "") for i in found]
    output.rows(f"{len(found)} incidents", columns, lines)
    if found:
        output.hint(f"clickledger incident show {found[-1].incident_id}")
    if as_json:
        output.result({"incidents": [recovery_words.incident_fields(i) for i in found]})


def incident_show(incident_id: IncidentArgument, folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show an incident: its evidence, and every step with who took it."""
    with ledger(folder, Role.AUDITOR_READER) as conn:
        incident, entries = incidents.get(conn, incident_id), incidents.history(conn, incident_id)
    evidence = entries[0].payload
    output.say(f"incident {incident_id}: model {incident.model_version} of epoch {incident.deployment_epoch}")
    output.say(f"signals: {', '.join(evidence.get('signals', []))}; slice most affected: {evidence.get('slice', '-')}")
    recovery_words.show_readings(evidence)
    steps = [
        (e.position, e.recorded_at.isoformat(), e.payload.get("status", "raised"), e.actor, e.reason) for e in entries
    ]
    output.rows("steps", ("position", "at", "status", "who", "why"), steps)
    output.hint(recovery_words.after_incident(incident))
    if as_json:
        history = [{"position": p, "at": at, "status": s, "actor": who, "reason": why} for p, at, s, who, why in steps]
        output.result(recovery_words.incident_fields(incident) | {"evidence": evidence, "steps": history})


def incident_abandon(
    incident_id: IncidentArgument, reason: ReasonOption, folder: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Set an incident aside; only what happens from now on can raise it again."""
    with ledger(folder) as conn:
        moved = incidents.move(conn, incident_id, incidents.Status.ABANDONED, actor(), reason)
    output.say(f"incident {incident_id} is abandoned")
    output.hint("clickledger incident list")
    if as_json:
        output.result(recovery_words.incident_fields(moved))


def rollback(
    reason: ReasonOption,
    incident_id: Annotated[int | None, typer.Option("--incident", help="Roll this incident's model back.")] = None,
    model: Annotated[int | None, typer.Option("--model", help="Roll this model version back.")] = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fence a bad model and put the last stable one in force. Its batches in flight are refused from then on."""
    from clickledger.recovery import rollback as rollback_  # noqa: PLC0415 - loads torch, which others need not pay

    if (incident_id is None) == (model is None):
        raise errors.InvalidInput("rollback: expected one of --incident and --model")
    with ledger(folder) as conn:
        if incident_id is not None:
            done = rollback_.roll_back_incident(conn, incidents.get(conn, incident_id), actor(), reason)
        else:
            done = rollback_.roll_back(conn, int(model or 0), actor(), reason)
    if done is None:
        output.say(f"incident {incident_id}: its epoch was revoked before")
    else:
        output.say(f"epoch {done.epoch} is in force since position {done.position}; revoked: {done.revoked_epochs}")
    by_hand = "clickledger replay plan --positions LO HI --model MODEL --calibration CALIBRATION"
    output.hint(f"clickledger replay plan --incident {incident_id}" if incident_id else by_hand)
    if as_json:
        fields = {} if done is None else done._asdict()
        output.result({"incident_id": incident_id, **fields})
