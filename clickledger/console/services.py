"""The two servers everything stands on: the local ones of a home folder, or those the settings name.

`start_servers` and `stop_servers` are idempotent and hold the home's lock. The local servers are found by their own pid
files and command lines, never by the runtime file, which a crash may have left behind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from clickledger.console import account, home, postgres, valkey
from clickledger.console.home import Home, Runtime
from clickledger.errors import Unavailable
from clickledger.settings import Settings

START_SECONDS_MAX = 60.0


@dataclass(frozen=True)
class Servers:
    """Addresses of the two servers."""

    database_url: str
    redis_url: str


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


def stop_local(place: Home) -> None:
    """Stop Valkey, then PostgreSQL (the lock is held by the caller)."""
    stubborn = [
        name
        for name, stopped in (
            ("Valkey", valkey.stop(valkey_place(place, None))),
            ("PostgreSQL", postgres.stop(postgres_place(place, None))),
        )
        if not stopped
    ]
    if stubborn:
        raise Unavailable(f"{' and '.join(stubborn)} under {place.path} did not end, not even when killed")


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
        raise Unavailable(f"nothing runs under {settings.home}; start it with: clickledger up")
    return settings.model_copy(update={"database_url": database_url, "redis_url": redis_url})
