"""`clickledger model ...`: train, and what modules called `model_*` add."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from clickledger.console import (
    model_compare,
    model_daily,
    model_dataset,
    model_evaluation,
    model_gallery,
    model_history,
    model_promotion,
    model_shadow,
    moments,
    output,
)
from clickledger.console.acting import ActorOption, person
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.recovery_words import ledger
from clickledger.errors import Refused
from clickledger.ledger import database

if TYPE_CHECKING:  # loads torch
    from clickledger.scoring.learn import Learned
    from clickledger.scoring.recipe import Recipe


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    models = typer.Typer(no_args_is_help=True, help="Train, evaluate, compare, judge, promote and roll back models.")
    models.command()(train)
    models.command()(model_evaluation.evaluate)
    models.command()(model_gallery.gallery)
    for module in (model_daily, model_dataset, model_history, model_compare, model_shadow, model_promotion):
        module.register(models)
    app.add_typer(models, name="model")


def train(
    kind: Annotated[
        str,
        typer.Option(
            help="network, deep_cross, logistic_regression, velocity; auto: deep_cross if it wins, else network."
        ),
    ] = "network",
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", help="Learn from what was recorded and known by then: a day (its first moment, UTC) or a time."
        ),
    ] = None,
    fpr_max: Annotated[float, typer.Option(help="Budget: invalidated share of purchasing clicks.")] = 0.01,
    guarded: Annotated[
        bool,
        typer.Option(
            "--guarded/--unguarded",
            help="Mature and capped labels, and guardrails may refuse the data; or every click and label.",
        ),
    ] = True,
    overridden: Annotated[
        int | None, typer.Option(help="Train on the refused set that the override at this position lets pass.")
    ] = None,
    at_knee: Annotated[bool, typer.Option("--at-knee", help="Budget: the FPR at the knee of the curve.")] = False,
    coverage_min: Annotated[float, typer.Option(help="Least share of crowded sessions' clicks, by slice.")] = 0.3,
    reason: Annotated[str, typer.Option(help="Why; goes into the log.")] = "training by hand",
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train and calibrate a model on what the ledger holds; it is registered, not deployed.

    Ends with 3 when there is too little data, or guardrails refuse it.
    """
    from clickledger.scoring import allocation, guardrails, learn  # noqa: PLC0415 - loads torch

    with ledger(folder) as conn, output.progress(f"training a {kind}"):
        recipe = _recipe(conn, as_of, guarded)
        try:
            learned = learn.learn(
                conn,
                actor=person(actor),
                reason=reason,
                kind=kind,
                fpr_max=None if at_knee else fpr_max,
                config=allocation.CalibrationConfig(coverage_min=coverage_min),
                up_to_position=recipe.up_to_position,
                label_cutoff_ms=recipe.label_cutoff_ms,
                rules=recipe.rules,
                guarding=guardrails.Guarding(overridden=overridden) if guarded or overridden is not None else None,
            )
        except Refused as refusal:
            if "too little data" in str(refusal):
                output.hint("clickledger model train --unguarded, which takes every click and label there is")
            raise
    _tell(learned)
    if as_json:
        output.result(
            {
                "model_version": learned.model_version,
                "calibration_version": learned.calibration_version,
                "rows": learned.rows,
                "purchases": learned.purchases,
                "metrics": learned.metrics,
                "as_of_ms": recipe.label_cutoff_ms,
                "up_to_position": recipe.up_to_position,
                "guarded": guarded,
                "too_little": list(learned.too_little),
            }
        )


def _recipe(conn: database.Connection, as_of: str | None, guarded: bool) -> Recipe:
    from clickledger.scoring import labels, learn  # noqa: PLC0415 - loads torch

    moment = datetime.now(UTC) if as_of is None else moments.moment(as_of)
    rules = labels.DAILY if guarded else labels.AS_RECORDED
    return learn.recipe_as_of(conn, moments.unix_ms(moment), rules)


def _tell(learned: Learned) -> None:
    output.say(
        f"model {learned.model_version} with calibration {learned.calibration_version}, "
        f"from {learned.rows} clicks with {learned.purchases} outcomes: {learned.metrics}"
    )
    for missed in learned.too_little:
        output.say(f"too little data: {missed}")
    output.hint(f"clickledger model judge {learned.model_version}; clickledger model shadow {learned.model_version}")
