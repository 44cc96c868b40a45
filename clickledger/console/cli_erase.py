"""`clickledger erase-identities`: destroys the key of the pseudonyms."""

from __future__ import annotations

from typing import Annotated

import typer

from clickledger import errors
from clickledger.console import home, output, processes, services
from clickledger.console.acting import ActorOption, person
from clickledger.console.cli_services import HomeOption, JsonOption, load
from clickledger.ledger import database
from clickledger.ledger.rights import Role
from clickledger.settings import Settings

INTAKE = ("api",)  # processes of `up` that hold the key in memory


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command("erase-identities")(erase_identities)


def erase_identities(
    reason: Annotated[str, typer.Option(help="Why; goes into the log.")],
    yes: Annotated[bool, typer.Option("--yes", help="Nothing brings the key back: say that you know.")] = False,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Destroy the key of the pseudonyms: nobody can tell any more whose clicks are whose. All users count as new.

    The ledger still verifies. Copies of the key file in backups and snapshots are yours to destroy. Exit code 1 when it
    completed an earlier call that had been cut short, and a key made since is in use.
    """
    from clickledger.scoring import erasure, pseudonym_key  # noqa: PLC0415 - loads what other commands need not pay

    settings = services.attach(load(folder))
    _check_key_is_ours(settings)
    _check_nobody_holds_it(settings)
    path = pseudonym_key.file_of(settings)
    if not yes:
        raise errors.Refused(f"this destroys {path} for good, for every user in the ledger: expected --yes")
    late = erasure.is_cut_short(path)
    with database.connect(str(settings.database_url), application_name="clickledger erase", role=Role.INGESTER) as conn:
        erased = erasure.erase(conn, path, person(actor), reason)
    output.say(f"the key of the pseudonyms is destroyed, entry {erased.position}, fingerprint {erased.fingerprint}")
    output.say("not reached: backups and snapshots of the key file, old blocks of the disk, processes elsewhere")
    if in_use := late and path.exists():
        output.say(
            f"that completed an erasure which had been cut short; {path} holds another key, made since and in use"
        )
        output.hint("clickledger erase-identities --reason ... --yes, once more, to destroy that one")
    else:
        output.hint("clickledger up; the next click makes a new key, and every user counts as new")
    if as_json:
        told = {"position": erased.position, "fingerprint": erased.fingerprint, "key_file": path}
        output.result(told | {"other_key_in_use": in_use})
    if in_use:
        raise typer.Exit(1)


def _check_key_is_ours(settings: Settings) -> None:
    if settings.pseudonym_key is not None:
        raise errors.Refused(
            "the key is given by the setting pseudonym_key, which cannot be destroyed from here: destroy it where it "
            "is kept, give every process a new one (or none: it is then made in a file), and note that in your records"
        )


def _check_nobody_holds_it(settings: Settings) -> None:
    running = home.read(home.at(settings.home)).processes
    if alive := [name for name in INTAKE if name in running and processes.alive(running[name].process)]:
        raise errors.Refused(
            f"{', '.join(alive)} holds the key in memory: expected no intake while it is destroyed; "
            "clickledger down, then clickledger up --no-workers, and this again"
        )
