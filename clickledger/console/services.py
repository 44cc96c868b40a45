"""The two servers everything stands on: the local ones of a home folder, or those the settings name.

`start_servers` and `stop_servers` are idempotent and hold the home's lock. The local servers are found by their own pid
files and command lines, never by the runtime file, which a crash may have left behind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import redis

from clickledger.console import account, home, postgres, valkey
from clickledger.console.home import Home, Runtime
from clickledger.console.processes import Process
from clickledger.errors import InvalidInput, InvalidSetting, Unavailable
from clickledger.settings import Settings

START_SECONDS_MAX = 60.0
IN_QUERY = re.compile(r"([?&][^=&#]*password[^=&#]*=)[^&#]*", re.IGNORECASE)
REDIS_VERSION_MIN = 7  # the first with functions; Valkey reports 7 and more


@dataclass(frozen=True)
class Servers:
    """Addresses of the two servers."""

    database_url: str
    redis_url: str


@dataclass(frozen=True)
class State:
    """How a server or process is: ready | external | not ready | unreachable | ended | stopped."""

    name: str
    state: str
    pid: int | None = None
    detail: str = ""

    @property
    def healthy(self) -> bool:
        return self.state in {"ready", "external"}


def start_servers(path: Path, seconds: float = START_SECONDS_MAX) -> Servers:
    """Start the local PostgreSQL and Valkey under the home folder `path`, each allowed `seconds` to answer.

    They outlive the caller. Nothing is migrated. Raises `Unavailable`.
    """
    place = home.prepare(path)
    with home.locked(place):
        servers = Servers(start_postgres(place, seconds), start_valkey(place, seconds))
        home.write(place, replace(home.read(place), database_url=servers.database_url, redis_url=servers.redis_url))
    return servers


def stop_servers(path: Path) -> None:
    """Stop the local servers under `path`; nothing is lost. Raises `Unavailable` when one does not end."""
    place = home.at(path)
    if not place.run.exists():
        return
    with home.locked(place):
        stop_local(place)
        home.write(place, replace(home.read(place), database_url=None, redis_url=None))


def start_postgres(place: Home, seconds: float) -> str:
    """Start the local PostgreSQL (the lock is held by the caller) and answer its address."""
    where = postgres_place(place, account.for_servers(place.path / "postgres"))
    home.socket_folder(place, where.owner)
    postgres.start(where, seconds)
    return where.url()


def start_valkey(place: Home, seconds: float) -> str:
    """Start the local Valkey (the lock is held by the caller) and answer its address."""
    where = valkey_place(place, account.for_servers(place.path / "valkey"))
    home.socket_folder(place, where.owner)
    valkey.start(where, seconds)
    return where.url()


def stop_local(place: Home) -> list[str]:
    """Stop Valkey, then PostgreSQL (the lock is held by the caller); answers which of them ran."""
    cache, database = valkey_place(place, None), postgres_place(place, None)
    ran = {"valkey": valkey.running(cache), "postgres": postgres.running(database)}
    ended = {"valkey": valkey.stop(cache), "postgres": postgres.stop(database)}
    if not all(ended.values()):
        stubborn = ", ".join(name for name, end in ended.items() if not end)
        raise Unavailable(f"did not end under {place.path}, not even when killed: {stubborn}")
    home.drop_socket_folder(place)
    return [name for name, process in ran.items() if process is not None]


def check_redis(url: str) -> None:
    """Raises `Unavailable` when the server does not answer, `InvalidInput` when it is too old for functions.

    And `InvalidSetting` for an address that the client does not take.
    """
    try:
        with redis.Redis.from_url(url, socket_timeout=10, socket_connect_timeout=10) as client:
            version = str(client.info("server").get("redis_version", "0"))
    except redis.RedisError as error:
        raise Unavailable(f"the Redis server at {without_password(url)} does not answer: {error}") from error
    except (TypeError, ValueError) as error:  # of the client's constructor, which takes what stands behind the `?`
        shown = without_password(url)
        raise InvalidSetting(f"CLICKLEDGER_REDIS_URL: expected a Redis address, got {shown}: {error}") from error
    if int(version.partition(".")[0]) < REDIS_VERSION_MIN:
        raise InvalidInput(f"expected Redis {REDIS_VERSION_MIN} or any Valkey, got Redis {version}")


def states(place: Home, settings: Settings) -> list[State]:
    """The state of PostgreSQL and of Valkey."""
    return [_postgres_state(place, settings), _valkey_state(place, settings)]


def _postgres_state(place: Home, settings: Settings) -> State:
    url = settings.database_url
    process = None if url else postgres.running(postgres_place(place, None))
    if url is None and process is None:
        return State("postgres", "stopped")
    url = url or postgres_place(place, None).url()
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError as error:
        return State("postgres", "unreachable", _pid(process), " ".join(str(error).split()))
    return State("postgres", "ready" if process else "external", _pid(process), without_password(url))


def _valkey_state(place: Home, settings: Settings) -> State:
    url = settings.redis_url
    process = None if url else valkey.running(valkey_place(place, None))
    if url is None and process is None:
        return State("valkey", "stopped")
    url = url or valkey_place(place, None).url()
    try:
        check_redis(url)
    except (Unavailable, InvalidInput) as error:
        return State("valkey", "unreachable", _pid(process), str(error))
    return State("valkey", "ready" if process else "external", _pid(process), without_password(url))


def _pid(process: Process | None) -> int | None:
    return None if process is None else process.pid


def without_password(url: str) -> str:
    """The address as it may be shown."""
    password = urlsplit(url).password
    shown = url.replace(f":{password}@", ":***@") if password else url
    return IN_QUERY.sub(r"\1***", shown)


def postgres_place(place: Home, owner: account.Account | None) -> postgres.Place:
    return postgres.Place(place, home.socket_path(place), owner)


def valkey_place(place: Home, owner: account.Account | None) -> valkey.Place:
    return valkey.Place(place, home.socket_path(place), owner)


def attach(settings: Settings) -> Settings:
    """The settings with the addresses of the servers that `up` started filled in. Raises `Unavailable`."""
    if settings.database_url and settings.redis_url:
        return settings
    runtime: Runtime = home.read(home.at(settings.home))
    database_url = settings.database_url or runtime.database_url
    redis_url = settings.redis_url or runtime.redis_url
    if not database_url or not redis_url:
        missing = [name for name, url in (("DATABASE_URL", database_url), ("REDIS_URL", redis_url)) if not url]
        if len(missing) == 1:
            raise Unavailable(f"no local server runs under {settings.home}: expected CLICKLEDGER_{missing[0]} as well")
        raise Unavailable(
            f"nothing runs under {settings.home}: name another folder by --home, or start it with: clickledger up"
        )
    return settings.model_copy(update={"database_url": database_url, "redis_url": redis_url})
