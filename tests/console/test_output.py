"""What people read beside the answer."""

from __future__ import annotations

import re
import threading
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
        5,
        f"error: nothing runs under {tmp_path}: name another folder by --home, or start it with: "
        f"clickledger up --home {tmp_path}\n",
    )


def test_what_somebody_wrote_is_printed_as_it_is_and_never_as_markup_emoji_or_a_line_of_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.rows("[/title]", ("[/column]",), [("[/x]",), ("[see b]",), ("urn:id:7",), ("two\n\x1b[Alines",)])
    output.say("disk full [/var/log], urn:id:7, two\n\x1b[Alines")
    output.hint("[/y] :id:")
    output.error("[/z] \x1b[A")
    said = [line.strip() for line in capsys.readouterr().err.splitlines() if line.strip("━─ ")]
    assert said == [
        "[/title]", "[/column]", "[/x]", "[see b]", "urn:id:7", r"two\n\x1b[Alines",
        r"disk full [/var/log], urn:id:7, two\n\x1b[Alines", "next: [/y] :id:", r"error: [/z] \x1b[A",
    ]  # fmt: skip


def test_one_address_without_the_other_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLICKLEDGER_DATABASE_URL", "postgresql://nowhere/clickledger")
    monkeypatch.delenv("CLICKLEDGER_REDIS_URL", raising=False)
    assert copy_context().run(cli.run, ["totals", "--home", str(tmp_path)]) == 5
    assert f"no local server runs under {tmp_path}: expected CLICKLEDGER_REDIS_URL as well" in capsys.readouterr().err


@pytest.mark.parametrize("group", ["audit key", "facts", "incident", "model", "period", "replay", "retention"])
def test_home_is_named_after_the_whole_command_of_each_group(group: str) -> None:
    def typed() -> str:
        output.name_home(Path("/ledger"))
        return output.as_typed(f"clickledger {group} show 7")

    assert copy_context().run(typed).endswith(f"{group} show --home /ledger 7")


def test_where_nothing_draws_a_bar_lines_say_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    told = threading.Event()

    def note(text: str) -> None:
        said.append(text)
        if text.startswith("reading (clicks): 100"):
            told.set()

    monkeypatch.setattr(output, "LINE_SECONDS", 0.01)
    monkeypatch.setattr(output, "say", note)
    with output.progress("reading (clicks)", 400) as steps:
        steps.advance(100)
        assert told.wait(60)
    before = len(said)
    assert re.fullmatch(r"reading \(clicks\): 100 of 400 in \d+ s, about \d+ s left", said[-1])
    assert "progress" not in {thread.name for thread in threading.enumerate()}
    assert len(said) == before
    with output.progress("comparing") as steps:
        assert re.fullmatch(r"comparing: \d+ s so far", steps.line())


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
