"""Checkpoints and the log: each has its entry, together or not at all, whoever signs beside it or is killed."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress

import faults
import pytest
from growing import grow

from clickledger import errors
from clickledger.console import processes
from clickledger.ledger import checkpoint_entries, checkpoint_keys, checkpoints, database, log, signed_note
from clickledger.ledger.rights import Role
from clickledger.ledger.signed_note import SigningKey

Connect = Callable[[], database.Connection]
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
DOOMED = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'doomed' AND datname = current_database()"


@pytest.fixture
def key(conn: database.Connection) -> SigningKey:
    """The key of the test's ledger, recorded at position 2."""
    made = signed_note.generate(checkpoint_keys.origin(conn))
    checkpoint_keys.announce(conn, made, "tests")
    return made


def sizes(conn: database.Connection) -> list[int]:
    """The sizes of the stored checkpoints; those that entries name are the same, in the order of the log."""
    stored = [row[0] for row in conn.execute("SELECT size FROM checkpoints ORDER BY size")]
    assert [entry.payload["size"] for entry in log.read(conn, kinds=["checkpoint_signed"])] == stored
    assert checkpoints.verify(conn) == []
    return stored


def forge(conn: database.Connection, statement: str) -> None:
    """Do as an owner who means harm: triggers off, change, triggers on."""
    conn.execute("SET session_replication_role = replica")
    conn.execute(statement.encode())
    conn.execute("SET session_replication_role = origin")


def test_entry_of_a_checkpoint_says_what_its_row_does(conn: database.Connection, key: SigningKey) -> None:
    signed = checkpoints.sign(conn, key, "somebody")
    entry = log.entry(conn, 3)
    [(at,)] = conn.execute("SELECT (extract(epoch FROM signed_at) * 1000000)::bigint FROM checkpoints")
    assert (entry.kind, entry.actor) == ("checkpoint_signed", "somebody")
    assert entry.payload == {"note": signed.note, "root": signed.root.hex(), "signed_at_us": at, "size": 2}
    assert sizes(conn) == [2]


def test_checkpoint_that_nobody_answers_for_is_not_stored(conn: database.Connection, key: SigningKey) -> None:
    with pytest.raises(errors.InvalidInput, match="expected who does this"):
        checkpoints.sign(conn, key, "")
    assert sizes(conn) == []


def test_the_role_that_recovers_signs_and_no_other(
    conn: database.Connection, database_url: str, key: SigningKey
) -> None:
    with database.connect(database_url, role=Role.AUDITOR_READER) as reader, pytest.raises(errors.Refused):
        checkpoints.sign(reader, key, "tests")
    with database.connect(database_url, role=Role.REPLAYER) as replayer:
        checkpoints.sign(replayer, key, "tests")
    assert sizes(conn) == [2]


def test_what_was_seen_is_signed_though_the_log_grew_before_it_was_stored(
    conn: database.Connection, key: SigningKey, connect: Connect
) -> None:
    writer, pid = connect(), conn.info.backend_pid
    with ThreadPoolExecutor(1) as pool:
        with log.writing(writer) as holder:
            signing = pool.submit(checkpoints.sign, conn, key, "tests")
            assert processes.wait_until(lambda: writer.execute(WAITS, (pid,)).fetchone() == (1,), 30)
            holder.record("noted", {}, "tests")
        assert signing.result().size == 2
    assert [entry.kind for entry in log.read(conn, after=2)] == ["noted", "checkpoint_signed"]
    assert checkpoints.sign(conn, key, "tests").size == 4
    assert sizes(conn) == [2, 4]


def test_whoever_signs_meanwhile_at_any_statement_each_checkpoint_has_one_entry(
    conn: database.Connection, key: SigningKey, connect: Connect
) -> None:
    other = connect()
    other.execute("SET lock_timeout = '20ms'")  # it waits for the signer that holds the log's lock, who waits for it

    def overtake() -> None:
        with suppress(errors.Unavailable):
            log.record(other, "noted", {}, "tests")
            checkpoints.sign(other, key, "the other")

    for at in itertools.count():
        log.record(conn, "noted", {}, "tests")
        with faults.fault_at(conn, at, overtake) as counted:
            signed = checkpoints.sign(conn, key, "tests")
        assert signed.size == sizes(conn)[-1]
        if counted.count <= at:
            break
    actors = {entry.actor for entry in log.read(conn, kinds=["checkpoint_signed"])}
    assert actors == {"tests", "the other"}


def test_signers_at_once_record_each_checkpoint_once(
    conn: database.Connection, key: SigningKey, connect: Connect
) -> None:
    def sign_often(connection: database.Connection) -> None:
        for _ in range(10):
            log.record(connection, "noted", {}, "tests")
            checkpoints.sign(connection, key, "tests")

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(sign_often, connect()) for _ in range(4)]:
            done.result()
    found = sizes(conn)
    assert len(found) == len(set(found)) > 1


@contextmanager
def killed_client(database_url: str, key: SigningKey, at: int) -> Iterator[bool]:
    """A process of its own that signs, killed once it has sent its exchange `at`; whether it has that many."""
    if (child := os.fork()) == 0:
        try:
            doomed = database.connect(database_url, application_name="doomed")
            with faults.fault_at(doomed, at, lambda: os.kill(os.getpid(), signal.SIGKILL), "during") as counted:
                checkpoints.sign(doomed, key, "doomed")
            os._exit(int(counted.count <= at))
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) < 2
    yield os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0


@contextmanager
def ended_server_process(database_url: str, key: SigningKey, at: int) -> Iterator[bool]:
    """The server process of one who signs, ended before exchange `at`; whether there are that many."""
    with database.connect(database_url, application_name="doomed") as doomed:
        with (
            faults.fault_at(doomed, at, lambda: faults.end_backend(database_url, doomed)) as counted,
            suppress(errors.Unavailable),
        ):
            checkpoints.sign(doomed, key, "doomed")
        yield counted.count > at


@pytest.mark.parametrize("fault", [killed_client, ended_server_process])
def test_kill_at_any_statement_leaves_a_checkpoint_with_its_entry_or_neither(
    conn: database.Connection, database_url: str, key: SigningKey, fault: Callable[..., AbstractContextManager[bool]]
) -> None:
    lost = 0
    for at in itertools.count():
        head, before = log.record(conn, "noted", {}, "tests").position, sizes(conn)
        with fault(database_url, key, at) as there_are_as_many:
            pass
        assert processes.wait_until(lambda: conn.execute(DOOMED).fetchone() == (0,), 30)
        assert sizes(conn) in (before, [*before, head])
        lost += sizes(conn) == before
        assert checkpoints.sign(conn, key, "tests").size == head  # asked again: signed now, or the one that was stored
        assert sizes(conn) == [*before, head]
        if not there_are_as_many:
            break
    assert lost >= 10  # in what is read, and at BEGIN, lock, row and entry each


def test_nothing_is_signed_while_the_newest_checkpoint_is_not_the_one_that_was_recorded(
    conn: database.Connection, key: SigningKey
) -> None:
    for size in (5, 10):
        grow(conn, size)
        checkpoints.sign(conn, key, "tests")
    for statement in (
        "DELETE FROM checkpoints WHERE size = 10",
        "DELETE FROM checkpoints",
        "UPDATE checkpoints SET signed_at = signed_at + interval '1 microsecond'",
        "DELETE FROM log WHERE position = 11",
        "DELETE FROM log WHERE kind = 'checkpoint_signed'",
    ):
        with conn.transaction(force_rollback=True):
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            conn.execute("SET LOCAL session_replication_role = replica")
            conn.execute(statement.encode())
            with pytest.raises(errors.VerificationFailed, match="run audit verify"):
                checkpoints.sign(conn, key, "tests")
    assert sizes(conn) == [5, 10]


# What else can be there that should not; what must be said of it.
ENTRIES = {
    "of no checkpoint": ('{"size":7}', "checkpoint over 7 entries: signed by entry 4, its row is missing"),
    "without a size": ("{}", "entry 4: its payload is not that of checkpoint_signed"),
    "that is no JSON": ("nonsense", "entry 4: its payload is not that of checkpoint_signed"),
    "of a size that is none": ('{"size":[2]}', "entry 4: its payload is not that of checkpoint_signed"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_whose_checkpoint_was_never_stored_is_named(
    conn: database.Connection, key: SigningKey, name: str
) -> None:
    checkpoints.sign(conn, key, "tests")
    payload, named = ENTRIES[name]
    conn.execute("SELECT record_entry('checkpoint_signed', 'tests', '', %s, '')", (payload,))
    assert checkpoints.verify(conn) == [named]


def test_entry_that_says_again_what_another_said_is_named(conn: database.Connection, key: SigningKey) -> None:
    checkpoints.sign(conn, key, "tests")
    log.record(conn, "checkpoint_signed", log.entry(conn, 3).payload, "tests")
    assert checkpoints.verify(conn) == ["entry 4: it says of a checkpoint what entry 3 said already"]


def test_row_without_entry_is_named(conn: database.Connection, key: SigningKey) -> None:
    signed = checkpoints.sign(conn, key, "tests")
    note = signed_note.sign(checkpoints.body(key.name, 1, signed.root), key)
    conn.execute("INSERT INTO checkpoints VALUES (1, %s, %s)", (signed.root, note))
    lines = checkpoints.verify(conn)
    assert lines[0] == "checkpoint over 1 entries: expected an entry that says what its row does, got none"


def test_time_that_is_not_finite_is_another_one(conn: database.Connection, key: SigningKey) -> None:
    checkpoints.sign(conn, key, "tests")
    forge(conn, "UPDATE checkpoints SET signed_at = 'infinity'")
    [line] = checkpoints.verify(conn)
    assert line == "checkpoint over 2 entries: its row has another signed_at_us than entry 3 recorded"


def test_rows_can_be_made_again_from_their_entries(conn: database.Connection, key: SigningKey) -> None:
    for size in (2, 9):
        grow(conn, size)
        checkpoints.sign(conn, key, "tests")
    before = checkpoint_entries.rows(conn)
    forge(conn, "DELETE FROM checkpoints")
    conn.execute("""
        INSERT INTO checkpoints
        SELECT (j ->> 'size')::bigint, decode(j ->> 'root', 'hex'), j ->> 'note',
               'epoch'::timestamptz + (j ->> 'signed_at_us')::bigint * interval '1 microsecond'
        FROM log CROSS JOIN LATERAL (SELECT payload::jsonb AS j) s WHERE kind = 'checkpoint_signed'""")
    assert checkpoint_entries.rows(conn) == before
    assert sizes(conn) == [2, 9]
