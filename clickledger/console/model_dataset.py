"""`clickledger model dataset` and `model override`: sets of training data, and refusals of them."""

from __future__ import annotations

from typing import Annotated

import typer

from clickledger.console import output, services
from clickledger.console.acting import person
from clickledger.console.cli_services import HomeOption, JsonOption, load
from clickledger.ledger import database
from clickledger.ledger.rights import Role

POSITION = "Log position of the entry."


def register(models: typer.Typer) -> None:
    """Add these commands to `clickledger model`."""
    models.command()(dataset)
    models.command()(override)


def dataset(
    position: Annotated[int, typer.Argument(help=POSITION)],
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a training set again from its entry (dataset_built) and the ledger, and compare it with the entry."""
    from clickledger.scoring import dataset as datasets  # noqa: PLC0415 - loads numpy, which others need not pay

    settings = services.attach(load(folder))
    with (
        database.connect(str(settings.database_url), application_name="clickledger model", role=Role.REPLAYER) as conn,
        output.progress(f"rebuilding the set of entry {position}"),
    ):
        built, recipe = datasets.rebuild(conn, position), datasets.recipe_of(conn, position)
    summary = built.summary()
    output.say(
        f"set of entry {position}: {summary['rows']:,} clicks, {summary['human']:,} labelled human, "
        f"{summary['purchased']:,} of them by an outcome; equal to its entry, digest {summary['digest']}"
    )
    output.hint("clickledger model list")
    if as_json:
        output.result({"position": position, "verified": True, **recipe.to_payload(), **summary})


def override(
    position: Annotated[int, typer.Argument(help=POSITION)],
    reason: Annotated[str, typer.Option(help="Why the refusal is wrong or worth it; goes into the log.")],
    actor: Annotated[str, typer.Option("--actor", help="Who does this, another than was refused; goes into the log.")],
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a set or a model pass that guardrails refused (guardrail_refused); takes a second person."""
    from clickledger.scoring import guardrails  # noqa: PLC0415 - loads numpy, which others need not pay

    settings = services.attach(load(folder))
    with database.connect(str(settings.database_url), application_name="clickledger model", role=Role.REPLAYER) as conn:
        entry = guardrails.override(conn, position, actor=person(actor), reason=reason)
    payload = entry.payload
    if payload["subject"] == guardrails.BEHAVIOUR:
        model, calibration = payload["model_version"], payload["calibration_version"]
        output.say(f"entry {entry.position}: {entry.actor} lets model {model} with calibration {calibration} pass")
        output.hint(f"clickledger model promote {model} --calibration {calibration} --canary")
    else:
        output.say(f"entry {entry.position}: {entry.actor} lets the set of entry {payload['dataset_position']} pass")
        output.hint(f"clickledger model train --overridden {entry.position}")
    if as_json:
        output.result({"position": entry.position, **payload})
