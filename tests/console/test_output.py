"""What people read beside the answer."""

from __future__ import annotations

from contextvars import copy_context
from pathlib import Path

import pytest

from clickledger.console import cli, output


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


def test_a_command_that_an_error_names_is_for_the_home_that_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(f"CLICKLEDGER_{name}", raising=False)
    code = copy_context().run(cli.run, ["totals", "--home", str(tmp_path)])
    assert (code, capsys.readouterr().err) == (
        5, f"error: nothing runs under {tmp_path}; start it with: clickledger up --home {tmp_path}\n",
    )  # fmt: skip


def test_tables_are_folded_for_a_screen_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    address = "postgresql://clickledger@/clickledger?host=" + 150 * "x"
    output.rows("servers", ("name", ""), [("postgres", address)])
    assert address in capsys.readouterr().err
    monkeypatch.setenv("COLUMNS", "80")
    output.rows("servers", ("name", ""), [("postgres", address)])
    assert address not in capsys.readouterr().err
