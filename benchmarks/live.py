"""clickledger's own processes, the roles that `clickledger up` starts, on a database of a benchmark's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis

from benchmarks import models
from benchmarks.ground import Ground, say
from clickledger import settings as settings_
from clickledger.console import processes, roles
from clickledger.console.roles import Role
from clickledger.ledger import database
from clickledger.scoring import simulation
from clickledger.settings import Settings

READY_SECONDS, END_SECONDS = 90.0, 30.0
START_MS = 1_760_000_000_000
HOURS = 6.0


def settings(ground: Ground, database_url: str, **changes: object) -> Settings:
    """The settings of processes that work on `database_url`; Valkey is emptied: its counters belong to one."""
    with redis.Redis.from_url(ground.servers.redis_url) as client:
        client.flushall()
    places = {"home": ground.home / "home", "database_url": database_url, "redis_url": ground.servers.redis_url}
    return settings_.load().model_copy(update={**places, **changes})


@contextmanager
def running(settings: Settings, wanted: Sequence[str]) -> Iterator[None]:
    """The named roles (scoring-1, recovery, ...), ready, until the block ends."""
    table = [role for role in roles.table(settings, 0) if role.name in wanted]
    started = [(role, _start(settings, role)) for role in table]
    try:
        for role, process in started:
            _await(settings, role, process)
        yield
    finally:
        for _, process in started:
            process.terminate()
        for _, process in started:
            _end(process)


def _start(settings: Settings, role: Role) -> subprocess.Popen[bytes]:
    say(f"starting {role.name}")
    with log_of(settings, role.name).open("ab") as log:
        return subprocess.Popen(role.command, env=roles.environment(settings, role), stdout=log, stderr=log)


def log_of(settings: Settings, name: str) -> Path:
    """Where a process says what it does."""
    return settings.home / f"{name}.log"


def _await(settings: Settings, role: Role, process: subprocess.Popen[bytes]) -> None:
    done = processes.wait_until(lambda: process.poll() is not None or roles.ready(settings, role, None), READY_SECONDS)
    if process.poll() is not None or not done:
        raise RuntimeError(f"{role.name} is not ready: {processes.log_tail(log_of(settings, role.name))}")


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def prepare(ground: Ground, **changes: object) -> Settings:
    """The settings for a fresh ledger with the usual deployment."""
    url = ground.fresh_database()
    with database.connect(url) as conn:
        models.deploy_usual(conn)
    return settings(ground, url, **changes)


def simulated(clicks: int, seed: int = 1) -> simulation.Simulated:
    """Simulated traffic of people and robots."""
    made, _ = simulation.simulate(simulation.SimulationConfig(clicks, START_MS, HOURS, seed))
    return made
