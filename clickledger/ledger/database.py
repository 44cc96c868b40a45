"""Connections to PostgreSQL, and its errors in our words.

Invariants:
- whatever a connection says to its server passes `Connection.wait`, where errors become clickledger's, caused by
  psycopg's. What only a wrong statement raises (an unknown table, a unique key) passes as it is;
- Unavailable says "it may have committed, ask again" only where a commit was under way.
"""

from __future__ import annotations

import select
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg
from psycopg import IsolationLevel
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.waiting import Ready, Wait
from psycopg_pool import ConnectionPool

from clickledger import errors
from clickledger.ledger.rights import Role

# A host that is gone resets nothing, and who waits for it would keep its locks, or be no use, for hours. So both sides
# ask on a connection on which nothing comes (keepalives), and give one up whose other side does not acknowledge what it
# was sent (user timeout): within about this long. On a socket of this machine all of it is ignored.
GONE_SECONDS = 20
KEEPALIVES = {"idle": 10, "interval": 5, "count": 2}
CLIENT_OPTIONS: dict[str, Any] = {
    "connect_timeout": 10,
    "tcp_user_timeout": GONE_SECONDS * 1000,
    **{f"keepalives_{name}": value for name, value in KEEPALIVES.items()},
}
# The first ends a client that hangs while it holds the log lock; the server would otherwise wait for it for ever.
SESSION_OPTIONS = (
    "-c idle_in_transaction_session_timeout=30s -c default_transaction_isolation=read\\ committed -c timezone=UTC"
    f" -c tcp_user_timeout={GONE_SECONDS}s "
    + " ".join(f"-c tcp_keepalives_{name}={value}" for name, value in KEEPALIVES.items())
)
MAY_HAVE_COMMITTED = "it may have committed, ask again"
# Connection failures (08), shutdowns and the like (57P), ended for idling or for a transaction that took too long.
WENT_AWAY = ("08", "57P", "25P03", "25P04")

Execute = Callable[[str, tuple[Any, ...]], list[tuple[Any, ...]]]  # `Connection.rows`, or that of a writer

T = TypeVar("T")


class Connection(psycopg.Connection[Any]):
    """A connection that raises clickledger's errors."""

    _meanwhile: Callable[[], bool] | None = None

    @contextmanager
    def meanwhile(self, work: Callable[[], bool]) -> Iterator[None]:
        """Call `work` whenever the connection would wait for its server, over and over while it says it did something.

        Each call holds the answer up for as long as it takes, so it should be a small part of a millisecond; it may
        neither raise nor use the connection.
        """
        before, self._meanwhile = self._meanwhile, work
        try:
            yield
        finally:
            self._meanwhile = before

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """One exchange with the server: the one place all of them pass."""
        try:
            busy = gen if self._meanwhile is None else _filled(gen, self.pgconn.socket, self._meanwhile)
            return super().wait(busy, *args, **kwargs)
        except psycopg.Error as error:
            if (ours := _translate(error)) is None:
                raise
            raise ours from error

    if not TYPE_CHECKING:  # its overloads stay psycopg's

        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            """A closed connection refuses it before there is anything to wait for."""
            try:
                return super().cursor(*args, **kwargs)
            except psycopg.OperationalError as error:
                raise _translate(error) from error

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and answer its rows, as `log.Writer.execute` does under the log's lock."""
        return self.execute(statement.encode(), parameters).fetchall()

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """psycopg's, which knows that a server that went away during COMMIT may have committed."""
        commits = False
        outermost = self.pgconn.transaction_status == TransactionStatus.IDLE and not force_rollback
        try:
            with super().transaction(savepoint_name, force_rollback) as transaction:
                yield transaction
                commits = outermost
        except errors.Unavailable as error:
            if commits:
                _admit(error)
            raise


def _filled(gen: PQGen[T], fileno: int, work: Callable[[], bool]) -> PQGen[T]:
    """The same exchange, with work done wherever it would wait; what is left of the waiting is psycopg's."""
    try:
        wanted = next(gen)
        while True:
            if ready := _ready(fileno, wanted):
                wanted = gen.send(ready)
            elif work():
                # Look all the same, which blocks nothing: a socket takes more long before it is called writable.
                wanted = gen.send(wanted)
            else:
                wanted = gen.send((yield wanted))
    except StopIteration as end:
        return cast(T, end.value)


def _ready(fileno: int, wanted: int) -> int:
    """Which of reading and writing, of those wanted, would not block now."""
    poll = select.poll()
    poll.register(fileno, (select.POLLIN if wanted & Wait.R else 0) | (select.POLLOUT if wanted & Wait.W else 0))
    events = sum(found for _, found in poll.poll(0))
    return (Ready.R if events & select.POLLIN else 0) | (Ready.W if events & select.POLLOUT else 0)


_unconfirmed: weakref.WeakSet[Connection] = weakref.WeakSet()


def connect(url: str, *, application_name: str = "clickledger", role: Role | None = None) -> Connection:
    """An autocommit connection that acts as `role`; None: as the user of the address, who may do what the owner may.

    Raises Unavailable when the server does not answer, Refused when the user may not take the role.
    """
    try:
        conn = Connection.connect(
            url,
            autocommit=True,
            application_name=application_name,
            options=_options(role),
            prepare_threshold=2,
            **CLIENT_OPTIONS,
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
            f"expected a synchronous standby to confirm the commit, got its wait cancelled: {MAY_HAVE_COMMITTED}"
        )


class Pool(ConnectionPool[Connection]):
    """A pool that raises Unavailable when it has no connection to give."""

    def getconn(self, timeout: float | None = None) -> Connection:
        """A connection, to be put back. Raises Unavailable after `timeout` seconds."""
        with translated():
            return super().getconn(timeout)


def open_pool(
    url: str, *, application_name: str, min_size: int = 1, max_size: int = 8, role: Role | None = None
) -> Pool:
    """An open pool of connections like those of `connect`."""
    kwargs = {"autocommit": True, "application_name": application_name, "options": _options(role), **CLIENT_OPTIONS}
    pool = Pool(
        url,
        connection_class=Connection,
        kwargs=kwargs,
        min_size=min_size,
        max_size=max_size,
        open=False,
        timeout=10,
        configure=watch_commits,
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
    """The same errors for what asks libpq, or a pool, past `Connection.wait`."""
    try:
        yield
    except psycopg.Error as error:
        if (ours := _translate(error)) is None:
            raise
        raise ours from error


@contextmanager
def committing(conn: Connection) -> Iterator[None]:
    """For a statement that commits by itself: when the server goes away meanwhile, nobody knows whether it did."""
    was_open = not conn.closed
    try:
        yield
    except errors.Unavailable as error:
        if was_open:
            _admit(error)
        raise


@contextmanager
def committed(what: str) -> Iterator[None]:
    """For what follows a commit that was confirmed: when the server goes away now, `what` was done all the same."""
    try:
        yield
    except errors.Unavailable as error:
        error.args = (f"{error}; but {what}",)
        raise


class _Cancelled(errors.Unavailable, psycopg.errors.QueryCanceled):
    """psycopg itself waits for this one where it breaks a COPY off, so it has to be one of its own as well."""


def _translate(error: psycopg.Error) -> errors.ClickledgerError | None:
    """The ledger's word for an error; None for what only a bug can raise."""
    message = _first_line(error)
    match error.sqlstate:
        case "CL001":
            current = error.diag.message_detail
            return errors.RevokedDeployment(message, int(current) if current else None)
        case "CL002":
            return errors.LostCounters(message)
        case "CL003":
            return errors.InvariantBroken(message)
        case "CL004" | "CL006":
            return errors.Refused(message)
        case "CL005":
            return errors.Conflict(message)
        case "25006":  # read only SQL transaction
            return errors.Unavailable(f"this server takes no writes now, as a standby or one that recovers: {message}")
        case "42501":  # insufficient privilege
            return errors.Refused(f"this role may not do that: {message}")
        case "23P01" | "23514":  # exclusion and check constraints
            return errors.InvariantBroken(f"{error.diag.constraint_name}: {message}")
    if isinstance(error, psycopg.DataError):
        return errors.InvalidInput(f"a value cannot be stored: {message}")
    if _went_away(error):
        return errors.Unavailable(f"the database went away: {message}")
    if isinstance(error, psycopg.errors.QueryCanceled):
        return _Cancelled(f"the database gave it up: {message}")
    if isinstance(error, psycopg.OperationalError):  # a lock, a deadlock, a full disk
        return errors.Unavailable(f"the database could not do it now: {message}")
    return None


def _went_away(error: BaseException | None) -> bool:
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:  # not of the server, so of the connection; libpq's own result of it has no class
        return isinstance(error, psycopg.OperationalError) or type(error) is psycopg.DatabaseError
    return error.sqlstate.startswith(WENT_AWAY)


def _admit(error: errors.Unavailable) -> None:
    """Add that nobody knows whether it committed, where the server went away meanwhile."""
    if _went_away(error.__cause__) and MAY_HAVE_COMMITTED not in str(error):
        error.args = (f"{error}; {MAY_HAVE_COMMITTED}",)


def lacks_lock(error: errors.Unavailable) -> bool:
    """Whether this is a lock that was not had in time, or a deadlock: nothing happened, and it may be had again."""
    return isinstance(error.__cause__, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected)


def lacks_partition(error: BaseException) -> bool:
    """Whether this translated error is that a row found no partition to go to."""
    cause = (
        error.__cause__
    )  # a check violation without a constraint's name; its text is translated, where it arose is not
    return isinstance(cause, psycopg.errors.CheckViolation) and cause.diag.source_function == "ExecFindPartition"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
