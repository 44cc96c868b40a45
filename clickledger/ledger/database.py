"""Connections to PostgreSQL, and its errors in our words."""

from __future__ import annotations

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
SESSION_OPTIONS = (
    "-c idle_in_transaction_session_timeout=30s -c default_transaction_isolation=read\\ committed -c timezone=UTC"
)
Connection = psycopg.Connection[Any]


def connect(url: str, *, application_name: str = "clickledger", role: Role | None = None) -> Connection:
    """An autocommit connection that acts as `role`; None: as the user of the address, who may do what the owner may.

    Raises Unavailable when the server does not answer, Refused when the user may not take the role.
    """
    try:
        return psycopg.connect(
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


def open_pool(
    url: str, *, application_name: str, min_size: int = 1, max_size: int = 8, role: Role | None = None
) -> ConnectionPool[Connection]:
    """An open pool of connections like those of `connect`."""
    kwargs = {"autocommit": True, "application_name": application_name, "options": _options(role)}
    pool: ConnectionPool[Connection] = ConnectionPool(
        url, kwargs=kwargs, min_size=min_size, max_size=max_size, open=False, timeout=10
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


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
