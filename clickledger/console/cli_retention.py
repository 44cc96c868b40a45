"""`clickledger retention`: legal holds, and days that are older than the retention leaving the ledger.

Detaching takes a day out of everybody's sight and dropping destroys it: both say what they are about to do and end with
exit code 3 unless `--yes` is given. Each success names the next command.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from clickledger import errors
from clickledger.console import output
from clickledger.console.acting import ActorOption, person
from clickledger.console.cli_recovery import ReasonOption
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.recovery_words import ledger
from clickledger.ledger import departed, partitions, retention
from clickledger.ledger.rights import Role

DayArgument = Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], metavar="DAY", help="UTC day, YYYY-MM-DD.")]
LastArgument = Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], metavar="LAST", help="Last day, included.")]
MonthsOption = Annotated[int, typer.Option("--months", min=1, help="Retention: younger days stay.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do it; without, it is only said.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    group = typer.Typer(help="Legal holds, and old days leaving the ledger.", no_args_is_help=True)
    for command in (hold, release, holds, plan, show, detach, drop):
        group.command()(command)
    app.add_typer(group, name="retention")


def hold(
    first: DayArgument,
    last: LastArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep days from being detached or dropped, until the hold is released."""
    with ledger(folder, Role.OWNER) as conn:
        made = retention.hold(conn, first.date(), last.date(), person(actor), reason)
    output.say(f"legal hold {made.hold_id}: {made.first_day} to {made.last_day} stay")
    output.hint("clickledger retention holds")
    if as_json:
        output.result(asdict(made))


def release(
    hold_id: Annotated[int, typer.Argument(metavar="HOLD", help="Hold id, from `retention holds`.")],
    reason: ReasonOption,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lift a legal hold."""
    with ledger(folder, Role.OWNER) as conn:
        made = retention.release(conn, hold_id, person(actor), reason)
    output.say(f"legal hold {hold_id} over {made.first_day} to {made.last_day} is released")
    output.hint("clickledger retention plan")
    if as_json:
        output.result(asdict(made))


def holds(folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """List all legal holds, released ones included."""
    with ledger(folder, Role.AUDITOR_READER) as conn:
        found = retention.holds(conn, released=True)
    lines = [(h.hold_id, h.first_day, h.last_day, h.released_position or "in force") for h in found]
    output.rows(f"{len(found)} legal holds", ("hold", "first day", "last day", "released at"), lines)
    output.hint("clickledger retention plan")
    if as_json:
        output.result({"holds": [asdict(h) for h in found]})


def plan(months: MonthsOption = retention.MONTHS, folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the days that are older than the retention, what keeps each, and those that left. Changes nothing."""
    with ledger(folder, Role.AUDITOR_READER) as conn:
        found, left, halfway = retention.plan(conn, months), retention.detached(conn), departed.halfway(conn)
    columns = ("day", "clicks, about", "MB", "may leave")
    lines = [(c.day, c.clicks, f"{c.size_bytes / 1e6:.1f}", c.refused or "yes") for c in found]
    output.rows(f"{len(found)} days older than {months} months", columns, lines)
    for line in halfway:
        output.say(f"warning: {line}")
    kept = [d for d in left if d.dropped_position is None]
    output.say(f"{len(left)} days were detached, the tables of {len(kept)} of them are still there")
    ready = [c.day for c in found if c.refused is None]
    output.hint(f"clickledger retention detach {ready[0]} --reason WHY --yes" if ready else "clickledger status")
    if as_json:
        output.result({"days": [asdict(c) for c in found], "detached": [asdict(d) for d in left], "halfway": halfway})


def show(day: DayArgument, folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what left with a detached day, by campaign: what its charges told and its decisions billed, in micros."""
    with ledger(folder, Role.AUDITOR_READER) as conn:
        found, sums = retention.get(conn, day.date()), departed.sums_of(conn, day.date())
    output.say(f"{found.day}: {found.clicks} clicks, detached at position {found.position}")
    output.rows("what left with it", departed.Money._fields, sums)
    output.hint(_next_of(found))
    if as_json:
        output.result(asdict(found) | {"sums": [row._asdict() for row in sums]})


def detach(
    day: DayArgument,
    reason: ReasonOption,
    months: MonthsOption = retention.MONTHS,
    yes: YesOption = False,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take an old day out of everybody's sight. Its tables and its place in the proof stay. Repeat it if it failed."""
    with ledger(folder, Role.OWNER) as conn:
        if not yes:
            raise errors.Refused(
                f"detach {day:%Y-%m-%d}: its clicks and decisions can be read and corrected no more, the sums stay; "
                "add --yes to do it"
            )
        with output.progress(f"detaching {day:%Y-%m-%d}: each row is compared with its leaf"):
            done = retention.detach(conn, day.date(), person(actor), reason, months)
    output.say(f"{done.day} left at position {done.position}: {done.clicks} clicks, {done.delayed} delayed decisions")
    output.hint(_next_of(done))
    if as_json:
        output.result(asdict(done))


def drop(
    day: DayArgument,
    reason: ReasonOption,
    yes: YesOption = False,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Destroy the tables of a detached day; export them before."""
    names = " ".join(f"-t {partitions.name_of(parent, day.date())}" for parent in partitions.PARENTS)
    with ledger(folder, Role.OWNER) as conn:
        if not yes:
            raise errors.Refused(
                f"drop {day:%Y-%m-%d}: its rows are gone for ever; export them (pg_dump {names}), then add --yes"
            )
        done = retention.drop(conn, day.date(), person(actor), reason)
    output.say(f"the tables of {done.day} were dropped at position {done.dropped_position}")
    output.hint("clickledger audit verify")
    if as_json:
        output.result(asdict(done))


def _next_of(found: retention.Detached) -> str:
    if found.dropped_position is not None:
        return "clickledger audit verify"
    return f"clickledger audit verify; when exported: clickledger retention drop {found.day} --reason WHY --yes"
