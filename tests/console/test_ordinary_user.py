"""`up`, `status` and `down` as someone who is not root."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from clickledger import settings
from clickledger.console import services

REPOSITORY = Path(__file__).parents[2]
# The interpreter and this checkout may lie where an ordinary user cannot read (/root): then the child may read
# everything, and still is not root, which is all that this is about.
READER = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="clickledger-user-", dir="/tmp"))
    if os.geteuid() == 0:
        os.chown(made, *ordinary())
    yield made / "home"
    services.stop_servers(made / "home")
    shutil.rmtree(made)


def ordinary() -> tuple[int, int]:
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def environment(folder: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    return {**inherited, "PYTHONPATH": str(REPOSITORY), "CLICKLEDGER_HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def prefix(folder: Path) -> list[str]:
    """The words that make a command run as an ordinary user."""
    if os.geteuid() != 0:
        return []
    user, group = ordinary()
    as_user = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    for words in (as_user, [*as_user, *READER]):
        probe = [*words, sys.executable, "-c", "import clickledger.console.lifecycle"]
        if shutil.which("setpriv") and _succeeds(probe, folder):
            return words
    pytest.skip("no way to run this interpreter as an ordinary user")


def _succeeds(command: list[str], folder: Path) -> bool:
    return subprocess.run(command, env=environment(folder), cwd="/", capture_output=True, check=False).returncode == 0


def test_an_ordinary_user_brings_it_up_sees_it_and_takes_it_down(folder: Path, prefix: list[str]) -> None:
    def clickledger(*words: str) -> tuple[int, dict[str, object]]:
        command = [*prefix, sys.executable, "-m", "clickledger.console.cli", *words, "--json"]
        done = subprocess.run(
            command, env=environment(folder), cwd="/", capture_output=True, text=True, timeout=120, check=False
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout.splitlines()[-1])

    code, started = clickledger("up", "--no-workers")
    assert (code, started["home"]) == (0, str(folder))
    owners = {path.stat().st_uid for path in (folder, folder / "postgres" / "data", folder / "valkey")}
    assert owners == {ordinary()[0]}
    assert folder.stat().st_mode & 0o777 == 0o700
    code, seen = clickledger("status")
    assert (code, seen["healthy"]) == (0, True)
    code, stopped = clickledger("down")
    assert (code, stopped["stopped"]) == (0, ["valkey", "postgres"])
    assert clickledger("status")[0] == 5
