"""A PostgreSQL of one test's own: to be killed, backed up and restored, or of another version than the session's.

It runs as the account the local servers run as (PostgreSQL refuses root), without fsync: what a killed process has
written is the kernel's and survives it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from clickledger.console import account, postgres, processes

SECONDS_MAX = 60.0
# Servers of tests live in memory where there is enough of it: a database a test is 9 MB to copy and as much to log.
IN_MEMORY, ON_DISK = Path("/dev/shm"), Path("/tmp")
MEMORY_BYTES_MIN = 4 << 30
SETTINGS = ("fsync=off", "listen_addresses=", "shared_buffers=32MB", "max_connections=100", "timezone=UTC")


def folder_of_servers() -> Path:
    """Where to make the folder of a test's server: in memory, or on the disk."""
    try:
        enough = shutil.disk_usage(IN_MEMORY).free >= MEMORY_BYTES_MIN <= psutil.virtual_memory().available
    except OSError:
        return ON_DISK
    return IN_MEMORY if enough and os.access(IN_MEMORY, os.W_OK | os.X_OK) else ON_DISK


def shipped_programs() -> Path:
    """bin of the PostgreSQL that comes with the package's `local` extra."""
    return postgres.programs() / "bin"


def chosen_programs() -> Path | None:
    """bin of the PostgreSQL that CLICKLEDGER_TEST_POSTGRES_BIN names; None when the shipped one is tested."""
    named = os.environ.get("CLICKLEDGER_TEST_POSTGRES_BIN")
    return Path(named) if named else None


class OwnServer:
    """One data folder, and the server on it."""

    def __init__(self, folder: Path, programs: Path, settings: Sequence[str] = ()) -> None:
        self.folder, self.data, self._programs = folder, folder / "data", programs
        self._settings = (*SETTINGS, *settings)
        self._owner = account.for_servers(folder / "nothing")
        self._main: subprocess.Popen[bytes] | None = None
        folder.mkdir(mode=0o700, exist_ok=True)
        account.give(folder, self._owner)
        if programs == shipped_programs():
            account.open_program(postgres.programs(), self._owner)

    @property
    def url(self) -> str:
        """Of the database that `make` made."""
        return self.url_of("clickledger")

    def url_of(self, database: str) -> str:
        """Of any database of the server."""
        return f"postgresql://clickledger@/{database}?host={quote(str(self.folder), safe='')}&port=5432"

    def create(self, database: str, template: str = "template1") -> str:
        """Make a database; its address."""
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {database} TEMPLATE {template}".encode())
        return self.url_of(database)

    def program(self, name: str, *arguments: str) -> str:
        """Run one of the server's programs to its end, as its account; what it says."""
        command = [str(self._programs / name), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, check=False, **processes.as_account(self._owner)
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def make(self) -> None:
        """An empty server with one database, started."""
        options = ("-U", "clickledger", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.program("initdb", "-D", str(self.data), *options)
        self.start()
        self.create("clickledger")

    def restored(self, folder: Path, target: str, restore_command: str) -> OwnServer:
        """Another server on a base backup of this one in `folder`/data, started, replayed up to `target` and opened."""
        settings = (f"restore_command={restore_command}", target, "recovery_target_action=promote")
        server = OwnServer(folder, self._programs, settings)
        signal_file = server.data / "recovery.signal"
        signal_file.touch()
        os.chown(signal_file, server.data.stat().st_uid, server.data.stat().st_gid)
        server.start()
        return server

    def start(self) -> None:
        """Start it, after whatever ended it, and see it answer."""
        command = [str(self._programs / "postgres"), "-D", str(self.data), "-k", str(self.folder)]
        command += [word for setting in self._settings for word in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            self._main = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, **processes.as_account(self._owner)
            )
        assert processes.wait_until(self._answers_or_ended, SECONDS_MAX), self.log()
        assert self.runs(), self.log()

    def runs(self) -> bool:
        """Whether its main process is there."""
        return self._main is not None and self._main.poll() is None

    def _answers_or_ended(self) -> bool:
        try:
            psycopg.connect(self.url_of("postgres")).close()
        except psycopg.OperationalError:
            return not self.runs()
        return True

    def log(self) -> str:
        """The end of what the server wrote."""
        return (self.folder / "log").read_text(errors="replace")[-2_000:]

    def kill(self) -> None:
        """SIGKILL to the main process and all its children, as when the machine goes."""
        assert self._main is not None
        main = psutil.Process(self._main.pid)
        main.suspend()  # it starts no more children
        children = main.children()
        for process in (main, *children):
            with suppress(psutil.NoSuchProcess):  # a child ends by itself once it sees that the main process is gone
                process.send_signal(signal.SIGKILL)
        self._main.wait()
        assert processes.wait_until(lambda: all(map(_ended, children)), SECONDS_MAX)

    def stop(self) -> None:
        """Immediate shutdown; nothing when it has ended."""
        if self._main is not None and self.runs():
            self._main.send_signal(signal.SIGQUIT)
            self._main.wait(SECONDS_MAX)


@contextmanager
def own_server(*settings: str, at: Path | None = None) -> Iterator[OwnServer]:
    """A started, empty server of the version under test, stopped and removed at the end; in memory, unless `at` says
    where."""
    folder = Path(tempfile.mkdtemp(prefix="clickledger-own-", dir=at or folder_of_servers()))
    folder.chmod(0o711)
    server = OwnServer(folder / "server", chosen_programs() or shipped_programs(), settings)
    try:
        server.make()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _ended(process: psutil.Process) -> bool:
    """Whether it holds nothing any more; who reaps it may take a second."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
