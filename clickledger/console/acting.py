"""Who gives a command: one name for the log, made in one way for every command, since four eyes compare names."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from clickledger.errors import InvalidInput

BY_HAND = "cli"  # whoever has no name: all of these are one person
PREFIX = f"{BY_HAND}:"
ActorOption = Annotated[str | None, typer.Option("--actor", help="Who does this, for the log; else the user's name.")]


def person(given: str | None = None) -> str:
    """`cli:NAME` of whoever gives the command: as they say, or the user's name of the operating system.

    Raises InvalidInput for an empty name. `cli` where the user has none, as in some containers.
    """
    if given is not None and not given.removeprefix(PREFIX).strip():
        raise InvalidInput(f"actor: expected a name, got {given!r}")
    try:
        name = getpass.getuser() if given is None else given.removeprefix(PREFIX).strip()
    except (KeyError, OSError):
        return BY_HAND
    return PREFIX + name
