"""`up`, `down` and `status`: servers, migration, processes.

Invariants:
- `up` and `down` hold the home's lock, so two of them never interleave;
- every process is in the runtime file before its command begins, so whatever happens to `up`, `down` finds it;
- `up` is idempotent: what runs is left alone, what ended is started again.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from clickledger.console import home, output, processes, roles, services
from clickledger.console.home import Home, Running, Runtime
from clickledger.console.processes import Process
from clickledger.console.roles import Role
from clickledger.console.services import State
from clickledger.errors import InvalidSetting, Unavailable
from clickledger.ledger import database, partitions, rights
from clickledger.settings import Settings

Table = Callable[[Settings, int], list[Role]]  # of the settings and the API's port


def up(settings: Settings, *, workers: bool = True, table: Table = roles.table) -> Runtime:
    """Start whatever does not run, migrate, and wait until all is ready. `table` says which processes there are.

    Raises `Unavailable` naming what did not come up, with the end of its log; what did come up stays up.
    """
    place = home.prepare(settings.home)
    with home.locked(place):
        if workers:
            _check_port(place, settings)
        settings = _start_servers(place, settings)
        _migrate(settings)
        if workers:
            _start_processes(place, settings, table)
        return home.read(place)


def down(settings: Settings, *, table: Table = roles.table) -> list[str]:
    """Stop processes, then the local servers; external servers are left alone. Answers what was stopped.

    Raises `Unavailable` when something does not end even when killed.
    """
    place = home.at(settings.home)
    if not place.run.exists():
        return []
    with home.locked(place):
        stopped = _stop_processes(place, table(settings, 0))
        servers = services.stop_local(place)
        home.write(place, Runtime())
    return stopped + servers


def status(settings: Settings, *, table: Table = roles.table) -> list[State]:
    """The state of both servers and of every process the runtime file names. Changes nothing, waits for no lock."""
    place = home.at(settings.home)
    runtime = home.read(place)
    servers = services.states(place, settings)
    attached = services.attach(settings) if all(server.healthy for server in servers) else None
    known = {role.name: role for role in table(settings, 0)}
    return servers + [_state(attached, runtime, known.get(name), name) for name in runtime.processes]


def _start_servers(place: Home, settings: Settings) -> Settings:
    seconds = settings.start_seconds_max
    database_url = settings.database_url or services.start_postgres(place, seconds)
    redis_url = settings.redis_url or services.start_valkey(place, seconds)
    services.check_redis(redis_url)
    home.write(place, replace(home.read(place), database_url=database_url, redis_url=redis_url))
    return settings.model_copy(update={"database_url": database_url, "redis_url": redis_url, "home": place.path})


def _migrate(settings: Settings) -> None:
    from clickledger.ledger import schema  # noqa: PLC0415 - SQLAlchemy costs 0.5 s, which `status` need not pay

    schema.migrate(str(settings.database_url))
    with database.connect(
        str(settings.database_url), application_name="clickledger up", role=rights.Role.SCORER
    ) as conn:
        partitions.ensure_ahead(conn)  # beat's first turn comes an hour later


def _check_port(place: Home, settings: Settings) -> None:
    """Find out that the API cannot be served before anything is started for it. Raises `Unavailable`."""
    api = home.read(place).processes.get("api")
    if not (api and processes.alive(api.process)):
        _free_port(settings)


def _start_processes(place: Home, settings: Settings, table: Table) -> None:
    runtime = home.read(place)
    api = runtime.processes.get("api")
    if not (runtime.http_url and api and processes.alive(api.process)):
        port = _free_port(settings)
        home.write(place, replace(runtime, http_url=_http_url(settings, port)))
    http_url = str(home.read(place).http_url)
    wanted = table(settings, int(http_url.rpartition(":")[2]))
    for role in wanted:
        _start_process(place, settings, role)
    for role in wanted:
        _await_ready(place, settings, role, http_url)
    for role in wanted:  # some are only known to be alive; the others took long enough for those to fail
        _require_alive(place, role)


def _start_process(place: Home, settings: Settings, role: Role) -> None:
    known = home.read(place).processes.get(role.name)
    if known is not None and processes.alive(known.process):
        return
    log = place.log / f"{role.name}.log"
    roles.forget_heartbeat(settings, role)

    def record(process: Process) -> None:
        home.write(place, home.read(place).with_process(role.name, Running(process, role.command, str(log))))

    processes.spawn_recorded(
        role.command, log, record, folder=place.path, environment=roles.environment(settings, role)
    )


def _await_ready(place: Home, settings: Settings, role: Role, http_url: str) -> None:
    running = home.read(place).processes[role.name]

    def settled() -> bool:
        return not processes.alive(running.process) or roles.ready(settings, role, http_url)

    if not settled():
        output.say(f"waiting for {role.name}")
    in_time = processes.wait_until(settled, settings.start_seconds_max)
    _require_alive(place, role)
    if not in_time:
        tail = processes.log_tail(Path(running.log))
        raise Unavailable(f"{role.name} was not ready within {settings.start_seconds_max:g} s; {running.log}: {tail}")


def _require_alive(place: Home, role: Role) -> None:
    running = home.read(place).processes[role.name]
    if not processes.alive(running.process):
        raise Unavailable(f"{role.name} ended at start; {running.log}: {processes.log_tail(Path(running.log))}")


def _stop_processes(place: Home, wanted: Sequence[Role]) -> list[str]:
    """In the reverse order of their start: the API first, so that no click is accepted that nobody will decide."""
    known = {role.name: role.stop for role in wanted}
    stopped: list[str] = []
    stubborn: list[str] = []
    for name, running in reversed(home.read(place).processes.items()):
        was_alive = processes.alive(running.process)
        if not processes.stop(running.process, known.get(name, Role.stop)):
            stubborn.append(f"{name} (pid {running.process.pid})")
            continue
        home.write(place, home.read(place).without_process(name))
        stopped += [name] if was_alive else []
    if stubborn:
        raise Unavailable(f"did not end, not even when killed: {', '.join(stubborn)}")
    return stopped


def _free_port(settings: Settings) -> int:
    """The port to serve on; port 0 becomes any free one. Raises when it is taken or the host is not of this machine."""
    family = socket.AF_INET6 if ":" in settings.http_host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.http_host, settings.http_port))
        except socket.gaierror as error:
            raise InvalidSetting(f"http_host: expected an address, got {settings.http_host!r}") from error
        except OSError as error:
            where = f"{settings.http_host}:{settings.http_port}"
            other = "set CLICKLEDGER_HTTP_PORT (0: any free one)"
            raise Unavailable(f"cannot serve on {where}: {error.strerror}; {other}") from error
        return int(probe.getsockname()[1])


def _http_url(settings: Settings, port: int) -> str:
    """Where this machine reaches the API: the loopback address for one that listens everywhere."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(settings.http_host, settings.http_host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _state(attached: Settings | None, runtime: Runtime, role: Role | None, name: str) -> State:
    running = runtime.processes[name]
    if not processes.alive(running.process):
        return State(name, "ended", None, f"{running.log}: {processes.log_tail(Path(running.log), lines=1)}")
    if attached is None or (role is not None and not roles.ready(attached, role, runtime.http_url)):
        return State(name, "not ready", running.process.pid, running.log)
    return State(name, "ready", running.process.pid, str(runtime.http_url) if name == "api" else "")
