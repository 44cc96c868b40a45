"""Connections to PostgreSQL, and its errors in our words."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import IsolationLevel
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

from clickledger import errors
from clickledger.ledger.rights import Role

# Ends a client that hangs while it holds the log lock; the server would otherwise wait for it for ever.
# The keepalives are for a host that is gone in the middle of a statement; on a socket of this machine they are ignored.
SESSION_OPTIONS = (
    "-c idle_in_transaction_session_timeout=30s -c default_transaction_isolation=read\\ committed -c timezone=UTC"
    " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
)
Connection = psycopg.Connection[Any]
_unconfirmed: weakref.WeakSet[Connection] = weakref.WeakSet()


def connect(url: str, *, application_name: str = "clickledger", role: Role | None = None) -> Connection:
    """An autocommit connection that acts as `role`; None: as the user of the address, who may do what the owner may.

    Raises Unavailable when the server does not answer, Refused when the user may not take the role.
    """
    try:
        conn = psycopg.connect(
            url,
            autocommit=True,
            application_name=application_name,
            options=_options(role),
            connect_timeout=10,
            tcp_user_timeout=30_000,
            prepare_threshold=2,
        )
    except psycopg.OperationalError as error:
        raise _not_connected(error, role) from error
    watch_commits(conn)
    return conn


def watch_commits(conn: Connection) -> None:
    """Take note of commits of this connection that its synchronous standby did not confirm."""
    known = weakref.ref(conn)  # a handler that held the connection would keep it from being closed when forgotten

    def take_note(notice: psycopg.errors.Diagnostic) -> None:
        # PostgreSQL reports success, with a warning whose text is translated; the place it comes from is not.
        if notice.source_function == "SyncRepWaitForLSN" and (warned := known()) is not None:
            _unconfirmed.add(warned)

    conn.add_notice_handler(take_note)


def require_confirmed(conn: Connection) -> None:
    """After a commit: raises Unavailable when the wait for its synchronous standby was cancelled.

    It happened here, but a failover may still lose it, so nobody may be told that it is done.
    """
    if conn in _unconfirmed:
        _unconfirmed.discard(conn)
        raise errors.Unavailable(
            "expected a synchronous standby to confirm the commit, got its wait cancelled:"
            " it may have committed, ask again"
        )


def open_pool(
    url: str, *, application_name: str, min_size: int = 1, max_size: int = 8, role: Role | None = None
) -> ConnectionPool[Connection]:
    """An open pool of connections like those of `connect`."""
    kwargs = {"autocommit": True, "application_name": application_name, "options": _options(role)}
    pool: ConnectionPool[Connection] = ConnectionPool(
        url, kwargs=kwargs, min_size=min_size, max_size=max_size, open=False, timeout=10, configure=watch_commits
    )
    pool.open()
    return pool


def _options(role: Role | None) -> str:
    return SESSION_OPTIONS if role is None else f"{SESSION_OPTIONS} -c role={role}"


def _not_connected(error: psycopg.OperationalError, role: Role | None) -> errors.ClickledgerError:
    """A connection that failed has no SQLSTATE, only what the server said, perhaps in its own language."""
    message = str(error)
    if role is not None and f'"{role}"' in message:
        return errors.Refused(
            f"cannot act as {role}: expected a migrated ledger (clickledger up) and a user who was granted that role, "
            f"got: {message.strip().splitlines()[-1].strip()}"
        )
    return errors.Unavailable(f"the database does not answer: {_first_line(error)}")


@contextmanager
def snapshot(conn: Connection) -> Iterator[None]:
    """A REPEATABLE READ transaction: everything read in it belongs to one moment.

    Within a transaction that has this level already, a part of it. Raises InvariantBroken within any other.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        row = conn.execute("SHOW transaction_isolation").fetchone()
        if row is None or row[0] != "repeatable read":
            raise errors.InvariantBroken(f"expected a transaction under repeatable read, got {row and row[0]}")
        with conn.transaction():
            yield
        return
    conn.isolation_level = IsolationLevel.REPEATABLE_READ
    try:
        with conn.transaction():
            yield
    finally:
        if not conn.closed:
            conn.isolation_level = None


@contextmanager
def translated() -> Iterator[None]:
    """Turns the ledger's own SQLSTATEs and lost connections into clickledger errors; others pass unchanged."""
    try:
        yield
    except psycopg.Error as error:
        raise _translate(error) from error


def _translate(error: psycopg.Error) -> Exception:
    message = _first_line(error)
    match error.sqlstate:
        case "CL001":
            current = error.diag.message_detail
            return errors.RevokedDeployment(message, int(current) if current else None)
        case "CL002":
            return errors.LostCounters(message)
        case "CL003":
            return errors.InvariantBroken(message)
        case "CL004":
            return errors.Refused(message)
        case "CL005":
            return errors.Conflict(message)
        case "42501":  # insufficient privilege
            return errors.Refused(f"this role may not do that: {message}")
        case "23P01" | "23514":  # exclusion and check constraints
            return errors.InvariantBroken(f"{error.diag.constraint_name}: {message}")
    if isinstance(error, psycopg.DataError):
        return errors.InvalidInput(f"a value cannot be stored: {message}")
    if isinstance(error, psycopg.OperationalError | psycopg.errors.IdleInTransactionSessionTimeout):
        return errors.Unavailable(f"the database went away, the outcome is unknown: {message}")
    return error


def lacks_partition(error: BaseException) -> bool:
    """Whether this translated error is that a row found no partition to go to."""
    cause = (
        error.__cause__
    )  # a check violation without a constraint's name; its text is translated, where it arose is not
    return isinstance(cause, psycopg.errors.CheckViolation) and cause.diag.source_function == "ExecFindPartition"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
