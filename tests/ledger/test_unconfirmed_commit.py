"""A commit whose synchronous standby did not confirm it is answered as unknown, never as done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from batches import batch, clicks

from clickledger import errors
from clickledger.ledger import append, database, deployments, fact_tables, importing, log, outcomes
from clickledger.ledger.outcomes import Outcome

Connect = Callable[[], database.Connection]
WAITING = "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = %s"


Standbys = Callable[[str], None]


@pytest.fixture
def standbys(connect: Connect) -> Iterator[Standbys]:
    """Sets the names of standbys that every commit of the server waits for; none again when the test ends."""
    admin, probe = connect(), connect()

    def waits() -> bool:
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(probe.execute, "SELECT pg_logical_emit_message(true, 'tests', 'probe')")
            while not sent.done():
                if admin.execute(WAITING, (probe.info.backend_pid,)).fetchone() == (True,):
                    admin.execute("SELECT pg_cancel_backend(%s)", (probe.info.backend_pid,))
                    sent.result()
                    return True
        return False

    def put(names: str) -> None:
        admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'".encode())
        admin.execute("SELECT pg_reload_conf()")
        while waits() != bool(names):
            pass  # the setting is in force once the checkpointer has read it

    try:
        yield put
    finally:
        put("")
        admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        admin.execute("SELECT pg_reload_conf()")


def cancel_wait(watcher: database.Connection, waiting: database.Connection, sent: Future[object]) -> None:
    """Cancel the session's wait for the standby once it has begun."""
    while watcher.execute(WAITING, (waiting.info.backend_pid,)).fetchone() != (True,):
        assert not sent.done()
    watcher.execute("SELECT pg_cancel_backend(%s)", (waiting.info.backend_pid,))


WRITES: dict[str, Callable[[database.Connection], object]] = {
    "append": lambda conn: append.append(conn, batch(clicks(3)), actor="tests"),
    "import": lambda conn: importing.import_batch(conn, batch(clicks(3)), actor="tests"),
    "control entry": lambda conn: log.record(conn, "noted", {}, "tests"),
    "outcomes": lambda conn: outcomes.append(conn, [Outcome(clicks(1)[0].click_id, "purchase", 1, 1)], actor="tests"),
    "table of facts": lambda conn: fact_tables.register(conn, "networks", b"content", 1, "tests"),
    "model": lambda conn: deployments.register_model(conn, b"artefact", "network", {}, "tests"),
}


def refused_as_unknown(connect: Connect, conn: database.Connection, write: str) -> None:
    """Do the write, cancel its wait, and see it refused."""
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(WRITES[write], conn)
        cancel_wait(connect(), conn, sent)
        with pytest.raises(errors.Unavailable, match="may have committed, ask again"):
            sent.result()


@pytest.fixture
def ledger(connect: Connect) -> database.Connection:
    """A ledger that has the day's partitions, so that the next commit is the one in question."""
    conn = connect()
    append.append(conn, batch(clicks(1, start=50)), actor="tests")
    return conn


@pytest.mark.parametrize("write", WRITES)
def test_commit_no_standby_confirmed_is_answered_as_unknown(
    connect: Connect, ledger: database.Connection, standbys: Standbys, write: str
) -> None:
    standbys("nobody")
    refused_as_unknown(connect, ledger, write)
    assert log.head(connect()).position == 3  # it did happen here


@pytest.mark.parametrize("write", ["append", "import"])
def test_repeats_are_answered_only_once_the_standby_has_the_first(
    connect: Connect, ledger: database.Connection, standbys: Standbys, write: str
) -> None:
    standbys("nobody")
    for _ in range(3):  # as new, then met by a collision, then looked up
        refused_as_unknown(connect, ledger, write)
    standbys("")
    answered = WRITES[write](ledger)
    assert isinstance(answered, append.Appended)
    assert answered.outcome == ["repeat"] * 3


@pytest.mark.parametrize("write", ["outcomes", "model", "table of facts"])
def test_what_is_known_already_is_answered_only_once_the_standby_has_the_first(
    connect: Connect, ledger: database.Connection, standbys: Standbys, write: str
) -> None:
    standbys("nobody")
    for _ in range(2):
        refused_as_unknown(connect, ledger, write)
    standbys("")
    WRITES[write](ledger)
    assert log.head(connect()).position == 3
