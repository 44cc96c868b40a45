"""`audit key`, `audit checkpoint`, `audit prove` and the beat that signs: files, exit codes, secrets, next commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Command
from decided_traffic import Traffic, deploy, register

from clickledger import verify_bundle
from clickledger.console import acting
from clickledger.ledger import checkpoint_keys, checkpoints, database, log, signed_note
from clickledger.recovery import tasks


@pytest.fixture
def conn(conn: database.Connection) -> database.Connection:
    """A connection to a ledger with a hundred clicks of one deployment."""
    deploy(conn, register(conn, 20))
    Traffic(conn).append(100)
    return conn


def test_from_a_key_to_a_bundle_that_a_stranger_verifies(
    conn: database.Connection, command: Command, tmp_path: Path
) -> None:
    made = command("audit", "key", "new")
    assert made.code == 0
    assert "next: clickledger audit checkpoint" in made.said
    file = tmp_path / "checkpoint.key"
    assert file.stat().st_mode & 0o777 == 0o600

    signed = command("audit", "checkpoint", "-o", "held.txt")
    entry = log.entry(conn, signed.fields["size"] + 1)
    assert (entry.kind, entry.payload["note"]) == ("checkpoint_signed", signed.fields["note"])
    assert entry.actor == acting.person()
    assert (tmp_path / "held.txt").read_text() == signed.fields["note"]
    assert "next: clickledger audit verify --checkpoint held.txt" in signed.said

    proven = command("audit", "prove", "17", "-o", "proof.json")  # the sender's own id
    assert proven.code == 0
    assert proven.fields["attested"]
    assert f"proof.json --key {made.fields['verifier_key']}" in proven.said
    asked = [str(tmp_path / "proof.json"), "--complete", "--key", made.fields["verifier_key"]]
    assert verify_bundle.main(asked) == 0

    secret = file.read_text().strip().split("+", 4)[4]  # base64 has a "+" of its own at times
    assert len(secret) == 44
    everything = "".join(answer.out + answer.said for answer in (made, signed, proven))
    assert secret not in everything + (tmp_path / "proof.json").read_text()


def test_a_checkpoint_held_outside_convicts_a_log_that_was_cut(
    conn: database.Connection, command: Command, tmp_path: Path
) -> None:
    command("audit", "key", "new")
    command("audit", "checkpoint", "-o", "held.txt")
    assert command("audit", "verify", "--checkpoint", "held.txt").code == 0
    conn.execute("SET session_replication_role = replica")
    conn.execute("DELETE FROM checkpoints")
    conn.execute("DELETE FROM log WHERE kind LIKE 'checkpoint_%'")  # the newest entries
    found = command("audit", "verify", "--checkpoint", "held.txt")
    assert found.code == 1
    head = log.head(conn).position
    assert any(
        f"entries {head + 1} to {head + 1} are missing" in line for line in found.fields["failures"]["held checkpoint"]
    )
    assert command("audit", "verify", "--checkpoint", "nowhere.txt").code == 2


def test_the_holder_of_a_checkpoint_is_shown_that_the_log_only_grew(
    conn: database.Connection, command: Command, tmp_path: Path
) -> None:
    key = command("audit", "key", "new").fields["verifier_key"]
    held = command("audit", "checkpoint", "-o", "held.txt").fields["size"]
    noted = log.record(conn, "noted", {}, "tests")
    shown = command("audit", "continue", "held.txt", "-o", "grown.json")
    assert (shown.fields["old_size"], shown.fields["size"]) == (held, noted.position)
    assert verify_bundle.main([str(tmp_path / "grown.json"), "--key", key]) == 0


def test_the_checkpoint_itself_is_what_is_printed(conn: database.Connection, command: Command) -> None:
    command("audit", "key", "new")
    printed = command("audit", "checkpoint", as_json=False).out
    assert checkpoints.parse(printed) == checkpoints.newest(conn)
    assert command("audit", "checkpoint", "--show", as_json=False).out == printed
    assert command("audit", "checkpoint", "--rebuild-tiles").code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("audit", "checkpoint"), 2, "clickledger audit key new"),
        (("audit", "checkpoint", "--show"), 2, "no checkpoint yet"),
        (("audit", "key", "show"), 2, "clickledger audit key new"),
        (("audit", "key", "rotate", "--reason", "x"), 2, "got none"),
        (("audit", "prove", "17"), 3, "there is none; where the key is one is signed at once"),
        (("audit", "verify", "--checkpoint", "held.txt"), 2, "expected a file to read, got held.txt"),
        (("audit", "prove", "no-such-click"), 2, "names none"),
    ],
)
def test_without_a_key_each_command_says_what_is_missing(
    conn: database.Connection, command: Command, words: tuple[str, ...], code: int, said: str
) -> None:
    answer = command(*words)
    assert (answer.code, answer.said.count("\n")) == (code, 1)
    assert said in answer.said


def test_a_rotated_key_replaces_the_file_and_both_keys_are_shown(
    conn: database.Connection, command: Command, tmp_path: Path
) -> None:
    first = command("audit", "key", "new").fields["verifier_key"]
    assert command("audit", "key", "new").code == 4
    command("audit", "checkpoint")
    second = command("audit", "key", "rotate", "--reason", "yearly").fields["verifier_key"]
    rotated = log.head(conn).position
    assert [k["verifier_key"] for k in command("audit", "key", "show").fields["keys"]] == [first, second]
    key = signed_note.signing_key((tmp_path / "checkpoint.key").read_text().strip())
    assert str(key.verifier) == second
    assert not (tmp_path / "checkpoint.key.new").exists()
    assert command("audit", "checkpoint").fields["size"] == rotated
    assert command("audit", "verify").code == 0


def test_an_interrupted_rotation_is_finished_by_asking_again(
    conn: database.Connection, command: Command, tmp_path: Path
) -> None:
    command("audit", "key", "new")
    file = tmp_path / "checkpoint.key"
    before = file.read_text()
    second = command("audit", "key", "rotate", "--reason", "yearly").fields["verifier_key"]
    file.rename(tmp_path / "checkpoint.key.new")  # as if it had stopped between the entry and the file
    file.write_text(before)
    file.chmod(0o600)
    assert command("audit", "checkpoint").code == 4
    assert command("audit", "key", "rotate", "--reason", "again").fields["verifier_key"] == second
    assert len(checkpoint_keys.history(conn)) == 2
    assert command("audit", "checkpoint").code == 0


def test_a_lost_key_is_replaced(conn: database.Connection, command: Command, tmp_path: Path) -> None:
    command("audit", "key", "new")
    (tmp_path / "checkpoint.key").unlink()
    assert command("audit", "key", "rotate", "--reason", "x").code == 2
    assert command("audit", "key", "rotate", "--reason", "the disk died", "--lost").code == 0
    assert command("audit", "checkpoint").code == 0


def test_a_key_of_the_environment_is_never_written_and_rotates_to_a_file(
    conn: database.Connection, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = signed_note.generate(checkpoint_keys.origin(conn))
    monkeypatch.setenv("CLICKLEDGER_CHECKPOINT_KEY", key.secret_text())
    assert command("audit", "key", "new").fields["verifier_key"] == str(key.verifier)
    assert command("audit", "checkpoint").code == 0
    assert not (tmp_path / "checkpoint.key").exists()
    assert "--to FILE" in command("audit", "key", "rotate", "--reason", "x").said
    rotated = command("audit", "key", "rotate", "--reason", "x", "--to", tmp_path / "next.key")
    monkeypatch.setenv("CLICKLEDGER_CHECKPOINT_KEY", (tmp_path / "next.key").read_text().strip())
    assert command("audit", "checkpoint").code == 0
    assert rotated.code == 0


@pytest.mark.parametrize("text", ["PRIVATE+KEY+x", "secret"])
def test_a_key_that_is_none_is_refused_and_not_shown(
    conn: database.Connection, command: Command, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("CLICKLEDGER_CHECKPOINT_KEY", text)
    answer = command("audit", "checkpoint")
    assert (answer.code, answer.said.count("\n")) == (2, 1)
    assert text not in answer.said


def test_beat_signs_when_the_log_grew_and_a_key_is_there(
    conn: database.Connection, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.sign_checkpoint()
    assert checkpoints.newest(conn) is None
    command("audit", "key", "new")
    for _ in range(3):
        tasks.sign_checkpoint()
    [(size,)] = conn.execute("SELECT size FROM checkpoints")
    assert log.head(conn).position == size + 1  # its own entry is nothing to sign
    noted = log.record(conn, "noted", {}, "tests")
    tasks.sign_checkpoint()
    newest = checkpoints.newest(conn)
    assert newest is not None
    assert newest.size == noted.position
    conn.execute("SET session_replication_role = replica")
    conn.execute("DELETE FROM log WHERE position >= %s", (noted.position,))
    tasks.sign_checkpoint()
    assert "no checkpoint was signed: checkpoint over" in caplog.text
