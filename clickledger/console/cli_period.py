"""`clickledger period`: which months are closed for billing, and closing one.

Closing cannot be taken back: what that is is said, and ends with exit code 3, unless `--yes` is given.
"""

from __future__ import annotations

from typing import Annotated

import typer

from clickledger import errors
from clickledger.console import output
from clickledger.console.acting import ActorOption, person
from clickledger.console.cli_recovery import ReasonOption
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.recovery_words import ledger
from clickledger.ledger import billing
from clickledger.ledger.rights import Role


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    group = typer.Typer(help="Months closed for billing.", no_args_is_help=True)
    group.command()(close)
    group.command("list")(list_periods)
    app.add_typer(group, name="period")


def close(
    period: Annotated[str, typer.Argument(metavar="MONTH", help="YYYY-MM, UTC, by the clicks' event time.")],
    reason: ReasonOption,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, it is only said.")] = False,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Close a month that is over: later corrections of its clicks post to the month they are recorded in."""
    with ledger(folder) as conn:
        if not yes:
            raise errors.Refused(
                f"close {period}: no line posts to it any more, back-charges are written off, and it is never open "
                "again; add --yes to do it"
            )
        position = billing.close_period(conn, period, person(actor), reason)
    output.say(f"period {period} is closed since position {position}; comparisons made before it are stale")
    output.hint("clickledger period list")
    if as_json:
        output.result({"period": period, "position": position})


def list_periods(folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the closed months; all others are open."""
    with ledger(folder, Role.AUDITOR_READER) as conn:
        found = billing.closed_periods(conn)
    lines = [(c.period, c.position, f"{c.recorded_at:%Y-%m-%d %H:%M:%S}", c.actor, c.reason) for c in found]
    output.rows(f"{len(found)} closed periods", ("period", "position", "closed at", "who", "why"), lines)
    output.hint("clickledger totals")
    if as_json:
        output.result({"closed": [c._asdict() for c in found]})
