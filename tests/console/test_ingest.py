"""`clickledger ingest`: every row of a file accounted for, and the same file again changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from worker_processes import Workers, workers

from clickledger import settings
from clickledger.console import home, intake_settings, postgres, services, valkey
from clickledger.ledger import database, log

REPOSITORY = Path(__file__).parents[2]
HEADER = "ip,app,device,os,channel,click_time,attributed_time,is_attributed"


def row(number: int, **changes: object) -> bytes:
    fields = {
        "click_id": f"click-{number}",
        "event_time": f"2026-03-01T10:{number // 60:02d}:{number % 60:02d}Z",
        "user_id": f"user-{number % 5}",
        "ip": f"192.0.2.{number % 9}",
        "advertiser_id": "shop",
        "campaign_id": "spring",
        "cost_micros": 250_000,
        **changes,
    }
    return json.dumps(fields).encode()


def nasty_file(folder: Path) -> Path:
    """Forty good rows with everything in between that a sender has ever got wrong."""
    good = [row(number) for number in range(40)]
    bad = [
        row(100)[:50],
        row(101, cost_micros="12"),
        row(102, cost_micros=-1),
        row(103, event_time="1970-01-01T00:00:00Z"),
        row(104, event_time="2100-01-01T00:00:00Z"),
        row(105, user_id="x" * 10_000_000),
        row(106).replace(b"spring", b"\xff\xfe"),
        row(107, user_id=None),
        b"[]",
    ]
    again = [row(3), row(4, cost_micros=1)]  # a duplicate, and a conflict
    path = folder / "nasty.ndjson"
    path.write_bytes(b"\n".join([*good[:20], *bad, *good[20:], *again]) + b"\n")
    return path


@dataclass
class Ended:
    code: int
    lines: list[dict[str, Any]]
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        return self.lines[-1]


class Program:
    """The real program on one home folder."""

    def __init__(self, folder: Path, urls: dict[str, str]) -> None:
        self.home = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CLICKLEDGER_")}
        self._environment = {**inherited, **urls, "CLICKLEDGER_HOME": str(folder), "PYTHONPATH": str(REPOSITORY)}

    def ingest(self, *words: object) -> Ended:
        command = [sys.executable, "-m", "clickledger.console.cli", "ingest", *map(str, words)]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=200, check=False)
        return Ended(done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr)


@pytest.fixture
def program(database_url: str, redis_url: str, tmp_path: Path) -> Program:
    """The program on the session's servers, where no worker is up."""
    urls = {"CLICKLEDGER_DATABASE_URL": database_url, "CLICKLEDGER_REDIS_URL": redis_url}
    return Program(tmp_path / "home", urls)


@pytest.fixture
def fleet(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    """A worker that is up."""
    with workers(database_url, redis_url, tmp_path) as made:
        made.start("scoring-1")
        yield made


def test_good_rows_among_bad_ones_are_decided_and_bad_ones_named_by_line_and_field(
    program: Program, conn: database.Connection, tmp_path: Path
) -> None:
    ended = program.ingest(nasty_file(tmp_path), "--json")
    assert ended.code == 1, ended.stderr
    counted = {name: ended.result[name] for name in ("accepted", "duplicates", "conflicts", "rejected", "undecided")}
    assert counted == {"accepted": 40, "duplicates": 1, "conflicts": 1, "rejected": 9, "undecided": 0}
    named = [(line["line"], line["field"]) for line in ended.lines[:-1] if "line" in line]
    fields = ["row", "cost_micros", "cost_micros", "event_time", "event_time", "row", "row", "user_id", "row"]
    assert named == list(zip(range(21, 30), fields, strict=True))
    assert [line["external_id"] for line in ended.lines if "external_id" in line] == ["click-4"]
    assert conn.execute("SELECT count(*), count(DISTINCT click_id) FROM decisions").fetchone() == (40, 40)
    assert conn.execute("SELECT cost_micros FROM clicks WHERE external_id = 'click-4'").fetchone() == (250_000,)


@pytest.mark.usefixtures("fleet")
def test_same_file_again_changes_nothing(program: Program, conn: database.Connection, tmp_path: Path) -> None:
    file = nasty_file(tmp_path)
    program.ingest(file)
    head = log.head(conn)
    again = program.ingest(file, "--json")
    assert log.head(conn) == head
    assert again.code == 1
    assert (again.result["accepted"], again.result["duplicates"], again.result["conflicts"]) == (0, 41, 1)


@pytest.mark.usefixtures("fleet")
def test_clean_file_ends_with_zero_and_installs_become_outcomes(
    program: Program, conn: database.Connection, tmp_path: Path
) -> None:
    file = tmp_path / "clicks.csv"
    rows = [f"1,{app},1,13,7,2017-11-07 11:31:0{app},," + "0" for app in range(5)]
    rows += ["2,3,1,13,7,2017-11-07 11:32:00,2017-11-07 11:40:00,1", rows[0]]
    file.write_text("\n".join([HEADER, *rows]) + "\n")
    words = (file, "--format", "talkingdata", "--cpc-micros", "1000", "--json")
    first, again = program.ingest(*words), program.ingest(*words)
    assert (first.code, first.result["accepted"], first.result["duplicates"], first.result["outcomes"]) == (0, 6, 1, 1)
    assert (again.code, again.result["accepted"], again.result["duplicates"], again.result["outcomes"]) == (0, 0, 7, 0)
    assert conn.execute("SELECT kind, count(*) FROM outcomes GROUP BY kind").fetchall() == [("install", 1)]


def test_file_that_cannot_be_read_is_refused_before_anything_starts(program: Program, tmp_path: Path) -> None:
    ended = program.ingest(tmp_path / "missing.ndjson")
    assert ended.code == 2
    assert "expected a readable file" in ended.stderr
    assert not (program.home / "run").exists()


def test_redis_of_others_that_does_not_answer_is_5(database_url: str, tmp_path: Path) -> None:
    urls = {"CLICKLEDGER_DATABASE_URL": database_url, "CLICKLEDGER_REDIS_URL": "redis://127.0.0.1:1"}
    file = tmp_path / "clicks.ndjson"
    file.write_bytes(row(1))
    ended = Program(tmp_path / "home", urls).ingest(file)
    assert (ended.code, ended.stderr.count("error: ")) == (5, 1)
    assert "the Redis server at redis://127.0.0.1:1 does not answer" in ended.stderr


def test_people_see_the_first_rejected_rows_and_how_many_more(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "bad.ndjson"
    file.write_bytes(b"\n".join([b"{"] * 50))
    ended = program.ingest(file)
    assert ended.stderr.count(f"error: {file}: line") == 20
    assert "30 more rejected rows" in ended.stderr
    assert ended.lines == []


@pytest.mark.usefixtures("fleet")
def test_rejected_rows_are_told_with_the_file_they_stand_in(program: Program, tmp_path: Path) -> None:
    clicks, outcomes = tmp_path / "clicks.ndjson", tmp_path / "outcomes.ndjson"
    clicks.write_bytes(b"{\n")
    outcomes.write_bytes(b"\n{\n")
    ended = program.ingest(clicks, "--outcomes", outcomes, "--json")
    assert [(line["file"], line["line"]) for line in ended.lines[:-1]] == [(str(clicks), 1), (str(outcomes), 2)]
    assert (ended.code, ended.result["rejected"]) == (1, 2)


def test_local_servers_run_only_for_the_duration(tmp_path: Path) -> None:
    program = Program(tmp_path / "home", {})
    file = nasty_file(tmp_path)
    first = program.ingest(file, "--json")
    assert first.result["accepted"] == 40, first.stderr
    place = home.at(program.home)
    assert postgres.running(services.postgres_place(place, None)) is None
    assert valkey.running(services.valkey_place(place, None)) is None
    assert home.read(place).processes == {}
    assert program.ingest(file, "--json").result["accepted"] == 0
    started = services.start_servers(program.home)
    try:
        with database.connect(started.database_url) as conn:
            assert conn.execute("SELECT count(*) FROM decisions").fetchone() == (40,)
            assert log.read(conn, kinds=["counters_restored"]) == []
    finally:
        services.stop_servers(program.home)


def test_worker_that_is_up_is_used_and_left_alone(program: Program, fleet: Workers, tmp_path: Path) -> None:
    assert program.ingest(nasty_file(tmp_path), "--json").result["accepted"] == 40
    assert fleet.is_live("scoring-1")
    assert not (program.home / "log" / "scoring-temporary.log").exists()


def test_bounds_of_intake_are_those_of_the_settings() -> None:
    chosen = settings.load(genesis="2020-01-01", future_tolerance_seconds=5)
    assert intake_settings.bounds(chosen).genesis_ms == 1_577_836_800_000
    assert intake_settings.bounds(chosen).future_tolerance_ms == 5_000
