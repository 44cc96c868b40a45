"""Real servers for every test: one PostgreSQL and one Valkey a session, a database cloned from a template a test.

`database_url`    a fresh, migrated database, dropped afterwards
`conn`            a connection to it, and `connect` opens more
`redis_url`       the session's Valkey, emptied of keys and functions
`redis_client`    a client of it
`servers`         the two servers themselves, for tests that need their processes; PostgreSQL's without fsync

With several processes (`make test`) files are given out whole, the longest first.

With CLICKLEDGER_TEST_POSTGRES_BIN the PostgreSQL is that of a folder of programs, say /usr/lib/postgresql/15/bin.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import own_server
import psycopg
import pytest
import redis
from psycopg import sql

from clickledger.console import home, processes, services
from clickledger.ledger import database, schema

# Examples that are slow on a busy machine are no failures: what takes how long belongs to benchmarks.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

TESTS = Path(__file__).parent
# What would keep one process busy when all others are done, if it came late: minutes, then half minutes.
LONGEST_FIRST = (
    "ledger/test_state_machine.py",
    "console/test_demo.py",
    "ledger/test_tampering.py",
    "benchmarks/test_smoke_services.py",
    "console/test_drill.py",
    "benchmarks/test_smoke_ledger.py",
    "scoring/test_worker.py",
    "console/test_ingest.py",
)
FOLDER_PREFIX = "clickledger-tests-"
TEMPLATE = "clickledger_template"


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: tests wait for processes, ticks and disks for a part of their time."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in the order they were found."""
    place = {TESTS / name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@dataclass(frozen=True)
class TestServers:
    """The session's servers and the home folder they live in."""

    __test__ = False

    home: Path
    database_url: str  # the maintenance database; tests take `database_url`, the fixture
    redis_url: str


@pytest.fixture(scope="session")
def servers() -> Iterator[TestServers]:
    """A PostgreSQL and a Valkey of this session's own, ended with it."""
    _sweep_killed_sessions()
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=own_server.folder_of_servers()))
    folder.chmod(0o711)
    (folder / "owner").write_text(_mark(os.getpid()))
    try:
        if own_server.chosen_programs() is None:
            started = services.start_servers(folder / "home")
            _need_no_disk(started.database_url)
            yield TestServers(folder / "home", started.database_url, started.redis_url)
        else:
            with own_server.own_server() as postgres:
                place = home.prepare(folder / "home")
                yield TestServers(folder / "home", postgres.url, services.start_valkey(place, 60.0))
    finally:
        services.stop_servers(folder / "home")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def template_database(servers: TestServers) -> str:
    """The name of a migrated database that `database_url` clones."""
    _create(servers.database_url, TEMPLATE)
    schema.migrate(in_database(servers.database_url, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(servers: TestServers, template_database: str) -> Iterator[str]:
    """The address of a fresh, migrated database, dropped after the test whoever is still connected."""
    name = f"test_{secrets.token_hex(6)}"
    _create(servers.database_url, name, template_database)
    yield in_database(servers.database_url, name)
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def connect(database_url: str) -> Iterator[Callable[[], database.Connection]]:
    """Opens further connections, closed after the test."""
    opened: list[database.Connection] = []

    def open_one() -> database.Connection:
        opened.append(database.connect(database_url, application_name="tests"))
        return opened[-1]

    yield open_one
    for conn in opened:
        conn.close()


@pytest.fixture
def conn(connect: Callable[[], database.Connection]) -> database.Connection:
    """One connection to the test's database."""
    return connect()


@pytest.fixture
def redis_client(servers: TestServers) -> Iterator[redis.Redis]:
    """A client of the session's Valkey, which holds no key and no function."""
    client = redis.Redis.from_url(servers.redis_url)
    client.flushall()
    client.function_flush()
    yield client
    client.close()


@pytest.fixture
def redis_url(servers: TestServers, redis_client: redis.Redis) -> str:
    """The address of the session's Valkey, which holds no key and no function."""
    return servers.redis_url


def in_database(url: str, name: str) -> str:
    """The address of another database of the same server."""
    return url.replace("/clickledger?", f"/{name}?")


def _need_no_disk(url: str) -> None:
    """Nothing is flushed, and little log kept: what a killed process has written is the kernel's.

    Making and dropping a database for each test waited for the disk longer than most tests take.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in ("fsync = off", "full_page_writes = off", "max_wal_size = '256MB'"):
            connection.execute(f"ALTER SYSTEM SET {setting}".encode())
        connection.execute("SELECT pg_reload_conf()")


def _create(url: str, name: str, template: str = "template1") -> None:
    """Its files are copied, which takes half of what writing the same pages through the log takes."""
    clone = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
    statement = clone.format(sql.Identifier(name), sql.Identifier(template))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def _mark(pid: int) -> str:
    process = processes.identify(pid)
    return f"{process.pid} {process.born}" if process else ""


def _sweep_killed_sessions() -> None:
    """End what sessions left behind that were killed before they could."""
    places = (own_server.IN_MEMORY, own_server.ON_DISK)
    for owner in (owner for place in places for owner in place.glob(f"{FOLDER_PREFIX}*/owner")):
        try:
            mark = owner.read_text()
            if mark == _mark(int(mark.split()[0])):
                continue
            services.stop_servers(owner.parent / "home")
        except (OSError, ValueError, IndexError):
            continue  # another user's, or being made this moment
        shutil.rmtree(owner.parent, ignore_errors=True)
