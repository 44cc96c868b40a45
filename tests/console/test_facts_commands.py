"""`clickledger facts` and every way in for clicks: a file, HTTP, the simulator; each asks the table in force."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from commands import Command
from test_api import fields, serving
from test_ingest import Program, row
from worker_processes import Workers, until, workers

from clickledger.console import services
from clickledger.ledger import database, deployments
from clickledger.ledger.rights import Role
from clickledger.scoring import facts, facts_deployment, feature_spec, heartbeat, networks

NAME = "data_centre_networks"
WHEN = "2026-03-01T10:00:00Z"
SMALL = ("--clicks", 1_500, "--days", 1)


@pytest.fixture
def fleet(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    """A worker that is up."""
    with workers(database_url, redis_url, tmp_path) as made:
        made.start("scoring-1")
        yield made


def flags(conn: database.Connection) -> Counter[int | None]:
    """How often each flag was recorded; None where snapshots have none."""
    rows = conn.execute("SELECT feature_schema, features FROM clicks").fetchall()
    return Counter(
        None if schema == 1 else int(feature_spec.unpack_snapshots([bytes(snapshot)], schema)[0, -1])
        for schema, snapshot in rows
    )


def followed(conn: database.Connection, client: redis.Redis) -> None:
    """Wait for the workers to follow the deployment in force."""
    epoch = deployments.current(conn).epoch
    until(lambda: {w.deployment_epoch for w in heartbeat.live(client)} == {epoch}, "the worker to follow")


def test_a_simulated_world_brings_its_table_which_files_and_the_simulator_are_looked_up_in(
    command: Command, fleet: Workers, conn: database.Connection, redis_client: redis.Redis, tmp_path: Path
) -> None:
    made = command("simulate", "a.ndjson", *SMALL, "--networks", "nets.txt", "--truth", "truth.ndjson")
    assert made.code == 0, made.said
    assert command("simulate", "b.ndjson", *SMALL).code == 0
    assert (tmp_path / "a.ndjson").read_bytes() == (tmp_path / "b.ndjson").read_bytes()
    told = command("facts", "set", NAME, "nets.txt", "--reason", "a world's list", "--actor", "ann")
    assert told.code == 0 and told.fields["rows"] == len((tmp_path / "nets.txt").read_text().splitlines()) - 1
    version = told.fields["version"]
    deployed = command("facts", "deploy", version, "--reason", "to learn from")
    assert deployed.fields == {"epoch": deployments.current(conn).epoch, "facts_version": version}, deployed.said
    followed(conn, redis_client)
    assert command("ingest", "a.ndjson").code == 0
    table = networks.parse((tmp_path / "nets.txt").read_bytes())
    clicks = [json.loads(line) for line in (tmp_path / "a.ndjson").read_text().splitlines()]
    expected = Counter(int(table.hold(click["ip"]) or 0) for click in clicks)
    assert flags(conn) == expected and expected[1] > 20
    kinds = {
        each["click_id"]: each["kind"] for each in map(json.loads, (tmp_path / "truth.ndjson").read_text().splitlines())
    }
    listed = Counter(kinds[click["click_id"]] for click in clicks if table.hold(click["ip"]))
    assert listed["burst"] > sum(listed.values()) / 2 and listed["human"] > 0, "it tells much and proves nothing"
    [(click_id,)] = conn.execute("SELECT click_id FROM clicks ORDER BY seq LIMIT 1").fetchall()
    assert "data_centre=0" in command("why", click_id, as_json=False).said

    sent = command("simulate", "--send", *SMALL, "--start", "2025-10-06T00:00:00Z")
    assert sent.code == 0, sent.said
    assert set(flags(conn)) == {0, 1} and flags(conn).total() == len(clicks) + sent.fields["accepted"]
    assert command("facts", "withdraw", "--reason", "over").fields["facts_version"] == 0
    assert command("audit", "verify").code == 0


def test_tables_are_listed_and_shown_with_who_and_why_and_written_to_the_byte(
    command: Command, fleet: Workers, tmp_path: Path
) -> None:
    content = b"# ours\r\n192.0.2.0/24 # one\n\n2001:db8::/32\n"
    (tmp_path / "nets.txt").write_bytes(content)
    version = command("facts", "set", NAME, "nets.txt", "--reason", "first", "--actor", "ann").fields["version"]
    again = command("facts", "set", NAME, "nets.txt", "--reason", "again", "--actor", "bob").fields
    assert (again["version"], again["actor"], again["reason"]) == (version, "cli:ann", "first")
    command("facts", "deploy", version, "--reason", "now")
    listed = command("facts", "list")
    assert [table["version"] for table in listed.fields["tables"]] == [version]
    assert listed.fields["in_force"] == version and "in force" in listed.said
    asked = ("--address", "192.0.2.9", "--address", "203.0.113.1", "--address", "opaque")
    shown = command("facts", "show", version, *asked, "-o", "out.txt")
    assert shown.fields["addresses"] == {"192.0.2.9": 1, "203.0.113.1": 0, "opaque": -1}
    assert (tmp_path / "out.txt").read_bytes() == content
    assert command("facts", "show", version, "-o", "out.txt").code == 3


def test_the_table_in_force_is_told_with_the_models_as_of_any_position_and_with_the_status(
    command: Command, fleet: Workers, tmp_path: Path
) -> None:
    (tmp_path / "nets.txt").write_bytes(b"192.0.2.0/24\n")
    before = command("model", "list")
    assert before.fields["facts_version"] == 0 and "facts" not in before.said
    version = command("facts", "set", NAME, "nets.txt", "--reason", "first").fields["version"]
    command("facts", "deploy", version, "--reason", "now")
    assert command("model", "list").fields["facts_version"] == version
    told = f"facts: snapshots are recorded with table {version}"
    assert told in command("model", "list", as_json=False).said
    assert told in command("status", as_json=False).said
    assert command("status").fields["counters"]["facts_version"] == version
    assert command("model", "list", "--as-of", before.fields["position"]).fields["facts_version"] == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("set", NAME, "bad.txt", "--reason", "x"), 2, "line 2: network: expected CIDR such as 192.0.2.0/24"),
        (("set", NAME, "empty.txt", "--reason", "x"), 2, "networks: expected at least one, got a file without any"),
        (("set", NAME, "absent.txt", "--reason", "x"), 2, "expected a readable file, got: No such file"),
        (("set", "vpn", "bad.txt", "--reason", "x"), 2, "expected one of data_centre_networks, got 'vpn'"),
        (("set", NAME, "bad.txt"), 2, "--reason"),
        (("deploy", 1, "--reason", "x"), None, "no table of facts with version 1"),
        (("show", 1), None, "no table of facts with version 1"),
        (("deploy", "one", "--reason", "x"), 2, "Invalid value for 'version'"),
    ],
)
def test_what_cannot_be_a_table_is_named(
    command: Command, tmp_path: Path, words: tuple[object, ...], code: int | None, message: str
) -> None:
    (tmp_path / "bad.txt").write_text("192.0.2.0/24\n192.0.2.0/240\n")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    answer = command("facts", *words)
    assert message in answer.said and answer.code in ({code} if code else {1, 2, 3, 4}) and not answer.out
    assert "Traceback" not in answer.said


def test_the_api_looks_addresses_up_in_the_table_in_force_and_follows_it(
    fleet: Workers,
    conn: database.Connection,
    database_url: str,
    redis_client: redis.Redis,
    redis_url: str,
    tmp_path: Path,
) -> None:
    with serving(home=tmp_path, database_url=database_url, redis_url=redis_url, answer_seconds_max=60) as client:

        def post(number: int, ip: str) -> None:
            assert client.post("/v1/clicks", json=fields(number, ip=ip, event_time=WHEN)).status_code == 200

        post(1, "192.0.2.1")
        for number, content in ((10, b"192.0.2.0/24"), (20, b"203.0.113.0/24")):
            version = facts.register(conn, NAME, content, actor="tests", reason="")
            facts_deployment.put_in_force(conn, version, actor="tests", reason="")
            followed(conn, redis_client)
            found: list[int] = []

            def followed_too(start: int = number, seen: list[int] = found) -> bool:
                """The API as well: a click between has no value, and never that of the other table."""
                post(start * 1000 + len(seen), "192.0.2.1")
                seen.append(_flag_of(conn, start * 1000 + len(seen)))
                return seen[-1] >= 0

            until(followed_too, "the API to follow")
            assert set(found[:-1]) <= {-1} and found[-1] == (1 if number == 10 else 0)
            post(number, "no address")
            assert _flag_of(conn, number) == -1


def _flag_of(conn: database.Connection, number: int) -> int:
    rows = conn.execute("SELECT features FROM clicks WHERE external_id = %s", (f"click-{number}",)).fetchall()
    assert len(rows) == 1, number
    return int(feature_spec.unpack_snapshots([bytes(rows[0][0])], 2)[0, -1])


def test_a_file_is_looked_up_though_its_ledger_only_runs_for_the_command(tmp_path: Path) -> None:
    """It is read before anybody knows which table is in force, and again once that is known."""
    program = Program(tmp_path / "home", {})
    file = tmp_path / "a.ndjson"
    file.write_bytes(b"\n".join(row(number) for number in range(9)))
    assert program.ingest(file, "--json").result["accepted"] == 9
    started = services.start_servers(program.home)
    try:
        with database.connect(started.database_url, role=Role.REPLAYER) as conn:
            version = facts.register(conn, NAME, b"192.0.2.0/30", actor="tests", reason="")
            facts_deployment.put_in_force(conn, version, actor="tests", reason="")
    finally:
        services.stop_servers(program.home)
    file.write_bytes(b"\n".join(row(number) for number in range(9, 27)))
    ended = program.ingest(file, "--json")
    assert ended.result["accepted"] == 18, ended.stderr
    started = services.start_servers(program.home)
    try:
        with database.connect(started.database_url) as conn:
            assert flags(conn) == {None: 9, 1: 8, 0: 10}
    finally:
        services.stop_servers(program.home)
