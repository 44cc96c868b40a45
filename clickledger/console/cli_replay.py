"""`clickledger replay`: decide past clicks again, compare, publish, undo.

Publishing needs the digest of the comparison that was looked at: a wrong or stale one ends with exit code 4. Each
success names the next command.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from clickledger import errors, settings
from clickledger.console import output, replay_plan, replay_watch
from clickledger.console import recovery_words as words
from clickledger.console.acting import ActorOption, person
from clickledger.console.cli_recovery import ReasonOption
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.recovery_words import attached, connected, ledger
from clickledger.ledger import comparison, four_eyes, runs
from clickledger.ledger.authority_map import SPARSE
from clickledger.ledger.rights import Role
from clickledger.recovery import progress, publishing, throttle

STATED = "stated"  # what a sparse run decides by, in place of a model
RunArgument = Annotated[int, typer.Argument(metavar="RUN", help="Run id, from `replay list`.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    replay = typer.Typer(help="Decide past clicks again, compare, publish, undo.", no_args_is_help=True)
    replay_plan.register(replay)
    for command in (watch, pause, resume, cancel, retry, compare, publish, revert):
        replay.command()(command)
    replay.command("propose-revert")(propose_revert)
    replay.command("list")(list_runs)
    replay.command("proposals")(list_proposals)
    app.add_typer(replay, name="replay")


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
    else:
        output.hint("clickledger replay plan --help")
    if as_json:
        output.result({"runs": [words.run_fields(r) for r in found]})


def list_proposals(folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """List proposed corrections that wait for somebody: undecided clicks resolved, purchases that came late."""
    from clickledger.recovery import due_corrections  # noqa: PLC0415 - loads numpy, which others need not pay

    with ledger(folder, Role.AUDITOR_READER) as conn:
        found = due_corrections.listed(conn)
    columns = ("run", "proposed at", "what", "clicks", "flips", "billed, change", "digest")
    lines = [
        (p.run_id, p.proposed_at.isoformat(), p.what, p.clicks, p.summary["flips"], _change(p.summary), p.digest)
        for p in found
    ]
    output.rows(f"{len(found)} proposals", columns, lines)
    if found:
        first = found[0]
        output.hint(f"clickledger replay publish {first.run_id} --digest {first.digest} --reason ...")
    else:
        output.hint("clickledger replay list")
    if as_json:
        output.result({"proposals": [p._asdict() for p in found]})


def _change(summary: dict[str, int]) -> str:
    return f"{(summary['adjustments_micros'] + summary['write_off_micros']) / words.MICROS:+,.2f}"


def watch(
    run_id: RunArgument,
    seconds: Annotated[float, typer.Option("--timeout", help="Give up after so many seconds; 0 = never.")] = 0.0,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a replay until it is compared; ^C detaches, the replay goes on.

    Exit code 3 when it is stuck or abandoned, 5 on a timeout.
    """
    chosen = attached(folder)
    with connected(chosen, Role.AUDITOR_READER) as conn:
        try:
            run = replay_watch.follow(conn, run_id, seconds, lambda: _held_up(chosen))
        except KeyboardInterrupt:
            _detach(run_id, as_json)
            return
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


def _held_up(chosen: settings.Settings) -> str | None:
    """What workers say when they give way to live traffic, if they do now."""
    limit = chosen.replay_live_p99_ms_max
    found = throttle.live_p99_ms(str(chosen.redis_url)) if limit and chosen.redis_url else None
    if found is None or found <= limit:
        return None
    return f"live p99 is {found:.1f} ms: workers give way above {limit:g} (CLICKLEDGER_REPLAY_LIVE_P99_MS_MAX)"


def _detach(run_id: int, as_json: bool) -> None:
    """End watching; the run is the workers' and goes on."""
    output.say(f"detached; run {run_id} goes on")
    output.hint(f"clickledger replay watch {run_id}")
    if as_json:
        output.result({"run_id": run_id, "detached": True})


def pause(
    run_id: RunArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give out no more chunks of a run; those under way are finished."""
    with ledger(folder) as conn:
        runs.pause(conn, run_id, person(actor), reason)
    output.say(f"run {run_id} is paused")
    output.hint(f"clickledger replay resume {run_id} --reason ...")
    if as_json:
        output.result({"run_id": run_id})


def resume(
    run_id: RunArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a paused run, where it stood."""
    with ledger(folder) as conn:
        runs.resume(conn, run_id, person(actor), reason)
    output.say(f"run {run_id} goes on")
    output.hint(f"clickledger replay watch {run_id}")
    if as_json:
        output.result({"run_id": run_id})


def compare(
    run_id: RunArgument,
    report: Annotated[Path | None, typer.Option("--report", help="Write a page with all of it and pictures.")] = None,
    last: Annotated[bool, typer.Option("--last", help="Show the newest comparison; make none.")] = False,
    actor: ActorOption = None,
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
            with output.progress(f"comparing run {run_id} with what is in force"):
                publishing.compare(conn, run_id, person(actor))
            run = progress.of_run(conn, run_id)
        compared = comparison.latest(conn, run_id)
        detailed = effects.of_run(conn, run_id) if runs.get(conn, run_id).kind != SPARSE else None
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
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a run's decisions in force, all at once. Exit code 4 when the digest or the comparison is stale."""
    chosen = attached(folder)
    with connected(chosen) as conn:
        done = publishing.publish(conn, run_id, digest, person(actor), reason, publishing.caps_of(chosen))
    output.say(f"run {run_id} is in force since position {done.position} ({done.seconds * 1000:.1f} ms)")
    output.hint(f"clickledger replay revert {run_id} --reason ... would undo it")
    if as_json:
        output.result({"run_id": run_id, "position": done.position, "milliseconds": done.seconds * 1000})


def revert(
    run_id: RunArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a publication away: what it covered decides again."""
    chosen = attached(folder)
    with connected(chosen) as conn:
        done = publishing.revert(conn, run_id, person(actor), reason, publishing.caps_of(chosen))
    output.say(f"run {run_id} is no longer in force since position {done.position} ({done.seconds * 1000:.1f} ms)")
    output.hint(f"clickledger replay compare {run_id}, to publish it again")
    if as_json:
        output.result({"run_id": run_id, "position": done.position, "milliseconds": done.seconds * 1000})


def propose_revert(
    run_id: RunArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Propose that somebody else reverts a publication: above a cap it takes two people."""
    with ledger(folder) as conn:
        entry = four_eyes.propose_revert(conn, run_id, person(actor), reason)
    output.say(f"reverting run {run_id} is proposed, at position {entry.position}")
    output.hint(f"clickledger replay revert {run_id} --reason ..., by somebody else")
    if as_json:
        output.result({"run_id": run_id, "position": entry.position})


def cancel(
    run_id: RunArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a run up, at any stage but published; its rows stay as evidence."""
    with ledger(folder) as conn:
        publishing.abandon(conn, run_id, person(actor), reason)
    output.say(f"run {run_id} is cancelled; what it decided stays as evidence")
    output.hint("clickledger replay list")
    if as_json:
        output.result({"run_id": run_id})


class Reprocess(StrEnum):
    """Which chunks are to be done again."""

    MISSING = "missing"
    FAILED = "failed"
    ALL = "all"


def retry(
    run_id: RunArgument,
    reprocess: Annotated[
        Reprocess,
        typer.Option(
            "--reprocess",
            help="failed: quarantined chunks get their attempts back; missing: leases are taken back as well, whoever "
            "holds them; all: a new run takes this one's place, which is abandoned.",
        ),
    ] = Reprocess.FAILED,
    reason: Annotated[str, typer.Option("--reason", help="Why; with `all` it goes into the log.")] = "",
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Do chunks of a run again: those that failed, those that are missing, or all."""
    from clickledger.recovery import chunks, replay  # noqa: PLC0415 - loads numpy, which others need not pay

    released = 0
    with ledger(folder) as conn:
        if reprocess is Reprocess.ALL:
            run_id = replay.again(conn, run_id, person(actor), reason or f"in place of run {run_id}").run_id
            output.say(f"run {run_id} decides all of them again")
        else:
            released = chunks.release(conn, run_id, leased=reprocess is Reprocess.MISSING)
            output.say(f"run {run_id}: {released} chunks are to do again")
    output.hint(f"clickledger replay watch {run_id}")
    if as_json:
        output.result({"run_id": run_id, "released": released})
