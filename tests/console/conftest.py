"""A command line on the test's own ledger.

`addressed`  the environment names its servers, and an empty folder as home and working directory
`command`    runs one command there
"""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Answer, Command

from clickledger.console import cli


@pytest.fixture
def addressed(database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is home and working directory of every command."""
    for name, value in (("DATABASE_URL", database_url), ("REDIS_URL", redis_url), ("HOME", str(tmp_path))):
        monkeypatch.setenv(f"CLICKLEDGER_{name}", value)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(addressed: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs one command, with --json unless told otherwise."""

    def run(*words: object, as_json: bool = True) -> Answer:
        capfd.readouterr()
        code = cli.run([*map(str, words), *(["--json"] if as_json else [])])
        return Answer(code, *capfd.readouterr())

    return run
