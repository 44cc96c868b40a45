"""The program's shell: exit codes, one-line errors, JSON as the last line of stdout."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
import typer

from clickledger import errors, settings
from clickledger.console import cli, home, output

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CLICKLEDGER_HOME", str(tmp_path))
    return tmp_path


def run_command(monkeypatch: pytest.MonkeyPatch, body: Callable[[], None]) -> int:
    """Run the real program with one more command, `probe`, whose body is given."""
    app = cli.program()
    app.command("probe")(body)
    monkeypatch.setattr(cli, "program", lambda: app)
    return cli.run(["probe"])


def failing(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


ERRORS = [
    (errors.InvariantBroken("x"), 1),
    (errors.VerificationFailed("x"), 1),
    (errors.InvalidInput("x"), 2),
    (errors.InvalidSetting("x"), 2),
    (errors.NotFound("x"), 2),
    (errors.Refused("x"), 3),
    (errors.StalePlan("x"), 4),
    (errors.OutdatedRun("x"), 4),
    (errors.Unavailable("x"), 5),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS])
def test_each_error_has_its_exit_code_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    error.args = ("expected 12,\n  got 11",)
    assert run_command(monkeypatch, failing(error)) == code
    assert capsys.readouterr() == ("", "error: expected 12, got 11\n")


def test_a_defect_is_one_line_that_names_a_file_with_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_home: Path
) -> None:
    home.prepare(own_home)
    assert run_command(monkeypatch, failing(KeyError("surprise"))) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("error: KeyError: 'surprise'; this is a defect, details in ")
    file = Path(said.split(" in ")[-1].strip())
    assert file.parent == own_home / "log"
    assert "in body" in file.read_text()


def test_a_full_disk_is_said_in_so_many_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, failing(OSError(errno.ENOSPC, "No space left on device", "/x"))) == 5
    assert capsys.readouterr().err.startswith("error: disk full: ")


def test_a_defect_is_told_in_a_file_that_nobody_else_reads_in_the_home_that_was_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail() -> None:
        output.name_home(tmp_path)
        raise KeyError("surprise")

    (tmp_path / "log").mkdir()
    assert copy_context().run(run_command, monkeypatch, fail) == 1
    [file] = (tmp_path / "log").iterdir()
    assert f"details in {file}" in capsys.readouterr().err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("error", [KeyboardInterrupt()])
def test_an_interrupt_is_130_and_says_nothing_of_a_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    assert run_command(monkeypatch, failing(error)) == 130
    assert "defect" not in capsys.readouterr().err


def test_a_command_may_choose_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_command(monkeypatch, failing(typer.Exit(1))) == 1
    assert run_command(monkeypatch, lambda: None) == 0


@pytest.mark.parametrize("words", [["nope"], ["up", "--nope"], ["up", "surplus"]])
def test_a_wrong_command_line_is_2_and_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_a_wrong_setting_ends_a_command_before_it_does_anything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_home: Path
) -> None:
    monkeypatch.setenv("CLICKLEDGER_HTTP_PORT", "many")
    assert cli.run(["up"]) == 2
    assert capsys.readouterr().err.startswith("error: CLICKLEDGER_HTTP_PORT: expected a valid integer")
    assert list(own_home.iterdir()) == []


def test_status_of_nothing_is_5_with_the_same_object_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["status", "--json"]) == 5
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["healthy"] is False
    assert {name: state["state"] for name, state in answer["states"].items()} == {
        "postgres": "stopped",
        "valkey": "stopped",
    }


def test_external_servers_that_do_not_answer_are_5(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLICKLEDGER_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/x")
    monkeypatch.setenv("CLICKLEDGER_REDIS_URL", "redis://:hunter2@127.0.0.1:1")
    assert cli.run(["up"]) == 5
    assert cli.run(["status", "--json"]) == 5
    printed = capsys.readouterr()
    assert "error: " in printed.err
    assert "hunter2" not in printed.out + printed.err


@pytest.mark.usefixtures("template_database")  # whose migrations made the roles, which are the server's
def test_database_without_a_ledger_is_named_and_3(
    servers: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("CLICKLEDGER_DATABASE_URL", servers.database_url)
    monkeypatch.setenv("CLICKLEDGER_REDIS_URL", servers.redis_url)
    code = copy_context().run(cli.run, ["totals", "--home", str(tmp_path)])
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (3, 1)
    assert said.startswith(
        f"error: expected a migrated ledger (clickledger up --home {tmp_path}) in this database, got: "
    )


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    command = [sys.executable, "-m", "clickledger.console.cli", "status", "--json"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        command,
        env={**inherited, "PYTHONPATH": str(REPOSITORY), "CLICKLEDGER_HOME": "/nonexistent"},
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write_end)
    assert done.returncode in {1, -signal.SIGPIPE}
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
