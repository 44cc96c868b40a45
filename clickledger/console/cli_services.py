"""`clickledger up`, `down` and `status`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

from clickledger import errors, settings
from clickledger.console import home, lifecycle, output, services
from clickledger.ledger import database, deployments, partitions
from clickledger.ledger.rights import Role

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Where data, logs and keys live; default: $CLICKLEDGER_HOME.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(
    no_workers: Annotated[bool, typer.Option("--no-workers", help="Servers and migration only.")] = False,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start PostgreSQL, Valkey, the workers and the API; whatever runs already is left alone."""
    chosen = load(folder)
    runtime = lifecycle.up(chosen, workers=not no_workers)
    output.say(f"clickledger is up in {chosen.home}")
    if runtime.processes:
        output.say(f"API: {runtime.http_url}")
    output.hint("clickledger status; stop with: clickledger down")
    if as_json:
        output.result(
            {
                "home": chosen.home,
                "database_url": services.without_password(str(runtime.database_url)),
                "redis_url": services.without_password(str(runtime.redis_url)),
                "http_url": runtime.http_url if runtime.processes else None,
                "processes": {name: running.process.pid for name, running in runtime.processes.items()},
            }
        )


def down(folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """Stop the API, the workers and the local servers. Nothing is lost."""
    chosen = load(folder)
    stopped = lifecycle.down(chosen)
    output.say(f"stopped: {', '.join(stopped)}" if stopped else f"nothing ran in {chosen.home}")
    output.hint("clickledger up")
    if as_json:
        output.result({"home": chosen.home, "stopped": stopped})


def status(folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show every server and process. Exit code 0 when all that was started is ready, else 5."""
    chosen = load(folder)
    states = lifecycle.status(chosen)
    healthy = all(state.healthy for state in states)
    watched, counting = _watched(chosen, states)
    output.rows(
        f"clickledger in {chosen.home}",
        ("name", "state", "pid", ""),
        ((state.name, state.state, state.pid or "", state.detail) for state in states),
    )
    for warning in watched.warnings if watched else []:
        output.say(f"warning: {warning}")
    if counting and counting["cold_until"]:
        output.say(f"note: snapshots are cold until {counting['cold_until']}: the windows of 24 h are not full yet")
    if counting and counting["facts_version"]:
        output.say(f"facts: snapshots are recorded with table {counting['facts_version']}")
    if healthy:
        output.hint("clickledger incident list")
    else:
        output.hint(f"clickledger up; logs are in {home.at(chosen.home).log}")
    if as_json:
        seen = {"partitions": None if watched is None else asdict(watched) | {"warnings": watched.warnings}}
        output.result(_fields(chosen, states, healthy) | seen | {"counters": counting})
    if not healthy:
        raise typer.Exit(5)


def _watched(
    chosen: settings.Settings, states: list[services.State]
) -> tuple[partitions.Watch | None, dict[str, Any] | None]:
    """Where the day partitions and the counters stand; None while the database does not answer or has no ledger yet."""
    if not any(state.name == "postgres" and state.healthy for state in states):
        return None, None
    try:
        url = services.attach(chosen).database_url
        with database.connect(str(url), application_name="clickledger status", role=Role.AUDITOR_READER) as conn:
            return partitions.watch(conn), _counting(conn)
    except (errors.Unavailable, errors.Refused, psycopg.errors.UndefinedTable):
        return None, None


def _counting(conn: database.Connection) -> dict[str, Any]:
    """The counter epoch and table of facts in force (0: none), and the event time until which snapshots are cold."""
    from clickledger.scoring import warmth  # noqa: PLC0415 - loads numpy, which `up` and `down` need not pay

    epoch = deployments.current_counter_epoch(conn)
    full_ms = warmth.read(conn).full_from_ms(epoch)
    until = None if full_ms is None else datetime.fromtimestamp(full_ms / 1000, UTC)
    cold = until is not None and until > datetime.now(UTC)
    return {
        "counter_epoch": epoch,
        "facts_version": deployments.facts_version(deployments.current(conn).routing),
        "cold_until": until.isoformat(timespec="seconds") if cold and until else None,
    }


def _fields(chosen: settings.Settings, states: list[services.State], healthy: bool) -> dict[str, Any]:
    runtime = home.read(home.at(chosen.home))
    named = {state.name: {key: value for key, value in asdict(state).items() if key != "name"} for state in states}
    return {"home": chosen.home, "healthy": healthy, "http_url": runtime.http_url, "states": named}


def load(folder: Path | None) -> settings.Settings:
    """The settings, with `--home` over the environment."""
    if folder is None:
        return settings.load()
    output.name_home(folder)
    return settings.load(home=folder)
