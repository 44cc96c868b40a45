"""`clickledger incident` and `clickledger rollback`: what is wrong with a deployment, and going back.

Everything a worker does by itself can be seen here, and everything it waits for is done here. Each success names the
next command.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clickledger import errors
from clickledger.console import output, recovery_words
from clickledger.console.acting import ActorOption, person
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.recovery_words import ledger
from clickledger.ledger import database, deployments, log
from clickledger.ledger.rights import Role
from clickledger.recovery import incidents, pages

ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes into the log.")]
IncidentArgument = Annotated[int, typer.Argument(metavar="INCIDENT", help="Incident id, from `incident list`.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    incident = typer.Typer(help="What is wrong with a deployment, and how far it is put right.", no_args_is_help=True)
    incident.command("list")(incident_list)
    incident.command("show")(incident_show)
    incident.command("raise")(incident_raise)
    incident.command("ack")(incident_ack)
    incident.command("note")(incident_note)
    incident.command("summary")(incident_summary)
    incident.command("abandon")(incident_abandon)
    app.add_typer(incident, name="incident")
    app.command()(rollback)


def incident_list(folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """List all incidents, and the pages that stand."""
    with ledger(folder, Role.AUDITOR_READER) as conn:
        found, held = incidents.listed(conn), incidents.holders(conn)
        standing = [log.entry(conn, at) for _, (state, at) in sorted(pages.standing(conn).items()) if state.open]
    columns = ("incident", "status", "epoch", "model", "run", "held by")
    lines = [
        (
            i.incident_id,
            i.status.value,
            i.deployment_epoch,
            i.model_version,
            i.run_id or "",
            held.get(i.incident_id, ""),
        )
        for i in found
    ]
    output.rows(f"{len(found)} incidents", columns, lines)
    if standing:
        output.rows(
            "pages that stand; nothing acts on them",
            ("signal", "slice", "direction", "observed", "expected", "paged at", "position"),
            [(*_page(page).values(), f"{page.recorded_at:%Y-%m-%d %H:%M:%S} UTC", page.position) for page in standing],
        )
    if found:
        output.hint(f"clickledger incident show {found[-1].incident_id}")
    elif standing:
        output.hint("clickledger incident raise --reason ... if the model is to blame")
    else:
        output.hint("clickledger status")
    if as_json:
        at = "position", "recorded_at"
        shown = [_page(page) | {name: getattr(page, name) for name in at} for page in standing]
        fields = [recovery_words.incident_fields(i) | {"held_by": held.get(i.incident_id)} for i in found]
        output.result({"incidents": fields, "pages": shown})


def _page(page: log.Entry) -> dict[str, Any]:
    """What a page is about, and by how much: since its onset, in the signal's own unit (a share, clicks a minute)."""
    return {name: page.payload[name] for name in (*pages.KEYS, "observed", "expected")}


def incident_show(incident_id: IncidentArgument, folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show an incident: its evidence, what was proposed, and everything that happened, with who did it."""
    with ledger(folder, Role.AUDITOR_READER) as conn:
        incident, entries = incidents.get(conn, incident_id), incidents.timeline(conn, incident_id)
        following = recovery_words.after_incident(conn, incident)
    evidence = entries[0].payload
    proposed = next((e.payload for e in entries if e.kind == incidents.PROPOSED), None)
    output.say(f"incident {incident_id}: model {incident.model_version} of epoch {incident.deployment_epoch}")
    output.say(f"signals: {', '.join(evidence.get('signals', []))}; slice most affected: {evidence.get('slice', '-')}")
    if affected := evidence.get("affected"):
        output.say(f"affected when it was raised: log positions [{affected[0]}, {affected[1]})")
    recovery_words.show_readings(evidence)
    if proposed is not None:
        recovery_words.show_proposal(proposed)
    steps = [(e.position, e.recorded_at.isoformat(), recovery_words.step(e), e.actor, e.reason) for e in entries]
    output.rows("what happened", ("position", "at", "what", "who", "why"), steps)
    output.hint(following)
    if as_json:
        named = [
            {"position": e.position, "at": e.recorded_at.isoformat(), "kind": e.kind, "status": e.payload.get("status"),
             "what": recovery_words.step(e), "actor": e.actor, "reason": e.reason}
            for e in entries
        ]  # fmt: skip
        shown = {"evidence": evidence, "proposed": proposed, "steps": named}
        output.result(recovery_words.incident_fields(incident) | shown)


def incident_raise(
    reason: ReasonOption,
    model: Annotated[int | None, typer.Option("--model", help="Which live model; needless when it is one.")] = None,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Raise an incident of the deployment in force by hand: what a page shows may be a model's fault, or not."""
    with ledger(folder) as conn:
        raised = incidents.raise_by_hand(conn, model, person(actor), reason)
        following = recovery_words.after_incident(conn, raised)
    output.say(f"incident {raised.incident_id}: model {raised.model_version} of epoch {raised.deployment_epoch}")
    watch = output.as_typed(f"clickledger incident show {raised.incident_id}")
    output.say(
        "where CLICKLEDGER_ROLLBACK_POLICY is auto, the default, workers roll it back and start its replay within "
        f"seconds: {watch}"
    )
    output.hint(following)
    if as_json:
        output.result(recovery_words.incident_fields(raised))


def incident_ack(
    incident_id: IncidentArgument,
    reason: Annotated[str, typer.Option("--reason", help="It goes into the log.")] = "",
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that you are at it; the incident is in your hands from now on."""
    with ledger(folder) as conn:
        entry = incidents.acknowledge(conn, incident_id, person(actor), reason)
        incident = incidents.get(conn, incident_id)
    output.say(f"incident {incident_id} is in the hands of {entry.actor}")
    output.hint(f"clickledger incident show {incident_id}")
    if as_json:
        output.result(recovery_words.incident_fields(incident) | {"held_by": entry.actor, "position": entry.position})


def incident_note(
    incident_id: IncidentArgument,
    text: Annotated[str, typer.Argument(help="What is to be remembered.")],
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write something down with an incident; it goes into the log and moves nothing."""
    with ledger(folder) as conn:
        entry = incidents.note(conn, incident_id, text, person(actor))
    output.say(f"noted at position {entry.position}")
    output.hint(f"clickledger incident show {incident_id}")
    if as_json:
        output.result({"incident_id": incident_id, "position": entry.position})


def incident_summary(incident_id: IncidentArgument, folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """Print an incident for those it concerns, ready to paste, on stdout."""
    from clickledger.console import incident_summary as summary  # noqa: PLC0415 - as the rollback below

    with ledger(folder, Role.AUDITOR_READER) as conn:
        said = summary.facts(conn, incidents.get(conn, incident_id))
    if as_json:
        output.result(said | {"text": summary.text(said)})
    else:
        print(summary.text(said))


def incident_abandon(
    incident_id: IncidentArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set an incident aside; only what happens from now on can raise it again."""
    with ledger(folder) as conn:
        moved = incidents.move(conn, incident_id, incidents.Status.ABANDONED, person(actor), reason)
    output.say(f"incident {incident_id} is abandoned")
    output.hint("clickledger incident list")
    if as_json:
        output.result(recovery_words.incident_fields(moved))


def rollback(
    reason: ReasonOption,
    incident_id: Annotated[int | None, typer.Option("--incident", help="Roll this incident's model back.")] = None,
    model: Annotated[int | None, typer.Option("--model", help="Roll this model version back.")] = None,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fence a bad model and put the last stable one in force, unless another one was deployed meanwhile.

    Its batches in flight are refused from then on. What was considered to go back to is shown, with the reasons.
    """
    from clickledger.recovery import rollback as rollback_  # noqa: PLC0415 - loads numpy, which others need not pay

    if (incident_id is None) == (model is None):
        raise errors.InvalidInput("rollback: expected one of --incident and --model")
    with ledger(folder) as conn:
        if incident_id is not None:
            done = rollback_.roll_back_incident(conn, incidents.get(conn, incident_id), person(actor), reason)
        else:
            done = rollback_.roll_back(conn, int(model or 0), person(actor), reason)
        considered = [] if done is None else rollback_.considered(conn, done)
        following = _after_rollback(conn, incident_id, done)
    if considered:
        recovery_words.show_considered(considered)
    if done is None:
        output.say(f"incident {incident_id}: its model was fenced before")
    else:
        revoked = ", ".join(map(str, done.revoked_epochs))
        output.say(f"epoch {done.epoch} is in force since position {done.position}")
        output.say(f"revoked, so that nothing they decide is accepted any more: epochs {revoked}")
    for command in following:
        output.hint(command)
    if as_json:
        fields = {} if done is None else done._asdict() | {"considered": considered}
        output.result({"incident_id": incident_id, **fields})


def _after_rollback(
    conn: database.Connection, incident_id: int | None, done: deployments.RolledBack | None
) -> list[str]:
    """The replays that follow, their ids filled in."""
    if incident_id is not None or done is None:
        watch = output.as_typed(f"clickledger incident show {incident_id}")
        output.say(f"where CLICKLEDGER_AUTO_REPLAY is on, workers start its replay: {watch}")
        return [f"clickledger replay plan --incident {incident_id}"]
    deciding = deployments.models_of(deployments.current(conn).routing)
    model = deciding.pop() if len(deciding) == 1 else "MODEL"
    return [f"clickledger replay plan --deployment {epoch} --model {model}" for epoch in done.revoked_epochs]
