"""`clickledger erase-identities`: asks, refuses where it cannot keep its word, and says what it did not reach."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from clickledger.console import cli, home, processes
from clickledger.console.home import Running, Runtime
from clickledger.ledger import database, log
from clickledger.ledger.rights import Role
from clickledger.scoring import erasure, pseudonym_key

WORDS = ["erase-identities", "--reason", "the account asked"]


@pytest.fixture
def key_file(addressed: Path) -> Path:
    pseudonym_key.read_or_make(addressed / "pseudonym.key")
    return addressed / "pseudonym.key"


def recorded(database_url: str) -> list[log.Entry]:
    with database.connect(database_url, role=Role.AUDITOR_READER) as conn:
        return log.read(conn, kinds=[erasure.KIND])


def test_key_is_destroyed_recorded_and_what_was_not_reached_is_said(
    key_file: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fingerprint = pseudonym_key.fingerprint(pseudonym_key.read(key_file))
    assert cli.run([*WORDS, "--yes", "--json"]) == 0
    out, err = capsys.readouterr()
    [entry] = recorded(database_url)
    assert json.loads(out.splitlines()[-1]) == {
        "position": entry.position,
        "fingerprint": fingerprint,
        "key_file": str(key_file),
        "other_key_in_use": False,
    }
    assert entry.reason == "the account asked"
    assert not key_file.exists()
    assert "not reached: backups and snapshots" in err


def test_erasure_completed_late_says_that_the_key_made_since_is_in_use_and_ends_with_1(
    key_file: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key_file.rename(key_file.with_name(key_file.name + ".condemned"))  # where a call that was cut short left it
    made_since = pseudonym_key.fingerprint(pseudonym_key.read_or_make(key_file))
    assert cli.run([*WORDS, "--yes", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["other_key_in_use"] is True
    assert f"{key_file} holds another key, made since and in use" in err and "counts as new" not in err
    assert pseudonym_key.fingerprint(pseudonym_key.read(key_file)) == made_since
    assert cli.run([*WORDS, "--yes"]) == 0
    assert not key_file.exists()
    assert [entry.payload["fingerprint"] for entry in recorded(database_url)][1:] == [made_since]


def test_nothing_happens_without_yes(key_file: Path, database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(WORDS) == 3
    assert "expected --yes" in capsys.readouterr().err
    assert key_file.exists()
    assert recorded(database_url) == []


def test_key_of_the_environment_is_refused_with_what_to_do(
    key_file: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLICKLEDGER_PSEUDONYM_KEY", "ab" * 32)
    assert cli.run([*WORDS, "--yes"]) == 3
    said = capsys.readouterr().err
    assert "destroy it where it is kept" in said
    assert "abab" not in said
    assert recorded(database_url) == []


def test_key_that_the_api_holds_in_memory_is_not_destroyed(
    key_file: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = home.prepare(key_file.parent)
    itself = processes.identify(os.getpid())
    assert itself is not None
    home.write(place, Runtime(processes={"api": Running(itself, ["api"], "log")}))
    assert cli.run([*WORDS, "--yes"]) == 3
    assert "api holds the key in memory" in capsys.readouterr().err
    assert key_file.exists()
    assert recorded(database_url) == []
