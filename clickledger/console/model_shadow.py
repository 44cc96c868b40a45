"""`clickledger model shadow`: let a model run beside the others to no effect, or take it out again."""

from __future__ import annotations

from typing import Annotated

import typer

from clickledger.console import output
from clickledger.console.acting import ActorOption, person
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.model_promotion import CalibrationOption, ModelArgument
from clickledger.console.recovery_words import ledger
from clickledger.ledger import aliases, deployments


def register(models: typer.Typer) -> None:
    """Add this command to `clickledger model`."""
    models.command()(shadow)


def shadow(
    model: ModelArgument,
    calibration: CalibrationOption = None,
    leave: Annotated[bool, typer.Option("--leave", help="Take it out of the shadow instead.")] = False,
    reason: Annotated[str, typer.Option(help="Why; goes into the log.")] = "by hand",
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a model run in shadow as a candidate, beside the stable one; of two others the older leaves."""
    from clickledger.scoring import shadowing  # noqa: PLC0415 - loads numpy, which others need not pay

    with ledger(folder) as conn:
        if leave:
            epoch = shadowing.leave(conn, model, actor=person(actor), reason=reason)
        else:
            chosen = deployments.newest_calibration(conn, model) if calibration is None else calibration
            epoch = shadowing.enter(conn, model, chosen, actor=person(actor), reason=reason)
        candidates = aliases.of(deployments.current(conn).routing)["candidate"]
    named = ", ".join(f"model {model} with calibration {calibration}" for model, calibration in candidates)
    output.say(f"epoch {epoch}: candidates in shadow are {named or 'none'}")
    output.hint(f"clickledger model judge {model}; clickledger model list")
    if as_json:
        told = [{"model": version, "calibration": of} for version, of in candidates]
        output.result({"epoch": epoch, "candidates": told})
