"""What people read beside the answer."""

from __future__ import annotations

from contextvars import copy_context
from pathlib import Path

import pytest

from clickledger.console import output


def test_a_hint_names_the_home_folder_and_the_program_as_this_shell_finds_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hinted() -> None:
        output.name_home(Path("/a ledger"))
        output.hint("clickledger up && clickledger replay compare 7, to publish it again")

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.argv", [".venv/bin/clickledger"])
    copy_context().run(hinted)

    program, home = ".venv/bin/clickledger", "--home '/a ledger'"
    expected = f"next: {program} up {home} && {program} replay compare {home} 7, to publish it again\n"
    assert capsys.readouterr().err == expected
