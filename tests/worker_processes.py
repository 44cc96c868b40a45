"""Real scoring workers for tests: started, waited for, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from clickledger.console import processes
from clickledger.ledger import database
from clickledger.scoring import heartbeat, stream

REPOSITORY = Path(__file__).parents[1]
SECONDS = 60.0
WAITING = """
    SELECT pid FROM pg_stat_activity
    WHERE application_name LIKE 'clickledger scoring%' AND wait_event_type = 'Lock' AND datname = current_database()"""


class Workers:
    """Workers on one database and one Valkey, their logs under `folder`."""

    def __init__(self, database_url: str, redis_url: str, folder: Path) -> None:
        self._urls = {"CLICKLEDGER_DATABASE_URL": database_url, "CLICKLEDGER_REDIS_URL": redis_url}
        self._client = redis.Redis.from_url(redis_url)
        self._folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *, wait: bool = True, **settings: str) -> None:
        """Start a worker and, unless told otherwise, wait for its heartbeat."""
        self._client.delete(heartbeat.KEY_PREFIX + name)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("CLICKLEDGER_")}
        own = {"CLICKLEDGER_HOME": str(self._folder), "CLICKLEDGER_PROCESS": name, "PYTHONPATH": str(REPOSITORY)}
        given = {f"CLICKLEDGER_{key.upper()}": value for key, value in settings.items()}
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-P", "-m", "clickledger.console.worker_main"],
                env={**inherited, **self._urls, **own, **given},
                stderr=log,
            )
        if wait:
            until(lambda: self.is_live(name) or self.running[name].poll() is not None, f"{name} to be ready")
            assert self.running[name].poll() is None, self.log(name).read_text()

    def is_live(self, name: str) -> bool:
        return name in {worker.name for worker in heartbeat.live(self._client)}

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running.pop(name).wait()

    def stop(self, name: str) -> int:
        """Ask it to end; its exit code."""
        self.running[name].send_signal(signal.SIGTERM)
        return self.running.pop(name).wait(SECONDS)

    def drained(self) -> bool:
        return stream.backlog(self._client) == 0


@contextmanager
def workers(database_url: str, redis_url: str, folder: Path) -> Iterator[Workers]:
    """Workers that all end with the block."""
    made = Workers(database_url, redis_url, folder)
    try:
        yield made
    finally:
        for name in list(made.running):
            made.kill(name)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a state of the world; fails the test when it does not come."""
    assert processes.wait_until(condition, SECONDS), f"waited {SECONDS:g} s for {what}"


def waiting_backends(conn: database.Connection) -> list[int]:
    """Server processes of workers that wait for a lock."""
    return [row[0] for row in conn.execute(WAITING)]
