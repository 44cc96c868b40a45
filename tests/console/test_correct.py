"""`clickledger correct`: a file of stated decisions becomes a compared run, or is refused by line and field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from commands import Answer, Command
from decided_traffic import Traffic, bad_deployment

from clickledger.ledger import audit, database, log
from clickledger.scoring import rescore


@pytest.fixture
def traffic(conn: database.Connection) -> Traffic:
    """A ledger of decided clicks, whose sender's ids are their numbers."""
    return bad_deployment(conn)[0]


def line(click: object, verdict: str = "undecided", reason: str = "disputed") -> str:
    return json.dumps({"click_id": str(click), "verdict": verdict, "reason": reason})


@pytest.fixture
def correct(command: Command, tmp_path: Path) -> Callable[..., Answer]:
    """Runs `correct` on a file of the given lines."""

    def run(*lines: str) -> Answer:
        file = tmp_path / "corrections.ndjson"
        file.write_text("\n".join(lines))
        return command("correct", file, "--reason", "disputes of March")

    return run


def test_corrections_are_compared_then_published_and_reverted_by_hand(
    conn: database.Connection, traffic: Traffic, correct: Callable[..., Answer], command: Command
) -> None:
    clicks = [UUID(bytes=click_id) for click_id in traffic.ids[:3]]
    done = correct(line(clicks[0]), "", line(clicks[1]), line("2"))
    [compared] = done.lines
    assert (done.code, compared["kind"], compared["clicks"], compared["to_undecided"]) == (0, "sparse", 3, 3)
    run_id, digest = compared["run_id"], compared["digest"]
    assert f"next: clickledger replay publish {run_id} --digest {digest} --reason" in done.said
    in_force = "SELECT count(*) FROM authoritative_decisions WHERE run_id = %s"
    assert conn.execute(in_force, (run_id,)).fetchone() == (0,)
    [planned, _] = log.read(conn, kinds=["replay_planned", "replay_staged"])[-2:]
    assert planned.reason == "disputes of March"

    assert command("replay", "publish", run_id, "--digest", digest, "--reason", "checked").code == 0
    assert conn.execute(in_force, (run_id,)).fetchone() == (3,)
    assert command("replay", "list").lines[-1]["runs"][0]["stage"] == "published"
    why = command("why", clicks[0])
    assert why.lines[-1]["authoritative_run_id"] == run_id
    assert "stated by whoever planned the run, not computed" in why.said
    assert rescore.sample(conn).ok
    verified = command("audit", "verify")
    assert (verified.code, verified.lines[-1]["overrides"]) == (0, 3)
    assert "3 clicks decided by a published correction of single clicks" in verified.said
    assert command("replay", "revert", run_id, "--reason", "x").code == 0
    assert conn.execute(in_force, (run_id,)).fetchone() == (0,)
    assert audit.verify(conn).overrides == 0


UNKNOWN = "018e25a8-d388-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("bad", "field", "expected", "got"),
    [
        ("{", "row", "one JSON object", "truncated JSON"),
        ('{"click_id":"1","verdict":"valid"}', "reason", "text", "nothing"),
        (line("1", "maybe"), "verdict", "one of valid, invalid, undecided", "'maybe'"),
        ('{"click_id":"1","verdict":"valid","reason":"x","score":1}', "score", "only the fields", "another name"),
        (line(UNKNOWN), "click_id", "a click id or the sender's id of one click", f"'{UNKNOWN}', which names none"),
        (line("no such id"), "click_id", "the sender's id of one click", "'no such id', which names none"),
        (line("0"), "click_id", "a click once", "'0', which line 1 names too"),
    ],
    ids=["no JSON", "no reason", "verdict", "other field", "unknown id", "unknown name", "twice"],
)
def test_line_that_cannot_be_used_is_named_and_nothing_is_planned(
    conn: database.Connection,
    traffic: Traffic,
    correct: Callable[..., Answer],
    bad: str,
    field: str,
    expected: str,
    got: str,
) -> None:
    head = log.head(conn)
    refused = correct(line("0"), line("1"), bad)
    [found] = refused.lines
    assert (refused.code, found["line"], found["field"]) == (2, 3, field)
    assert expected in found["expected"]
    assert got in found["got"]
    assert "1 of 3 that are none; none planned" in refused.said
    assert log.head(conn) == head


def test_file_without_a_correction_or_that_is_none_is_refused(
    traffic: Traffic, correct: Callable[..., Answer], command: Command, tmp_path: Path
) -> None:
    assert correct("", " ").code == 2
    assert command("correct", tmp_path / "none", "--reason", "x").code == 2
