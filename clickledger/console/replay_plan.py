"""`clickledger replay plan` and `start`: what a replay would do, by a digest; and that very replay."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from clickledger import errors
from clickledger.console import moments, output
from clickledger.console import recovery_words as words
from clickledger.console.acting import ActorOption, person
from clickledger.console.cli_recovery import ReasonOption
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.recovery_words import attached, connected, ledger
from clickledger.ledger import database, deployments, runs
from clickledger.ledger.authority_map import BACKTEST, RANGE

if TYPE_CHECKING:  # importing it takes a second: models come with torch
    from clickledger.recovery.plans import Plan, What

IncidentOption = Annotated[int | None, typer.Option("--incident", help="What this incident's model decided.")]
PositionsOption = Annotated[
    tuple[int, int] | None, typer.Option("--positions", help="Log positions [LO, HI).", metavar="LO HI")
]
TimesOption = Annotated[
    tuple[str, str] | None,
    typer.Option("--times", help="What was recorded from SINCE until UNTIL (ISO 8601; UTC).", metavar="SINCE UNTIL"),
]
DeploymentOption = Annotated[int | None, typer.Option("--deployment", help="What this deployment epoch decided.")]
CountersOption = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--counters",
        help="Counters were wrong from SINCE until UNTIL: recompute that, and what it poisoned.",
        metavar="SINCE UNTIL",
    ),
]
MarginOption = Annotated[float, typer.Option("--margin", help="With --counters: seconds before SINCE.", min=0)]
ModelOption = Annotated[int | None, typer.Option("--model", help="The model version; not with --incident.")]
CalibrationOption = Annotated[int | None, typer.Option("--calibration", help="Of that model; else its newest.")]
RecomputeOption = Annotated[
    bool, typer.Option("--recompute", help="Count features again from the log; without --model by each one's own.")
]
BacktestOption = Annotated[
    bool, typer.Option("--backtest", help="What a candidate would have decided; never published.")
]
SliceOption = Annotated[
    list[str] | None, typer.Option("--slice", help="Only this slice; carry the others. Repeatable.")
]
AdvertiserOption = Annotated[
    list[str] | None, typer.Option("--advertiser", help="Only this advertiser, others carried; repeatable.")
]


def register(replay: typer.Typer) -> None:
    """Add these commands to `clickledger replay`."""
    replay.command()(plan)
    replay.command()(start)


def plan(
    incident_id: IncidentOption = None,
    positions: PositionsOption = None,
    times: TimesOption = None,
    deployment: DeploymentOption = None,
    counters: CountersOption = None,
    margin: MarginOption = 600.0,
    model: ModelOption = None,
    calibration: CalibrationOption = None,
    recompute: RecomputeOption = False,
    backtest: BacktestOption = False,
    slices: SliceOption = None,
    advertisers: AdvertiserOption = None,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a replay would do: clicks, flips and money, duration, what cannot be replayed. Starts nothing."""
    from clickledger.recovery import plans, preview  # noqa: PLC0415 - loads numpy, which others need not pay
    from clickledger.recovery.redecide import SCOPE_ADVERTISERS, SCOPE_SLICES  # noqa: PLC0415 - as above

    ranges = (incident_id, positions, times, deployment, counters)
    if sum(given is not None for given in ranges) != 1:
        raise errors.InvalidInput("expected one of --incident, --positions, --times, --deployment and --counters")
    scope = {name: wanted for name, wanted in ((SCOPE_SLICES, slices), (SCOPE_ADVERTISERS, advertisers)) if wanted}
    chosen = attached(folder)
    with connected(chosen) as conn, output.progress("counting what is to be decided again, and deciding a sample"):
        if incident_id is not None:
            if model is not None or calibration is not None or recompute or backtest:
                raise errors.InvalidInput("--incident: expected no model and no mode, it names them itself")
            made = plans.for_incident(conn, incident_id, scope)
        else:
            recompute = recompute or counters is not None
            what = _what(conn, model, calibration, recompute, backtest, scope)
            made = _of_range(conn, positions, times, deployment, counters, timedelta(seconds=margin), what)
        shown = preview.preview(conn, made, chosen.replay_workers)
        others = [] if incident_id is None else plans.also_decided(conn, incident_id)
        plans.keep(conn, made, shown.fields(), person(actor))
    words.show_plan(made, shown)
    for run in others:
        again = output.as_typed(f"clickledger replay plan --positions {run.lo} {run.hi} --model MODEL")
        output.say(f"run {run.run_id}, in force, was decided by that model too, and is not in this plan: {again}")
    output.hint(f"clickledger replay start {made.digest} --reason ...")
    if as_json:
        beside = {"also_decided": [{"run_id": run.run_id, "positions": [run.lo, run.hi]} for run in others]}
        output.result(asdict(made) | {"digest": made.digest} | shown.fields() | beside)


def _what(
    conn: database.Connection,
    model: int | None,
    calibration: int | None,
    recompute: bool,
    backtest: bool,
    scope: dict[str, list[str]],
) -> What:
    """By what the options decide. Raises InvalidInput without a model where one is needed."""
    from clickledger.recovery.plans import What  # noqa: PLC0415 - loads numpy

    mode, kind = runs.RECOMPUTE if recompute else runs.RESCORE, BACKTEST if backtest else RANGE
    if model is None:
        if calibration is not None or backtest or not recompute:
            raise errors.InvalidInput("--model: expected the model to decide by, got none")
        return What((runs.OWN, runs.OWN), scope, mode, kind)
    chosen = deployments.newest_calibration(conn, model) if calibration is None else calibration
    return What((model, chosen), scope, mode, kind)


def _of_range(
    conn: database.Connection,
    positions: tuple[int, int] | None,
    times: tuple[str, str] | None,
    deployment: int | None,
    counters: tuple[str, str] | None,
    margin: timedelta,
    what: What,
) -> Plan:
    from clickledger.recovery import plans  # noqa: PLC0415 - loads numpy

    if positions is not None:
        return plans.for_positions(conn, *positions, what)
    if times is not None:
        return plans.for_times(conn, moments.moment(times[0], "times"), moments.moment(times[1], "times"), what)
    if counters is not None:
        return plans.for_counters(
            conn, moments.moment(counters[0], "counters"), moments.moment(counters[1], "counters"), margin, what
        )
    return plans.for_deployment(conn, int(deployment or 0), what)


def start(
    digest: Annotated[str, typer.Argument(metavar="PLAN", help="The digest that `replay plan` showed.")],
    reason: ReasonOption,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a planned replay; the workers take it from here. Exit code 4 when the plan is unknown or stale."""
    from clickledger.recovery import plans, replay  # noqa: PLC0415 - loads numpy, which others need not pay

    with ledger(folder) as conn:
        made = plans.find(conn, digest)
        run = replay.start(conn, made, person(actor), reason)
    by = words.decided_by(run.model_version, run.calibration_version, run.routes)
    output.say(f"run {run.run_id} replays {run.row_count} clicks through {by}")
    output.hint(f"clickledger replay watch {run.run_id}")
    if as_json:
        output.result({"run_id": run.run_id, "clicks": run.row_count, "plan": made.digest})
