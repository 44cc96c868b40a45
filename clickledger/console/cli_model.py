"""`clickledger model ...`: train, evaluate and list; judge, promote and roll back."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clickledger.console import model_dataset, model_evaluation, model_promotion, output, services
from clickledger.console.cli_services import HomeOption, JsonOption, load
from clickledger.ledger import database, deployments
from clickledger.ledger.rights import Role
from clickledger.settings import Settings

SELECT_MODELS = """
    SELECT m.model_version, m.kind, encode(m.digest, 'hex'), l.recorded_at, l.actor, c.calibration_version
    FROM models m JOIN log l ON l.position = m.registered_position
    LEFT JOIN (SELECT model_version, max(calibration_version) AS calibration_version FROM calibrations GROUP BY 1) c
    USING (model_version) ORDER BY 1"""
ActorOption = Annotated[str, typer.Option("--actor", help="Who does this; goes into the log.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    models = typer.Typer(no_args_is_help=True, help="Train, evaluate, judge, promote and roll back models.")
    models.command()(train)
    models.command()(model_evaluation.evaluate)
    models.command(name="list")(list_models)
    model_promotion.register(models)
    model_dataset.register(models)
    app.add_typer(models, name="model")


def train(
    kind: Annotated[str, typer.Option(help="network, logistic_regression or velocity.")] = "network",
    fpr_max: Annotated[float, typer.Option(help="Budget: invalidated share of purchasing clicks.")] = 0.01,
    guarded: Annotated[
        bool, typer.Option("--guarded", help="Mature and capped labels only; guardrails may refuse the data.")
    ] = False,
    overridden: Annotated[
        int | None, typer.Option(help="Train on the refused set that the override at this position lets pass.")
    ] = None,
    at_knee: Annotated[bool, typer.Option("--at-knee", help="Budget: the FPR at the knee of the curve.")] = False,
    coverage_min: Annotated[float, typer.Option(help="Least share of crowded sessions' clicks, by slice.")] = 0.3,
    reason: Annotated[str, typer.Option(help="Why; goes into the log.")] = "training by hand",
    actor: ActorOption = "cli",
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train and calibrate a model on everything the ledger holds; it is registered, not deployed."""
    from clickledger.scoring import (  # noqa: PLC0415 - loads torch, which others need not pay
        allocation,
        guardrails,
        labels,
        learn,
    )

    rules = labels.DAILY if guarded else labels.AS_RECORDED
    guarding = guardrails.Guarding(overridden=overridden) if guarded or overridden is not None else None

    settings = services.attach(load(folder))
    with _connected(settings, Role.REPLAYER) as conn, output.progress(f"training a {kind}"):
        learned = learn.learn(
            conn,
            actor=actor,
            reason=reason,
            kind=kind,
            fpr_max=None if at_knee else fpr_max,
            config=allocation.CalibrationConfig(coverage_min=coverage_min),
            rules=rules,
            guarding=guarding,
        )
    output.say(
        f"model {learned.model_version} with calibration {learned.calibration_version}, "
        f"from {learned.rows} clicks with {learned.purchases} outcomes: {learned.metrics}"
    )
    output.hint(f"clickledger model judge {learned.model_version}")
    if as_json:
        output.result(
            {
                "model_version": learned.model_version,
                "calibration_version": learned.calibration_version,
                "rows": learned.rows,
                "purchases": learned.purchases,
                "metrics": learned.metrics,
            }
        )


def list_models(folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """Registered models with their newest calibration; the live ones are marked."""
    settings = services.attach(load(folder))
    with _connected(settings, Role.AUDITOR_READER) as conn:
        current = deployments.current(conn)
        rows = conn.execute(SELECT_MODELS).fetchall()
    live = deployments.models_of(current.routing)
    shadow = (current.routing.get("shadow") or {}).get("model")
    listed: list[dict[str, Any]] = [
        {
            "model_version": version,
            "kind": kind,
            "digest": digest,
            "registered_at": at,
            "actor": actor,
            "calibration_version": calibration,
            "state": "live" if version in live else "shadow" if version == shadow else "",
        }
        for version, kind, digest, at, actor, calibration in rows
    ]
    columns = ("model", "kind", "calibration", "state", "registered at", "actor")
    of = ("model_version", "kind", "calibration_version", "state", "registered_at", "actor")
    lines = [[m[name] for name in of] for m in listed]
    output.rows(f"models; deployment epoch {current.epoch}", columns, lines)
    output.hint("clickledger model judge MODEL")
    if as_json:
        output.result({"epoch": current.epoch, "routing": current.routing, "models": listed})


def _connected(settings: Settings, role: Role) -> database.Connection:
    """Who deploys decides what is in force: that is the replayer's, as a rollback is."""
    return database.connect(str(settings.database_url), application_name="clickledger model", role=role)
