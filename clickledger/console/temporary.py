"""Servers and a scoring worker for the duration of one command, where none are up.

Invariants:
- what already runs is used and left alone;
- several commands at once share what the first of them started, and the last one to end stops it;
- what is started is in the runtime file, so that `clickledger down` finds it even if the command was killed.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from clickledger.console import home, postgres, processes, roles, services, valkey
from clickledger.console.home import Home, Running
from clickledger.console.processes import Process
from clickledger.console.roles import Role
from clickledger.errors import Unavailable
from clickledger.ledger import schema
from clickledger.scoring import heartbeat, stream
from clickledger.settings import Settings

WORKER = "scoring-temporary"


@contextmanager
def scoring(settings: Settings) -> Iterator[Settings]:
    """A migrated ledger and at least one scoring worker; yields the settings with both addresses filled in.

    Raises Unavailable when something does not come up.
    """
    place = home.prepare(settings.home)
    with (place.run / "temporary.users").open("a+") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            with home.locked(place):
                attached = _start_servers(place, settings)
                schema.migrate(str(attached.database_url))
                _start_worker(place, attached)
            yield attached
        finally:
            with home.locked(place):
                _end_if_last(place, users.fileno())


def _start_servers(place: Home, settings: Settings) -> Settings:
    seconds = settings.start_seconds_max
    if not _local_servers(place):
        _marker(place).touch()
    database_url = settings.database_url or services.start_postgres(place, seconds)
    redis_url = settings.redis_url or services.start_valkey(place, seconds)
    home.write(place, replace(home.read(place), database_url=database_url, redis_url=redis_url))
    services.check_redis(redis_url)
    return settings.model_copy(update={"database_url": database_url, "redis_url": redis_url, "home": place.path})


def _local_servers(place: Home) -> list[Process]:
    found = (postgres.running(services.postgres_place(place, None)), valkey.running(services.valkey_place(place, None)))
    return [process for process in found if process is not None]


def _start_worker(place: Home, settings: Settings) -> None:
    with stream.connect(str(settings.redis_url)) as client:
        if heartbeat.live(client):
            return
    role = next(role for role in roles.table(settings, 0) if role.readiness is roles.Readiness.HEARTBEAT)
    role = replace(role, name=WORKER)
    log = place.log / f"{WORKER}.log"

    def record(process: Process) -> None:
        home.write(place, home.read(place).with_process(WORKER, Running(process, role.command, str(log))))

    environment = roles.environment(settings, role)
    process = processes.spawn_recorded(role.command, log, record, folder=place.path, environment=environment)
    _await_ready(settings, role, process, log)


def _await_ready(settings: Settings, role: Role, process: Process, log: Path) -> None:
    def settled() -> bool:
        return not processes.alive(process) or roles.ready(settings, role, None)

    in_time = processes.wait_until(settled, settings.start_seconds_max)
    if not processes.alive(process) or not in_time:
        what = "was not ready in time" if processes.alive(process) else "ended at start"
        raise Unavailable(f"{role.name} {what}; {log}: {processes.log_tail(log)}")


def _end_if_last(place: Home, users: int) -> None:
    """Stop what was started temporarily unless another command still uses it (the home's lock is held)."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    runtime = home.read(place)
    if worker := runtime.processes.get(WORKER):
        processes.stop(worker.process, Role.stop)
        runtime = runtime.without_process(WORKER)
        home.write(place, runtime)
    if _marker(place).exists():
        _marker(place).unlink()
        if not runtime.processes:  # else somebody said `up` meanwhile: now it is theirs
            services.stop_local(place)
            home.write(place, replace(runtime, database_url=None, redis_url=None))


def _marker(place: Home) -> Path:
    """Exists while the local servers run for the sake of such commands only."""
    return place.run / "temporary.servers"
