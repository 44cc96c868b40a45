"""A fresh ledger for each history: clones of a prepared database, one at a time, 0.1 s each."""

from __future__ import annotations

import secrets
from types import TracebackType

import psycopg
from psycopg import sql


class Clones:
    """Databases cloned from a prepared one, itself a clone of `template`; all dropped at the end."""

    def __init__(self, server_url: str, template: str) -> None:
        self._url, self._template = server_url, template
        self._names = [f"machine_{secrets.token_hex(4)}"]
        self.prepared = self._url_of(self._names[0])

    def __enter__(self) -> Clones:
        self._admin = psycopg.connect(self._url, autocommit=True)
        self._clone(self._names[0], self._template)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(self._names):
            self._drop(name)
        self._admin.close()

    def another(self) -> str:
        """The address of a fresh clone; the one before is dropped, whoever is still connected."""
        if len(self._names) > 1:
            self._drop(self._names.pop())
        self._names.append(f"{self._names[0]}_{secrets.token_hex(4)}")
        self._clone(self._names[-1], self._names[0])
        return self._url_of(self._names[-1])

    def _clone(self, name: str, template: str) -> None:
        names = [sql.Identifier(name), sql.Identifier(template)]
        self._admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY wal_log").format(*names))

    def _drop(self, name: str) -> None:
        self._admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _url_of(self, name: str) -> str:
        return self._url.replace("/clickledger?", f"/{name}?")
