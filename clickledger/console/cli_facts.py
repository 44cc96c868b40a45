"""`clickledger facts ...`: tables of what is known of addresses, registered, put in force and out of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clickledger.console import output
from clickledger.console.acting import ActorOption, person
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.recovery_words import ledger
from clickledger.ledger.rights import Role

if TYPE_CHECKING:
    from clickledger.ledger import database

VersionArgument = Annotated[int, typer.Argument(help="Version of a table, from `facts list`.")]
ReasonOption = Annotated[str, typer.Option(help="Why; goes into the log. Required.")]
COLUMNS = ("version", "name", "rows", "digest", "by", "when", "", "why")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    facts = typer.Typer(
        no_args_is_help=True, help="Tables of slow facts: which networks are data centres. Registered, then deployed."
    )
    facts.command("set")(set_table)
    facts.command()(deploy)
    facts.command()(withdraw)
    facts.command("list")(list_tables)
    facts.command()(show)
    app.add_typer(facts, name="facts")


def set_table(
    name: Annotated[str, typer.Argument(help="What it is a table of: data_centre_networks.")],
    file: Annotated[
        Path, typer.Argument(help="One network a line, as 192.0.2.0/24 or 2001:db8::/32; # begins a remark.")
    ],
    reason: ReasonOption,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a table; it is not in force until it is deployed. The same file again keeps its version."""
    from clickledger.scoring import facts, networks  # noqa: PLC0415 - numpy, for the commands that need it

    facts.require_name(name)
    content = facts.read_file(file)
    table = networks.parse(content)
    with ledger(folder) as conn:
        version = facts.register(conn, name, content, actor=person(actor), reason=reason)
        told = _told(conn, version)
    output.say(
        f"version {version} of {name}: {table.rows:,} networks, {table.ipv4_addresses:,} IPv4 addresses among them; "
        f"digest {told['digest'][:12]}"
    )
    output.hint(f"clickledger facts deploy {version} --reason WHY")
    if as_json:
        output.result({**told, "ipv4_addresses": table.ipv4_addresses})


def deploy(
    version: VersionArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a table in force: from now on snapshots say of each address whether it is a data centre's.

    Models stay as they are. A model that was trained without it does not read it; one that reads it can be deployed.
    """
    epoch = _put_in_force(version, reason, actor, folder)
    output.say(f"epoch {epoch}: snapshots are recorded with table {version}")
    output.hint("clickledger model train, once all clicks of its range have the flag")
    if as_json:
        output.result({"epoch": epoch, "facts_version": version})


def withdraw(
    reason: ReasonOption, actor: ActorOption = None, folder: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Record snapshots without a table again. Refused (3) while a model that decides or runs in shadow reads it."""
    epoch = _put_in_force(0, reason, actor, folder)
    output.say(f"epoch {epoch}: snapshots are recorded without a table of facts")
    output.hint("clickledger facts list")
    if as_json:
        output.result({"epoch": epoch, "facts_version": 0})


def _put_in_force(version: int, reason: str, actor: str | None, folder: Path | None) -> int:
    from clickledger.scoring import facts_deployment  # noqa: PLC0415 - loads numpy, which others need not pay

    with ledger(folder) as conn:
        return facts_deployment.put_in_force(conn, version, actor=person(actor), reason=reason)


def list_tables(folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """All registered tables, the newest first, and which one is in force."""
    from clickledger.ledger import deployments, fact_tables  # noqa: PLC0415 - imported only by the command that needs it

    with ledger(folder, Role.AUDITOR_READER) as conn:
        tables = fact_tables.listed(conn)
        in_force = deployments.facts_version(deployments.current(conn).routing)
    output.rows("tables of facts", COLUMNS, [_line(table, in_force) for table in tables])
    output.hint(f"clickledger facts show {tables[0]['version']}" if tables else "clickledger facts set --help")
    if as_json:
        output.result({"tables": tables, "in_force": in_force})


def _line(table: dict[str, Any], in_force: int) -> tuple[object, ...]:
    registered = table["actor"], f"{table['recorded_at']:%Y-%m-%d %H:%M}"
    what = table["version"], table["name"], f"{table['rows']:,}", table["digest"][:12]
    return *what, *registered, "in force" if table["version"] == in_force else "", table["reason"]


def show(
    version: VersionArgument,
    address: Annotated[
        list[str] | None, typer.Option("--address", help="Say of this address whether it is in it; as often as wanted.")
    ] = None,
    write: Annotated[Path | None, typer.Option("--output", "-o", help="Write its file here; a new file.")] = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """One table: who registered it, when and why; its file, to the byte; what it says of addresses."""
    from clickledger.console import simulated_files  # noqa: PLC0415 - imported only by the command that needs it
    from clickledger.ledger import fact_tables  # noqa: PLC0415 - as above
    from clickledger.scoring import facts  # noqa: PLC0415 - as above

    with ledger(folder, Role.AUDITOR_READER) as conn:
        told = _told(conn, version)
        table = facts.load(conn, version)
        content = fact_tables.load(conn, version).content
    if write is not None:
        with simulated_files.new_files([write]) as (file,):
            file.write(content)
    said = {each: table.data_centre(each) for each in address or []}
    output.say(f"version {version} of {told['name']}: {told['rows']:,} networks, SHA-256 {told['digest']}")
    output.say(f"registered by {told['actor']} at {told['recorded_at']:%Y-%m-%d %H:%M:%S} UTC: {told['reason']}")
    for each, flag in said.items():
        output.say(f"  {each}: {('no address', 'not in it', 'a data centre')[flag + 1]}")
    output.hint(f"clickledger facts deploy {version} --reason WHY; clickledger facts list")
    if as_json:
        output.result({**told, "addresses": said})


def _told(conn: database.Connection, version: int) -> dict[str, Any]:
    from clickledger.ledger import fact_tables  # noqa: PLC0415 - imported only by the command that needs it

    entry = fact_tables.entry(conn, version)
    return {**entry.payload, "actor": entry.actor, "reason": entry.reason, "recorded_at": entry.recorded_at}
