"""`clickledger model daily`: the daily loop by hand, from where it stands."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clickledger.console import moments, output
from clickledger.console.acting import ActorOption, person
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.recovery_words import attached, connected
from clickledger.errors import ClickledgerError

if TYPE_CHECKING:
    from clickledger.scoring.daily_runs import Run


def register(models: typer.Typer) -> None:
    """Add this command to `clickledger model`."""
    models.command()(daily)


def daily(
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", help="The day, up to its scheduled time (UTC). Default: today, up to now."),
    ] = None,
    overridden: Annotated[
        int | None, typer.Option(help="After a refusal: train on the set that the override at this position lets pass.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Begin anew what was refused or failed that day.")] = False,
    reason: Annotated[str, typer.Option(help="Why; goes into the log.")] = "daily run by hand",
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train, calibrate and evaluate the model of a day and let it run in shadow; recalibrate what decides now.

    A run that was cut short goes on from its last step, one that is done is only told. Ends with 3 when the data is
    refused or too little, with 4 while another process is at it.
    """
    from dataclasses import replace  # noqa: PLC0415

    from clickledger.recovery import daily_training  # noqa: PLC0415 - loads numpy
    from clickledger.scoring import daily_runs, guardrails  # noqa: PLC0415

    chosen = attached(folder)
    now = datetime.now(UTC)
    day = now.date() if as_of is None else moments.day(as_of)
    at = None if as_of is None else chosen.daily_training_at or time(0)
    plan = daily_training.plan_of(day, at, now)
    plan = replace(plan, guarding=guardrails.Guarding(overridden=overridden))
    with connected(chosen) as conn, output.progress(f"daily run of {day}", total=len(daily_runs.Step)) as bar:

        def on_step(step: daily_runs.Step, done: bool) -> None:
            bar.describe(f"daily run of {day}: {step.value}")
            if done:
                bar.advance()
                output.say(f"{step.value}: done")

        try:
            ended = daily_training.run(
                conn, plan, actor=person(actor), reason=reason, on_step=on_step, again=again or overridden is not None
            )
        except ClickledgerError:
            _tell_refusal(daily_runs.of_day(conn, day), day.isoformat())
            raise
    _tell(ended)
    if as_json:
        output.result(_fields(ended))


def _tell_refusal(run: Run | None, day: str) -> None:
    from clickledger.scoring.daily_runs import Step  # noqa: PLC0415

    verdict = run.done.get(Step.GUARDRAILS) if run else None
    if verdict is not None and verdict.kind == "guardrail_refused":
        output.hint(
            f"clickledger model override {verdict.position} --actor WHO --reason WHY, "
            f"then clickledger model daily --as-of {day} --overridden POSITION"
        )


def _tell(run: Run) -> None:
    result = run.result or {}
    output.say(
        f"daily run of {run.day}, entry {run.position}: model {result['model_version']} with calibration "
        f"{result['calibration_version']}, {str(result['outcome']).replace('_', ' ')}"
    )
    for model, calibration in result["recalibrated"].items():
        output.say(f"model {model} was recalibrated: calibration {calibration}, in force once it is promoted")
    for model, why in result["not_recalibrated"].items():
        output.say(f"model {model} was not recalibrated: {why}")
    output.hint(f"clickledger model show {result['model_version']}; clickledger model list")


def _fields(run: Run) -> dict[str, Any]:
    steps = {step.value: entry.position for step, entry in run.done.items()}
    return {"day": run.day, "training": run.position, "steps": steps, **(run.result or {})}
