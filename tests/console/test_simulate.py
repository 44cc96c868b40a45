"""`clickledger simulate`: the same bytes for a seed, the truth only when asked, and a ledger that takes it all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Command
from worker_processes import Workers, workers

from clickledger.console import simulated_sending
from clickledger.errors import InvalidInput
from clickledger.ledger import database
from clickledger.scoring.simulation_truth import KINDS

SMALL = ("--clicks", 1_000, "--days", 1)


@pytest.fixture
def fleet(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    """A worker that is up."""
    with workers(database_url, redis_url, tmp_path) as made:
        made.start("scoring-1")
        yield made


def test_a_seed_gives_the_same_bytes_and_the_truth_stands_in_its_own_file(command: Command, tmp_path: Path) -> None:
    told = command("simulate", "a.ndjson", *SMALL, "--truth", "truth.ndjson", "--fault", "retries:0.3")
    assert told.code == 0, told.said
    plain = command("simulate", "b.ndjson", *SMALL, "--fault", "retries:0.3")
    for name in ("{}.ndjson", "{}.outcomes.ndjson"):
        assert (tmp_path / name.format("a")).read_bytes() == (tmp_path / name.format("b")).read_bytes()
    clicks = [json.loads(line) for line in (tmp_path / "a.ndjson").read_text().splitlines()]
    truth = [json.loads(line) for line in (tmp_path / "truth.ndjson").read_text().splitlines()]
    assert len(clicks) == told.fields["clicks"] > len(truth) == told.fields["clicks"] - told.fields["repeats"]
    assert {row["click_id"] for row in truth} == {row["click_id"] for row in clicks}
    assert sum(told.fields["kinds"].values()) == len(truth) and "kinds" not in plain.fields
    assert not any(kind in plain.said for kind in KINDS) and set(told.fields["kinds"]) <= set(KINDS)


def test_no_file_that_exists_is_touched_and_none_is_left_half_made(command: Command, tmp_path: Path) -> None:
    (tmp_path / "a.outcomes.ndjson").write_text("mine")
    refused = command("simulate", "a.ndjson", *SMALL)
    assert refused.code == 3 and "a.outcomes.ndjson: expected a new file, got one that exists" in refused.said
    assert (tmp_path / "a.outcomes.ndjson").read_text() == "mine" and not (tmp_path / "a.ndjson").exists()


@pytest.mark.usefixtures("fleet")
def test_a_ledger_takes_the_file_with_its_outcomes_and_then_what_is_sent(
    command: Command, conn: database.Connection
) -> None:
    made = command("simulate", "a.ndjson", *SMALL, "--fault", "retries:0.1").fields
    taken = command("ingest", "a.ndjson", "--outcomes", made["outcomes_file"])
    assert taken.code == 0, taken.said
    assert (taken.fields["accepted"], taken.fields["duplicates"]) == (made["clicks"] - made["repeats"], made["repeats"])
    assert taken.fields["outcomes"] == made["outcomes"] > 0 == taken.fields["undecided"]
    later = ("--start", "2025-10-06T00:00:00Z", "--seed", 2)
    sent = command("simulate", "--send", *SMALL, *later, "--rate", "86400x", "--fault", "late-clicks:0.2@6h+12h")
    assert sent.code == 0, sent.said
    assert 0 < sent.fields["undecided"] < sent.fields["accepted"] / 2, "a click that comes too late is not decided"
    assert sent.fields["outcomes"] > 0 and sent.fields["faults"][0]["from"] == "2025-10-06T06:00:00.000Z"
    counted = conn.execute("SELECT (SELECT count(*) FROM decisions), (SELECT count(*) FROM outcomes)").fetchone()
    assert counted == (
        taken.fields["accepted"] + sent.fields["accepted"],
        taken.fields["outcomes"] + sent.fields["outcomes"],
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected one of FILE and --send, got neither"),
        (("a", "--send"), "expected one of FILE and --send, got both"),
        (("a", "--rate", "5"), "rate: expected one with --send only, got 5"),
        (("a", "--start", "now"), "start: expected a time, got now, which is for --send"),
        (("--send", "--start", "now", "--rate", "2x"), "rate: expected at most 1x with --start now"),
        (("--send", "--start", "2026-01-01", "--rate", "2x"), "start: expected RFC 3339 text with a zone"),
        (("--send", "--truth", "t"), "expected --outcomes, --truth, --networks with FILE, got them with --send"),
        (("a", "--fault", "rain"), "with KIND one of label-outage"),
        (("a", "--clicks", "5"), "simulation: clicks: expected 1000 to"),
        (("no/such/folder/a",), "expected a file that can be written, got: No such file"),
    ],
)
def test_what_cannot_be_simulated_is_named(command: Command, words: tuple[str, ...], message: str) -> None:
    answer = command("simulate", *words)
    assert answer.code == 2 and message in answer.said and not answer.out


def test_a_rate_is_clicks_a_second_or_a_speed() -> None:
    assert simulated_sending.parse_rate("200").due_s(100, 9_000) == 0.5
    assert simulated_sending.parse_rate("60x").due_s(100, 9_000) == 0.15
    assert simulated_sending.parse_rate(None).due_s(100, 9_000) == 0.0
    for wrong in ("fast", "0", "-5", "2y"):
        with pytest.raises(InvalidInput, match="rate: expected clicks a second"):
            simulated_sending.parse_rate(wrong)
