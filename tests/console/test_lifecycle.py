"""Supervision, with real child processes on the session's servers."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import redis

from clickledger import settings
from clickledger.console import home, lifecycle, processes, roles, services
from clickledger.console.processes import Process
from clickledger.console.roles import Readiness, Role
from clickledger.errors import InvalidSetting, Unavailable

CHILDREN = str(Path(__file__).with_name("children.py"))


def child(name: str, kind: str, readiness: Readiness, *words: str) -> Role:
    return Role(name, [sys.executable, CHILDREN, kind, *words], readiness)


def beating(name: str, kind: str = "beat") -> Role:
    return child(name, kind, Readiness.HEARTBEAT)


@dataclass
class Fleet:
    """One home on the session's servers; `roles` is its process table."""

    settings: settings.Settings
    roles: list[Role] = field(default_factory=list)

    def table(self, _settings: settings.Settings, _port: int) -> list[Role]:
        return self.roles

    def up(self) -> home.Runtime:
        return lifecycle.up(self.settings, table=self.table)

    def down(self) -> list[str]:
        return lifecycle.down(self.settings, table=self.table)

    def states(self) -> dict[str, str]:
        return {state.name: state.state for state in lifecycle.status(self.settings, table=self.table)}

    def process(self, name: str) -> Process:
        return home.read(home.at(self.settings.home)).processes[name].process


@pytest.fixture
def fleet(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    loaded = settings.load(home=tmp_path / "home", database_url=database_url, redis_url=redis_url, http_port=0)
    made = Fleet(loaded)
    yield made
    made.down()


def kill(process: Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    assert processes.wait_until(lambda: not processes.alive(process), 10)


def test_up_waits_until_every_process_is_ready_and_down_ends_them_in_reverse_order(
    fleet: Fleet, redis_client: redis.Redis
) -> None:
    fleet.roles = [beating("first"), beating("second"), beating("third")]
    runtime = fleet.up()
    assert list(runtime.processes) == ["first", "second", "third"]
    host = socket.gethostname()
    assert {redis_client.exists(f"cl:heartbeat:{name}@{host}") for name in runtime.processes} == {1}
    assert fleet.states() == {
        "postgres": "external",
        "valkey": "external",
        **dict.fromkeys(["first", "second", "third"], "ready"),
    }
    assert fleet.down() == ["third", "second", "first"]
    ended = [name.decode().partition("@")[0] for name in redis_client.lrange("ended", 0, -1)]
    assert ended == ["third", "second", "first"]
    assert fleet.states() == {"postgres": "external", "valkey": "external"}


def test_servers_given_by_settings_are_used_and_never_started_or_stopped(fleet: Fleet) -> None:
    fleet.up()
    assert not (fleet.settings.home / "postgres").exists()
    assert not (fleet.settings.home / "valkey").exists()
    assert services.attach(settings.load(home=fleet.settings.home)).database_url == fleet.settings.database_url
    assert fleet.down() == []
    services.check_redis(str(fleet.settings.redis_url))


def test_a_second_up_leaves_alone_what_runs_and_restarts_what_was_killed(fleet: Fleet) -> None:
    fleet.roles = [beating("kept"), beating("killed")]
    fleet.up()
    kept, killed = fleet.process("kept"), fleet.process("killed")
    kill(killed)
    assert fleet.states()["killed"] == "ended"
    fleet.up()
    assert fleet.process("kept") == kept
    assert fleet.process("killed") != killed
    assert fleet.states()["killed"] == "ready"


def test_a_heartbeat_left_by_a_predecessor_does_not_count(fleet: Fleet, redis_client: redis.Redis) -> None:
    redis_client.set("cl:heartbeat:late", "of the one before")
    fleet.roles = [child("late", "silent", Readiness.HEARTBEAT)]
    fleet.settings = fleet.settings.model_copy(update={"start_seconds_max": 0.3})
    with pytest.raises(Unavailable, match=r"late was not ready within 0\.3 s"):
        fleet.up()
    assert fleet.states()["late"] == "not ready"
    assert fleet.down() == ["late"]


def test_a_process_that_ends_at_start_is_reported_with_the_end_of_its_log(fleet: Fleet) -> None:
    fleet.roles = [beating("fine"), child("broken", "fail", Readiness.HEARTBEAT, "no", "model", "deployed")]
    with pytest.raises(Unavailable, match=r"broken ended at start; .*broken\.log: no model deployed") as raised:
        fleet.up()
    assert raised.value.exit_code == 5
    assert fleet.states()["fine"] in {"ready", "not ready"}  # what did come up stays up


def test_a_process_only_known_to_be_alive_is_looked_at_again_at_the_end(fleet: Fleet) -> None:
    fleet.roles = [child("mayfly", "fail", Readiness.ALIVE, "gone")]
    fleet.roles.append(child("slow", "outlast", Readiness.HEARTBEAT, "mayfly"))
    with pytest.raises(Unavailable, match=r"mayfly ended at start; .*mayfly\.log: gone"):
        fleet.up()


def test_a_process_that_ignores_term_is_killed(fleet: Fleet, redis_client: redis.Redis) -> None:
    gentle_for_a_moment = ((signal.SIGTERM, 0.2), roles.KILL)
    fleet.roles = [replace(beating("stubborn", "stubborn"), stop=gentle_for_a_moment)]
    fleet.up()
    process = fleet.process("stubborn")
    assert fleet.down() == ["stubborn"]
    assert not processes.alive(process)
    assert redis_client.llen("ended") == 0


def test_the_api_is_ready_when_healthz_answers_on_the_port_in_the_runtime_file(fleet: Fleet) -> None:
    def table(_settings: settings.Settings, port: int) -> list[Role]:
        return [child("api", "http", Readiness.HTTP, str(port))]

    first = lifecycle.up(fleet.settings, table=table)
    second = lifecycle.up(fleet.settings, table=table)
    assert first == second
    assert first.http_url is not None
    assert not first.http_url.endswith(":0")
    fleet.roles = table(fleet.settings, 0)


def test_a_taken_port_is_named_with_the_setting_that_changes_it(fleet: Fleet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fleet.settings = fleet.settings.model_copy(update={"http_port": port})
        with pytest.raises(Unavailable, match=rf"cannot serve on 127\.0\.0\.1:{port}: .*CLICKLEDGER_HTTP_PORT"):
            fleet.up()


def test_a_host_that_is_no_address_is_an_invalid_setting(fleet: Fleet) -> None:
    fleet.settings = fleet.settings.model_copy(update={"http_host": "no such host.invalid"})
    with pytest.raises(InvalidSetting, match="http_host: expected an address"):
        fleet.up()


def test_down_never_signals_a_process_that_only_has_the_pid(fleet: Fleet) -> None:
    place = home.prepare(fleet.settings.home)
    stranger = processes.spawn([sys.executable, CHILDREN, "silent"], place.log / "stranger.log", folder=place.path)
    remembered = home.Running(replace(stranger, born="another boot/1"), ["worker"], "worker.log")
    home.write(place, home.Runtime(processes={"worker": remembered}))
    assert fleet.down() == []
    assert processes.alive(stranger)
    kill(stranger)


@pytest.mark.parametrize("text", ["", "{", '{"processes": []}', "\x00\x00"])
def test_a_damaged_runtime_file_is_started_over(fleet: Fleet, text: str) -> None:
    place = home.prepare(fleet.settings.home)
    place.runtime_file.write_text(text)
    fleet.roles = [beating("first")]
    fleet.up()
    assert fleet.states()["first"] == "ready"


def test_a_process_that_could_not_be_recorded_never_runs(tmp_path: Path) -> None:
    started: list[Process] = []

    def record(process: Process) -> None:
        started.append(process)
        raise OSError("no space left on device")

    command = [sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')"]
    with pytest.raises(OSError, match="no space left"):
        processes.spawn_recorded(command, tmp_path / "log", record, folder=tmp_path)
    assert processes.wait_until(lambda: not processes.alive(started[0]), 10)
    assert not (tmp_path / "ran").exists()


def test_the_process_recorded_is_the_one_that_runs(tmp_path: Path) -> None:
    recorded: list[Process] = []
    command = [sys.executable, CHILDREN, "silent"]
    process = processes.spawn_recorded(command, tmp_path / "log", recorded.append, folder=tmp_path)
    assert processes.wait_until(lambda: CHILDREN in processes.command_of(process.pid), 10)
    assert recorded == [process]
    assert processes.alive(process)
    kill(process)


def test_every_standard_process_gets_the_settings_as_resolved_and_its_name(fleet: Fleet) -> None:
    for role in roles.table(fleet.settings, 8411):
        environment = roles.environment(fleet.settings, role)
        assert environment["CLICKLEDGER_PROCESS"] == roles.worker_name(role)
        assert roles.worker_name(role).partition("@")[0] == role.name
        assert environment["CLICKLEDGER_DATABASE_URL"] == fleet.settings.database_url
        assert environment["CLICKLEDGER_HOME"] == str(fleet.settings.home)


def test_the_standard_table_starts_beat_and_workers_before_the_api(fleet: Fleet) -> None:
    two = fleet.settings.model_copy(update={"scoring_workers": 2})
    names = [role.name for role in roles.table(two, 1)]
    assert names == ["beat", "recovery", "training", "scoring-1", "scoring-2", "api"]


def test_servers_are_started_without_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKLEDGER_PSEUDONYM_KEY", "5ec2e7" * 10)
    monkeypatch.setenv("ANOTHER_SETTING", "stays")
    process = processes.spawn(["/usr/bin/env"], tmp_path / "log", folder=tmp_path)
    assert processes.wait_until(lambda: not processes.alive(process), 10)
    said = (tmp_path / "log").read_text()
    assert "ANOTHER_SETTING=stays" in said
    assert "CLICKLEDGER_" not in said and "5ec2e7" * 10 not in said


def test_a_worker_of_the_release_before_is_known_by_its_role_alone(fleet: Fleet, redis_client: redis.Redis) -> None:
    role = beating("first")
    assert not roles.ready(fleet.settings, role, None)
    redis_client.set("cl:heartbeat:first", 1)
    assert roles.ready(fleet.settings, role, None)
