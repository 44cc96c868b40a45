"""What a benchmark stands on: servers of its own in a temporary home, a fresh database each time, and its figures."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from clickledger.console import services
from clickledger.ledger import database, schema

TEMPLATE = "bench_template"


@dataclass(frozen=True)
class Figure:
    """One line of the table. `target` says what it should be, `met` whether it is; None where there is no target."""

    what: str
    value: float
    unit: str
    note: str = ""
    target: str = ""
    met: bool | None = None


@dataclass
class Result:
    """What a benchmark measured: lines for people, and keys for `latest.json`."""

    figures: list[Figure] = field(default_factory=list)
    keys: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ground:
    """Running servers. `quick` asks for the smallest run that goes the whole way; its figures mean nothing."""

    home: Path
    servers: services.Servers
    quick: bool

    def fresh_database(self) -> str:
        """The address of a new, migrated database: a clone of the first one, which nobody else uses."""
        name = f"bench_{secrets.token_hex(4)}"
        with psycopg.connect(self.servers.database_url, autocommit=True) as conn:
            if not conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (TEMPLATE,)).fetchone():
                conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
                schema.migrate(self._url(TEMPLATE))
            clone = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            conn.execute(clone.format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
        return self._url(name)

    def _url(self, name: str) -> str:
        return self.servers.database_url.replace("/clickledger?", f"/{name}?")

    def settle(self) -> None:
        """Write out what earlier measurements left, so that a checkpoint of theirs does not fall into the next one."""
        with database.connect(self.servers.database_url) as conn:
            conn.execute("CHECKPOINT")


@contextmanager
def prepared(quick: bool) -> Iterator[Ground]:
    """Servers in a temporary home, stopped and removed afterwards."""
    home = Path(tempfile.mkdtemp(prefix="clickledger-bench-", dir="/tmp"))
    home.chmod(0o711)
    try:
        yield Ground(home, services.start_servers(home / "home"), quick)
    finally:
        services.stop_servers(home / "home")
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def environment(ground: Ground, database_url: str) -> Iterator[dict[str, str]]:
    """The environment under which a process of clickledger works on `database_url`, set here too while it lasts."""
    values = {
        "CLICKLEDGER_HOME": str(ground.home / "home"),
        "CLICKLEDGER_DATABASE_URL": database_url,
        "CLICKLEDGER_REDIS_URL": ground.servers.redis_url,
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield dict(os.environ)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed: an observed one, never interpolated."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
