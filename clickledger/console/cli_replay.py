"""`clickledger replay`: decide past clicks again, compare, publish, undo.

Publishing needs the digest of the comparison that was looked at: a wrong or stale one ends with exit code 4. Each
success names the next command.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clickledger import errors
from clickledger.console import output
from clickledger.console import recovery_words as words
from clickledger.console.cli_recovery import ReasonOption
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.recovery_words import actor, attached, connected, ledger
from clickledger.ledger import comparison, database, runs
from clickledger.ledger.authority_map import RANGE
from clickledger.ledger.rights import Role
from clickledger.recovery import progress, publishing

if TYPE_CHECKING:  # importing it takes a second: models come with torch
    from clickledger.recovery.replay import Plan

STATED = "stated"  # what a sparse run decides by, in place of a model
IncidentOption = Annotated[int | None, typer.Option("--incident", help="Replay what this incident's model decided.")]
PositionsOption = Annotated[
    tuple[int, int] | None, typer.Option("--positions", help="Log positions [LO, HI) instead.", metavar="LO HI")
]
ModelOption = Annotated[int | None, typer.Option("--model", help="With --positions: the model version.")]
CalibrationOption = Annotated[int | None, typer.Option("--calibration", help="With --positions: the calibration.")]
SliceOption = Annotated[
    list[str] | None, typer.Option("--slice", help="Only this slice; carry the others. Repeatable.")
]
AdvertiserOption = Annotated[
    list[str] | None, typer.Option("--advertiser", help="Only this advertiser, others carried; repeatable.")
]
RunArgument = Annotated[int, typer.Argument(metavar="RUN", help="Run id, from `replay list`.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    replay = typer.Typer(help="Decide past clicks again, compare, publish, undo.", no_args_is_help=True)
    for command in (plan, start, watch, compare, publish, revert, abandon, retry):
        replay.command()(command)
    replay.command("list")(list_runs)
    app.add_typer(replay, name="replay")


def _plan(
    conn: database.Connection,
    incident_id: int | None,
    positions: tuple[int, int] | None,
    versions: tuple[int | None, int | None],
    slices: list[str] | None,
    advertisers: list[str] | None,
) -> Plan:
    """The plan that the options describe. Raises InvalidInput when they describe none."""
    from clickledger.recovery import redecide, replay  # noqa: PLC0415 - loads torch, as below

    named = {redecide.SCOPE_SLICES: slices, redecide.SCOPE_ADVERTISERS: advertisers}
    scope = {name: wanted for name, wanted in named.items() if wanted}
    model, calibration = versions
    if incident_id is not None and positions is None and versions == (None, None):
        return replay.for_incident(conn, incident_id, scope)
    if incident_id is None and positions is not None and model is not None and calibration is not None:
        return replay.for_positions(conn, *positions, model, calibration, scope)
    raise errors.InvalidInput("expected --incident, or --positions with --model and --calibration")


def plan(
    incident_id: IncidentOption = None,
    positions: PositionsOption = None,
    model: ModelOption = None,
    calibration: CalibrationOption = None,
    slices: SliceOption = None,
    advertisers: AdvertiserOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a replay would do: clicks, flips and money, duration, what cannot be replayed. Writes nothing."""
    from clickledger.recovery import replay  # noqa: PLC0415 - loads torch, which others need not pay

    chosen = attached(folder)
    with connected(chosen) as conn:
        made = _plan(conn, incident_id, positions, (model, calibration), slices, advertisers)
        preview = replay.preview(conn, made, chosen.replay_workers)
    words.show_plan(made, preview)
    output.hint(f"clickledger replay start {words.options_of(made)} --plan {made.digest} --reason ...")
    if as_json:
        estimate = asdict(preview.estimate) | {"flips": preview.estimate.flips}
        shown = {k: v for k, v in asdict(made).items() if k != "last_chain_hash"} | {"digest": made.digest}
        output.result(shown | {"clicks": preview.clicks, "estimate": estimate, "seconds": preview.seconds,
                               "not_replayed": preview.not_replayed})  # fmt: skip


def start(
    reason: ReasonOption,
    incident_id: IncidentOption = None,
    positions: PositionsOption = None,
    model: ModelOption = None,
    calibration: CalibrationOption = None,
    slices: SliceOption = None,
    advertisers: AdvertiserOption = None,
    digest: Annotated[str | None, typer.Option("--plan", help="The plan's digest; refused when it changed.")] = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a replay; the workers take it from here. Nothing in force changes before it is published."""
    from clickledger.recovery import replay  # noqa: PLC0415 - loads torch, which others need not pay

    with ledger(folder) as conn:
        made = _plan(conn, incident_id, positions, (model, calibration), slices, advertisers)
        run = replay.start(conn, made, actor(), reason, digest=digest)
    output.say(f"run {run.run_id} replays {run.row_count} clicks through model {run.model_version}")
    output.hint(f"clickledger replay watch {run.run_id}")
    if as_json:
        output.result({"run_id": run.run_id, "clicks": run.row_count, "plan": made.digest})


def list_runs(folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """List all replay runs and where they stand."""
    with ledger(folder, Role.AUDITOR_READER) as conn:
        found = progress.listed(conn)
    columns = ("run", "stage", "clicks", "chunks done", "positions", "model", "incident")
    lines = [
        (
            r.run_id,
            r.stage,
            r.clicks,
            f"{r.done}/{r.chunks}",
            f"[{r.lo}, {r.hi})",
            r.model_version or STATED,
            r.incident_id or "",
        )
        for r in found
    ]
    output.rows(f"{len(found)} runs", columns, lines)
    if found:
        output.hint(f"clickledger replay watch {found[-1].run_id}")
    if as_json:
        output.result({"runs": [words.run_fields(r) for r in found]})


def watch(
    run_id: RunArgument,
    seconds: Annotated[float, typer.Option("--timeout", help="Give up after so many seconds; 0 = never.")] = 0.0,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a replay until it is compared. Exit code 3 when it is stuck or abandoned, 5 on a timeout."""
    with ledger(folder, Role.AUDITOR_READER) as conn:
        run = words.follow(conn, run_id, seconds)
        if run.stage == "stuck":
            for number, attempts, error in progress.quarantined(conn, run_id):
                output.say(f"chunk {number} failed {attempts} times: {error}")
            raise errors.Refused(
                f"run {run_id}: {run.quarantined} chunks are quarantined; clickledger replay retry {run_id}"
            )
        if run.stage == "abandoned":
            raise errors.Refused(f"run {run_id} was abandoned")
        compared = comparison.latest(conn, run_id)
    words.show_comparison(compared)
    output.hint(words.after_comparison(run, compared))
    if as_json:
        output.result(words.run_fields(run) | {"comparison": words.comparison_fields(compared)})


def compare(
    run_id: RunArgument,
    report: Annotated[Path | None, typer.Option("--report", help="Write a page with all of it and pictures.")] = None,
    last: Annotated[bool, typer.Option("--last", help="Show the newest comparison; make none.")] = False,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a finished run with what is in force now: flips, money, rates. Earlier comparisons of it become stale.

    A run that is published is shown as it was compared before.
    """
    from clickledger.recovery import effects  # noqa: PLC0415 - for these two commands only

    with ledger(folder) as conn:
        run = progress.of_run(conn, run_id)
        if not last and run.stage != "published":
            publishing.compare(conn, run_id, actor())
            run = progress.of_run(conn, run_id)
        compared = comparison.latest(conn, run_id)
        detailed = effects.of_run(conn, run_id) if runs.get(conn, run_id).kind == RANGE else None
    words.show_comparison(compared)
    if detailed is not None:
        words.show_effects(detailed)
        if report is not None:
            from clickledger.console import comparison_report, report_page  # noqa: PLC0415 - loads matplotlib

            report_page.write(report, comparison_report.page(detailed))
            output.say(f"report: {report}")
    elif report is not None:
        raise errors.Refused(f"run {run_id} corrects single clicks: a report is of a run over a range")
    output.hint(words.after_comparison(run, compared))
    if as_json:
        fields = {} if detailed is None else {"effects": effects.fields(detailed)}
        output.result(words.comparison_fields(compared) | fields)


def publish(
    run_id: RunArgument,
    digest: Annotated[str, typer.Option("--digest", help="Of the comparison you looked at.")],
    reason: ReasonOption,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a run's decisions in force, all at once. Exit code 4 when the digest or the comparison is stale."""
    with ledger(folder) as conn:
        done = publishing.publish(conn, run_id, digest, actor(), reason)
    output.say(f"run {run_id} is in force since position {done.position} ({done.seconds * 1000:.1f} ms)")
    output.hint(f"clickledger replay revert {run_id} --reason ... would undo it")
    if as_json:
        output.result({"run_id": run_id, "position": done.position, "milliseconds": done.seconds * 1000})


def revert(run_id: RunArgument, reason: ReasonOption, folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """Take a publication away: what it covered decides again."""
    with ledger(folder) as conn:
        done = publishing.revert(conn, run_id, actor(), reason)
    output.say(f"run {run_id} is no longer in force since position {done.position} ({done.seconds * 1000:.1f} ms)")
    output.hint(f"clickledger replay compare {run_id}, to publish it again")
    if as_json:
        output.result({"run_id": run_id, "position": done.position, "milliseconds": done.seconds * 1000})


def abandon(run_id: RunArgument, reason: ReasonOption, folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """Give a run up; its rows stay as evidence."""
    with ledger(folder) as conn:
        publishing.abandon(conn, run_id, actor(), reason)
    output.say(f"run {run_id} is abandoned")
    output.hint("clickledger replay list")
    if as_json:
        output.result({"run_id": run_id})


def retry(run_id: RunArgument, folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """Give the quarantined chunks of a run their attempts back."""
    from clickledger.recovery import chunks  # noqa: PLC0415 - loads torch, which others need not pay

    with ledger(folder) as conn:
        released = chunks.release_quarantined(conn, run_id)
    output.say(f"run {run_id}: {released} chunks are to do again")
    output.hint(f"clickledger replay watch {run_id}")
    if as_json:
        output.result({"run_id": run_id, "released": released})
