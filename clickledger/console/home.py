"""The home folder: what lies where, its lock, and the runtime file that says what runs.

    home/               0711 when root owns it (the servers' account must pass), else 0700
    ├── run/    0700    runtime.json (0600: addresses may hold passwords), lock
    ├── log/    0700    one file for each process
    ├── sockets/ 0700   of the servers' account; a short folder under /tmp where this path would be too long
    ├── postgres/ 0700  of the servers' account: data/
    └── valkey/ 0700    of the servers' account: append-only files

Invariants:
- whoever starts or stops anything holds the lock; it goes with the process that holds it, however that ends;
- the runtime file is replaced whole, so that a reader sees the old or the new one and a crash leaves one of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from clickledger.console import account, output, processes
from clickledger.console.account import Account
from clickledger.console.processes import Process
from clickledger.errors import Unavailable

SOCKET_PATH_BYTES_MAX = 100  # the system's limit is 107 on Linux, 103 on macOS
FREE_BYTES_MIN = 256 * 1024 * 1024
RUNTIME_FORMAT = 1


@dataclass(frozen=True)
class Home:
    """Paths under one home folder. Make it with `at`: the servers are recognised by the one true path."""

    path: Path

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def runtime_file(self) -> Path:
        return self.run / "runtime.json"


@dataclass(frozen=True)
class Running:
    """One started process, as the runtime file remembers it."""

    process: Process
    command: list[str]
    log: str


@dataclass(frozen=True)
class Runtime:
    """What the runtime file says: addresses, and the processes by name."""

    database_url: str | None = None
    redis_url: str | None = None
    http_url: str | None = None
    processes: dict[str, Running] = field(default_factory=dict)

    def with_process(self, name: str, running: Running) -> Runtime:
        return replace(self, processes={**self.processes, name: running})

    def without_process(self, name: str) -> Runtime:
        return replace(self, processes={key: value for key, value in self.processes.items() if key != name})


def at(path: Path) -> Home:
    """The home at `path`, whether or not it exists."""
    return Home(path.expanduser().resolve())


def prepare(path: Path) -> Home:
    """Make the folders that lack. Raises `Unavailable` when they cannot be made or the disk is nearly full."""
    home = at(path)
    try:
        home.path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        home.run.mkdir(mode=0o700, exist_ok=True)
        home.log.mkdir(mode=0o700, exist_ok=True)
        free = shutil.disk_usage(home.path).free
    except OSError as error:
        raise Unavailable(f"cannot use the home folder {home.path}: {error}") from error
    if free < FREE_BYTES_MIN:
        raise Unavailable(f"disk nearly full: expected {FREE_BYTES_MIN} bytes free at {home.path}, got {free}")
    return home


@contextmanager
def locked(home: Home, seconds: float = 180.0) -> Iterator[None]:
    """Hold the home's lock. Raises `Unavailable` when another process keeps it for `seconds`."""
    try:
        file = (home.run / "lock").open("a+")
    except OSError as error:
        raise Unavailable(f"cannot open the lock of {home.path}: {error}") from error
    with file:
        if not processes.wait_until(lambda: _try_lock(file.fileno()), seconds):
            file.seek(0)
            raise Unavailable(f"process {file.read().strip() or 'unknown'} is starting or stopping {home.path}")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read(home: Home) -> Runtime:
    """The runtime file; an empty `Runtime` when there is none, or, said on stderr, when something damaged it."""
    try:
        return _parse(json.loads(home.runtime_file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Runtime()
    except PermissionError as error:
        raise Unavailable(f"{home.runtime_file} belongs to another user: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        output.say(f"{home.runtime_file} is damaged ({error}); taken as empty")
        return Runtime()


def _parse(fields: dict[str, Any]) -> Runtime:
    running = {
        name: Running(Process(int(item["pid"]), str(item["born"])), [str(x) for x in item["command"]], str(item["log"]))
        for name, item in fields["processes"].items()
    }
    return Runtime(fields["database_url"], fields["redis_url"], fields["http_url"], running)


def write(home: Home, runtime: Runtime) -> None:
    """Replace the runtime file."""
    lines = {
        name: {**asdict(running.process), "command": running.command, "log": running.log}
        for name, running in runtime.processes.items()
    }
    fields = {
        "format": RUNTIME_FORMAT,
        "database_url": runtime.database_url,
        "redis_url": runtime.redis_url,
        "http_url": runtime.http_url,
        "processes": lines,
    }
    draft = home.runtime_file.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(fields, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(home.runtime_file)


def socket_folder(home: Home, owner: Account | None) -> Path:
    """Where the servers' sockets lie, made and owned as needed: in the home folder, or in a short place for long paths.

    Raises `Unavailable` when the short place belongs to someone else.
    """
    folder = socket_path(home)
    if folder.parent != home.path:
        _refuse_a_strangers(folder, owner)
    account.give(folder, owner)
    account.open_way(folder, owner)
    return folder


def drop_socket_folder(home: Home) -> None:
    """Leave nothing behind under /tmp once both servers have ended; a folder inside the home stays."""
    folder = socket_path(home)
    if folder.parent != home.path and folder.exists():
        with suppress(OSError):  # someone else's, or not empty: then it is not ours to remove
            folder.rmdir()


def socket_path(home: Home) -> Path:
    """The folder of `socket_folder`, without touching it."""
    folder = home.path / "sockets"
    if len(os.fsencode(folder / ".s.PGSQL.5432")) <= SOCKET_PATH_BYTES_MAX:
        return folder
    name = "clickledger-" + hashlib.sha256(os.fsencode(home.path)).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / name
    return short if len(os.fsencode(short / ".s.PGSQL.5432")) <= SOCKET_PATH_BYTES_MAX else Path("/tmp") / name


def _refuse_a_strangers(folder: Path, owner: Account | None) -> None:
    """Anyone may make a folder under /tmp: one of a known name may be a trap."""
    try:
        state = folder.lstat()
    except FileNotFoundError:
        return
    mine = {os.geteuid()} | ({owner.uid} if owner else set())
    if folder.is_symlink() or not folder.is_dir() or state.st_uid not in mine:
        raise Unavailable(f"expected {folder} to be a folder of ours for sockets, got one of uid {state.st_uid}")
