"""`clickledger model list`, `show` and `history`: what there is, what is known of it, what it was and is used for."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clickledger.console import model_card, moments, output
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.model_promotion import ModelArgument
from clickledger.console.recovery_words import ledger
from clickledger.ledger import aliases, deployments, log
from clickledger.ledger.rights import Role

SELECT_MODELS = """
    SELECT m.model_version, m.kind, encode(m.digest, 'hex'), l.recorded_at, l.actor, c.calibration_version
    FROM models m JOIN log l ON l.position = m.registered_position
    LEFT JOIN (SELECT model_version, max(calibration_version) AS calibration_version FROM calibrations
               WHERE set_position <= %(position)s GROUP BY 1) c
    USING (model_version) WHERE m.registered_position <= %(position)s ORDER BY 1"""
AsOfOption = Annotated[
    str | None, typer.Option("--as-of", help="As it was at a position of the log, a day (its first moment) or a time.")
]


def register(models: typer.Typer) -> None:
    """Add these commands to `clickledger model`."""
    models.command(name="list")(list_models)
    models.command()(show)
    models.command()(history)


def list_models(as_of: AsOfOption = None, folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """Registered models with their newest calibration, and what they are used for: live, canary, stable, candidate."""
    with ledger(folder, Role.AUDITOR_READER) as conn:
        position = moments.position(conn, as_of)
        epoch, routing = aliases.as_of(log.read(conn, kinds=aliases.KINDS), position)
        rows = conn.execute(SELECT_MODELS, {"position": position}).fetchall()
    used = aliases.of(routing)
    names = ("model_version", "kind", "digest", "registered_at", "actor", "calibration_version")
    listed: list[dict[str, Any]] = [
        {**dict(zip(names, row, strict=True)), "aliases": aliases.names_of(used, row[0])} for row in rows
    ]
    columns = ("model", "kind", "newest calibration", "used as", "registered at", "actor")
    of = ("model_version", "kind", "calibration_version", "aliases", "registered_at", "actor")
    lines = [[", ".join(m[name]) if name == "aliases" else m[name] for name in of] for m in listed]
    output.rows(f"models; deployment epoch {epoch} at position {position}", columns, lines)
    for name in aliases.NAMES:
        if used[name]:
            output.say(f"{name}: {model_card.pairs(used[name])}")
    facts_version = deployments.facts_version(routing)
    if facts_version:
        output.say(f"facts: snapshots are recorded with table {facts_version} (clickledger facts show {facts_version})")
    output.hint("clickledger model show MODEL; clickledger model history; clickledger model judge MODEL")
    if as_json:
        fields = {"position": position, "epoch": epoch, "routing": routing, "aliases": model_card.stated(used)}
        output.result({**fields, "facts_version": facts_version, "models": listed})


def show(model: ModelArgument, folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """What is known of a model: its set, guardrails, figures, thresholds by slice, where it was used."""
    with ledger(folder, Role.AUDITOR_READER) as conn, output.progress(f"reading what the log says of model {model}"):
        card = model_card.of(conn, model)
    model_card.tell(card)
    output.hint(f"clickledger model history; clickledger model compare STABLE {model}")
    if as_json:
        output.result(card)


def history(
    alias: Annotated[str | None, typer.Option(help=f"Only one of {', '.join(aliases.NAMES)}.")] = None,
    as_of: AsOfOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """How live, canary, stable and candidate changed: when, by whom, why."""
    if alias is not None and alias not in aliases.NAMES:
        raise typer.BadParameter(f"expected one of {', '.join(aliases.NAMES)}, got {alias!r}", param_hint="--alias")
    with ledger(folder, Role.AUDITOR_READER) as conn:
        position = moments.position(conn, as_of)
        entries = [entry for entry in log.read(conn, kinds=aliases.KINDS) if entry.position <= position]
    changes = [change for change in aliases.changes(entries) if alias in {None, change.alias}]
    columns = ("position", "at", "alias", "from", "to", "by", "epoch", "who", "why")
    lines = [
        (c.position, c.recorded_at.isoformat(timespec="seconds"), c.alias, model_card.pairs(c.before),
         model_card.pairs(c.after), c.kind, c.epoch, c.actor, c.reason) for c in changes
    ]  # fmt: skip
    output.rows(f"{len(changes)} changes up to position {position}", columns, lines)
    output.hint("clickledger model list --as-of POSITION; clickledger model show MODEL")
    if as_json:
        told = [
            {**c._asdict(), "before": model_card.named(c.before), "after": model_card.named(c.after)} for c in changes
        ]
        output.result({"position": position, "changes": told})
