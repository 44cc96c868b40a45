"""Documentation: what it names exists."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import typer

from clickledger.console import cli
from clickledger.settings import PREFIX, Settings

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "ARCHITECTURE.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def test_every_setting_is_documented_and_no_other() -> None:
    text = (REPOSITORY / "docs" / "settings.md").read_text()
    documented = set(re.findall(rf"^\| `{PREFIX}(\w+)`", text, re.MULTILINE))
    assert documented == {name.upper() for name in Settings.model_fields}


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_modules_named_in_the_architecture_exist() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    for name in re.findall(r"`((?:ledger|scoring|recovery|console|migrations)/[\w/]+\.(?:py|sql|lua))`", text):
        assert (REPOSITORY / "clickledger" / name).exists(), name


def test_every_module_of_the_ledger_has_its_step_in_the_architecture() -> None:
    named = []
    for row in re.findall(r"^\| [^|]+ \| ([^|]+) \|", (REPOSITORY / "ARCHITECTURE.md").read_text(), re.MULTILINE):
        folder = ""
        for path in re.findall(r"`([^`]+)`", row):  # a folder holds for the names after it
            folder = path.rpartition("/")[0] or folder
            named.append(f"{folder}/{path.rpartition('/')[2] or '*'}")
    for package in ("ledger", "scoring", "recovery"):
        for module in (REPOSITORY / "clickledger" / package).glob("[!_]*.py"):
            assert any(fnmatch(f"{package}/{module.name}", pattern) for pattern in named), f"{package}/{module.name}"


def test_commands_and_options_named_in_the_documentation_exist() -> None:
    program: Any = typer.main.get_command(cli.program())
    for page in PAGES:
        for line in re.findall(r"\bclickledger ([a-z][^`\n]*)", "\n".join(_code(page.read_text()))):
            command, words = program, re.split(r"[,;]|\s+#|\s{2,}", line)[0].split()
            while words and hasattr(command, "commands"):
                assert words[0] in command.commands, f"{page.name}: clickledger {line}"
                command = command.commands[words.pop(0)]
            options = {option for known in command.params for option in (*known.opts, *known.secondary_opts)}
            unknown = {word for word in words if word.startswith("-")} - options
            assert not unknown, f"{page.name}: clickledger {line}: {unknown}"


def test_commands_shown_to_be_typed_name_what_they_cannot_do_without() -> None:
    program: Any = typer.main.get_command(cli.program())
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in re.findall(r"^clickledger ([a-z].*)", block, re.MULTILINE):
                command, words = program, re.split(r"\s+#", line)[0].split()
                while words and hasattr(command, "commands"):
                    command = command.commands[words.pop(0)]
                needed = [p.opts for p in command.params if p.required and p.param_type_name == "option"]
                missing = [names for names in needed if not set(names) & set(words)]
                assert not missing, f"{page.name}: clickledger {line}: {missing}"


def _code(text: str) -> list[str]:
    """Fenced and indented blocks, and what stands in backticks; a command may go on in the next line."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", rest)]
    return [*blocks, *re.findall(r"^    \S.*", rest, re.MULTILINE), *inline]
