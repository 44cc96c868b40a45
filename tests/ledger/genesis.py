"""One database for many histories: set back to its first entry between them, some 5 ms instead of a clone's 70.

Rows are deleted with the triggers off, as only a superuser can, and those of a new ledger are put back. Which tables
there are is asked of the catalogue, so that a table of a later migration is set back too.
"""

from __future__ import annotations

import secrets
from types import TracebackType

import faults
import psycopg
from psycopg import sql

from clickledger.ledger import database, partitions

SELECT_TABLES = """
    SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
       AND NOT relispartition AND relname <> 'alembic_version' ORDER BY relname"""
SELECT_SEQUENCES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'S'"
HISTORIES_PER_VACUUM = 25
SETTINGS = ("synchronous_commit = off",)  # nobody reads this database after a crash of the server
# It plans anew at each call, for the sake of many days; here there are few, and planning is most of what a check takes.
KEEP_PLANS = "ALTER FUNCTION {} RESET plan_cache_mode"
LOOKED_UP_BY_CLICK = ("decision_of(uuid)", "decision_of(uuid, bigint)")
# Of the connection that only checks: the plan of its one big statement is kept, and paths that nobody would take over a
# few rows are not looked for.
CHECKING = (
    "SET plan_cache_mode = force_generic_plan",
    "SET max_parallel_workers_per_gather = 0",
    "SET jit = off",
)


class Ledger:
    """A ledger of its own database, cloned from `template`, with the partitions of `days`; dropped at the end."""

    def __init__(self, server_url: str, template: str, days: set[int]) -> None:
        self._server_url, self._template, self._days = server_url, template, days
        self._name = f"machine_{secrets.token_hex(4)}"
        self.url = server_url.replace("/clickledger?", f"/{self._name}?")
        self._histories = 0
        self.conn: database.Connection  # that of the calls under test, which crashes end
        self.checking: database.Connection  # sees what was committed, and nothing ends it

    def __enter__(self) -> Ledger:
        self._administer(f"CREATE DATABASE {self._name} TEMPLATE {self._template} STRATEGY wal_log")
        for setting in SETTINGS:
            self._administer(f"ALTER DATABASE {self._name} SET {setting}")
        self.conn = database.connect(self.url, application_name="state-machine")
        partitions.ensure(self.conn, self._days)
        for function in LOOKED_UP_BY_CLICK:
            self.conn.execute(KEEP_PLANS.format(function).encode())
        self._remember(self.conn)
        self.checking = database.connect(self.url, application_name="state-machine-checks")
        for setting in CHECKING:
            self.checking.execute(setting.encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.conn.close()
        self.checking.close()
        self._administer(f"DROP DATABASE IF EXISTS {self._name} WITH (FORCE)")

    def set_back(self) -> database.Connection:
        """A connection to the ledger, in which nothing is but its first entry."""
        if self.conn.broken or self.conn.info.transaction_status:  # a history that failed left it so
            self.reconnect()
        if self._histories % HISTORIES_PER_VACUUM == 0:
            self.conn.execute("VACUUM")
        self._histories += 1
        self.conn.execute("SELECT genesis.set_back()")
        return self.conn

    def reconnect(self) -> database.Connection:
        """Another connection in the place of the one before."""
        self.conn.close()
        self.conn = database.connect(self.url, application_name="state-machine")
        return self.conn

    def end_backend(self) -> None:
        """End the server process of the connection, and wait until it is gone and its transaction with it."""
        faults.end_backend(self._server_url, self.conn)

    def _remember(self, conn: database.Connection) -> None:
        """Keep a copy of every table and make the function that puts it back."""
        tables = [name for (name,) in conn.execute(SELECT_TABLES)]
        statements = []
        conn.execute("CREATE SCHEMA genesis")
        for name in tables:
            table = sql.Identifier(name)
            conn.execute(sql.SQL("CREATE TABLE genesis.{0} AS TABLE public.{0}").format(table))
            statements.append(sql.SQL("DELETE FROM public.{0};").format(table))
            if conn.execute(sql.SQL("SELECT 1 FROM genesis.{}").format(table)).fetchone():
                statements.append(sql.SQL("INSERT INTO public.{0} SELECT * FROM genesis.{0};").format(table))
        for (name,) in conn.execute(SELECT_SEQUENCES).fetchall():
            statements.append(sql.SQL("ALTER SEQUENCE public.{} RESTART;").format(sql.Identifier(name)))
        body = sql.SQL("BEGIN {} END").format(sql.SQL(" ").join(statements))
        options = "RETURNS void LANGUAGE plpgsql SET session_replication_role = replica"
        conn.execute(
            sql.SQL("CREATE FUNCTION genesis.set_back() {} AS {}").format(
                sql.SQL(options), sql.Literal(body.as_string())
            )
        )

    def _administer(self, statement: str) -> None:
        with psycopg.connect(self._server_url, autocommit=True) as admin:
            admin.execute(statement.encode())
