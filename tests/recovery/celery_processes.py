"""Real Celery workers and beat, as `up` starts them, for one test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import clickledger

APP = "clickledger.recovery.celery_app"
SOURCE = str(Path(clickledger.__file__).parent.parent)


class CeleryProcesses:
    """Starts workers and beat; each is the leader of its own process group, killed with the test."""

    def __init__(self, folder: Path, database_url: str, redis_url: str, **settings: object) -> None:
        self.folder = folder
        own = {"database_url": database_url, "redis_url": redis_url, "home": folder, **settings}
        variables = {f"CLICKLEDGER_{name.upper()}": str(value) for name, value in own.items()}
        self.environment = {**os.environ, **variables, "PYTHONPATH": SOURCE, "PYTHONUNBUFFERED": "1"}
        self._started: list[subprocess.Popen[bytes]] = []

    def worker(
        self, name: str = "recovery", concurrency: int = 1, queue: str = "cl:recovery,cl:replay"
    ) -> subprocess.Popen[bytes]:
        """A worker, which is up when its first task is; its log is NAME.log."""
        words = ("worker", "--loglevel=INFO", f"--concurrency={concurrency}", f"--hostname={name}@clickledger")
        return self._start(name, (*words, f"--queues={queue}"))

    def beat(self, name: str = "beat") -> subprocess.Popen[bytes]:
        """What sends tasks by the clock; its log is NAME.log."""
        schedule = self.folder / f"{name}-schedule"
        return self._start(name, ("beat", "--loglevel=INFO", f"--schedule={schedule}", "--pidfile="))

    def log(self, name: str) -> str:
        """What a process has said so far."""
        return (self.folder / f"{name}.log").read_text()

    def _start(self, name: str, words: tuple[str, ...]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "celery", "-A", APP, *words]
        with (self.folder / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=self.environment, start_new_session=True
            )
        self._started.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL to a process and its children, at once."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill_all(self) -> None:
        """End everything that was started."""
        for process in self._started:
            self.kill(process)


def eventually(condition: Callable[[], object], what: str, seconds: float = 90.0) -> None:
    """Look until the condition holds; fails when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"expected {what} within {seconds:g} s"
        time.sleep(0.05)
