"""`clickledger model judge`, `promote`, `deploy` and `rollback`: how a model comes into force, and out of it again.

`promote` is the way for a model; `deploy` is the way around all guards, says so, and so does its entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clickledger import errors
from clickledger.console import cli_recovery, output
from clickledger.console.acting import ActorOption, person
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.recovery_words import ledger
from clickledger.ledger import database, deployments
from clickledger.ledger.rights import Role

if TYPE_CHECKING:  # comes with numpy, which others need not pay
    from clickledger.scoring.findings import Finding

REFUSED = errors.Refused.exit_code
ModelArgument = Annotated[int, typer.Argument(help="Model version, from `model list`.")]
CalibrationOption = Annotated[int | None, typer.Option(help="Calibration version; default the model's newest.")]


def register(models: typer.Typer) -> None:
    """Add these commands to `clickledger model`."""
    models.command()(judge)
    models.command()(promote)
    models.command()(deploy)
    models.command()(rollback)


def judge(
    model: ModelArgument,
    calibration: CalibrationOption = None,
    reason: Annotated[str, typer.Option(help="Why; goes into the log.")] = "before its promotion",
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge what a model does beside the stable one, on recent clicks; ends with 3 when a guard refuses it.

    Trains a logistic regression and the same recipe with another seed, so it takes about twice as long as training.
    """
    from clickledger.scoring import behaviour  # noqa: PLC0415 - loads torch, which others need not pay

    with ledger(folder) as conn, output.progress(f"judging model {model}") as steps:
        chosen = deployments.newest_calibration(conn, model) if calibration is None else calibration
        found = behaviour.judge(conn, model, chosen, actor=person(actor), reason=reason, progress=steps.describe)
    lines = [
        (f.guard, "passed" if f.passed else "REFUSED", f.sentence().split(": ", 1)[1], f.note) for f in found.findings
    ]
    beside = f"beside model {found.stable[0]}" if found.stable else "beside none"
    output.rows(
        f"model {model} with calibration {chosen} {beside}, entry {found.position}",
        ("guard", "", "figure", "note"),
        lines,
    )
    if found.passed:
        output.hint(f"clickledger model promote {model} --calibration {chosen} --canary")
    else:
        output.say(f"refused by {', '.join(finding.guard for finding in found.refusing)}")
        output.hint(f"clickledger model override {found.position} --reason WHY --actor SECOND_PERSON")
    if as_json:
        findings = [finding.to_payload() for finding in found.findings]
        fields = {"model_version": model, "calibration_version": chosen, "position": found.position}
        output.result({**fields, "passed": found.passed, "stable": found.stable, "findings": findings})
    if not found.passed:
        raise typer.Exit(REFUSED)


def _line(finding: Finding) -> tuple[str, str, str, str]:
    told = finding.sentence().removeprefix(f"{finding.guard}: ")
    return finding.guard, "passed" if finding.passed else "REFUSED", told, finding.note if finding.figure else ""


def promote(
    model: ModelArgument,
    calibration: CalibrationOption = None,
    canary: Annotated[bool, typer.Option("--canary", help="To a share of the users only: the first stage.")] = False,
    share: Annotated[float, typer.Option(help="Of the users, for a canary.")] = 0.05,
    shadow_hours_min: Annotated[float, typer.Option(help="Hours in shadow to ask for; goes into the log.")] = 24.0,
    canary_hours_min: Annotated[float, typer.Option(help="Hours as canary to ask for, before all.")] = 1.0,
    reason: Annotated[str, typer.Option(help="Why; goes into the log.")] = "promoted",
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a judged model in force: first as a canary (--canary), then for all users; the stable one runs in shadow.

    Refused (3) unless its guards of behaviour passed or a second person let it pass, and it ran in shadow.
    """
    from clickledger.recovery import promotion  # noqa: PLC0415 - loads torch, which others need not pay

    terms = promotion.Terms(shadow_hours_min, canary_hours_min, share)
    with ledger(folder) as conn:
        chosen = deployments.newest_calibration(conn, model) if calibration is None else calibration
        stage = promotion.begin_canary if canary else promotion.promote
        done = stage(conn, (model, chosen), actor=person(actor), reason=reason, terms=terms)
        watched = _watched(conn)
    whom = f"{share:.0%} of the users" if canary else "all users"
    output.say(f"epoch {done.epoch}: model {model} with calibration {chosen} decides for {whom}{watched}")
    if canary:
        output.hint(f"clickledger incident list; then: clickledger model promote {model} --calibration {chosen}")
    else:
        output.hint("clickledger incident list; undo with: clickledger model rollback --reason WHY")
    if as_json:
        output.result({"epoch": done.epoch, **done.stated})


def deploy(
    model: ModelArgument,
    unguarded: Annotated[
        bool, typer.Option("--unguarded", help="Say that no guard is passed; goes into the log. Required.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why no guard is passed; goes into the log. Required.")] = "",
    calibration: CalibrationOption = None,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a model in force for all traffic at once, PASSING NO GUARD: not judged, no shadow, no canary.

    For the first model of a ledger, and for emergencies. The one in force until now runs on in shadow. Every other
    model goes `model judge`, `model promote --canary`, `model promote`.
    """
    if not unguarded or not reason.strip():
        raise errors.Refused(
            f"deploying passes no guard: expected --unguarded and --reason WHY, or clickledger model judge {model}"
        )
    from clickledger.scoring import shadowing  # noqa: PLC0415 - loads numpy, which refusing need not pay

    with ledger(folder) as conn:
        chosen = deployments.newest_calibration(conn, model) if calibration is None else calibration
        shadowing.require_model_fed(conn, model)
        epoch = deployments.promote(conn, model, chosen, person(actor), reason, {"unguarded": True})
        watched = _watched(conn)
    output.say(f"epoch {epoch}: model {model} with calibration {chosen} decides; it passed no guard{watched}")
    output.hint("clickledger incident list; undo with: clickledger model rollback --reason WHY")
    if as_json:
        output.result({"epoch": epoch, "model_version": model, "calibration_version": chosen, "unguarded": True})


def _watched(conn: database.Connection) -> str:
    """Says so where the detector has nothing to compare the live model with."""
    from clickledger.scoring import bootstrap  # noqa: PLC0415 - loads numpy, which others need not pay

    shadow = deployments.current(conn).routing.get("shadow")
    if shadow and not bootstrap.is_rule_of_thumb(conn, int(shadow["model"])):
        return ""
    return "; no earlier model to compare it with: only pages watch it until the next one is promoted"


def rollback(
    reason: cli_recovery.ReasonOption,
    model: Annotated[int | None, typer.Argument(help="Model version; default the one that came last.")] = None,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fence a model and go back to the last stable one, as `clickledger rollback --model` does; a canary too."""
    if model is None:
        with ledger(folder, Role.AUDITOR_READER) as conn:
            model = deployments.newest_of(deployments.current(conn).routing)
    cli_recovery.rollback(reason=reason, incident_id=None, model=model, actor=actor, folder=folder, as_json=as_json)
