"""Who gives a command: the same name in every command."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from commands import Command

from clickledger import errors
from clickledger.console import acting, cli


def commands(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command of the program with its words."""
    for word, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, f"{name} {word}")
        else:
            yield f"{name} {word}".strip(), one


def test_a_person_has_one_name_given_or_not() -> None:
    user = getpass.getuser()
    assert acting.person() == acting.person(user) == acting.person(f" {user} ") == acting.person(f"cli:{user}")
    assert acting.person("ann") == "cli:ann" != acting.person()


def test_who_has_no_name_is_nobody_in_particular(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert acting.person() == acting.BY_HAND
    assert acting.person("ann") == "cli:ann"


@pytest.mark.parametrize("given", ["", "  ", "cli:", "cli: "])
def test_an_empty_name_is_a_wrong_input(given: str, command: Command) -> None:
    with pytest.raises(errors.InvalidInput, match="actor: expected a name"):
        acting.person(given)
    answer = command("replay", "pause", 7, "--reason", "why", "--actor", given)
    assert answer.code == 2 and "actor: expected a name" in answer.said


def test_no_command_has_a_name_of_its_own_for_whoever_gives_it() -> None:
    program: Any = typer.main.get_command(cli.program())
    asked = {
        name: parameter for name, one in commands(program) for parameter in one.params if "--actor" in parameter.opts
    }
    assert {
        "replay publish",
        "model train",
        "model judge",
        "model promote",
        "model rollback",
        "model override",
    } <= asked.keys()
    assert [name for name, parameter in asked.items() if parameter.default is not None] == []
    assert [name for name, parameter in asked.items() if parameter.required] == ["model override"]
