"""SIGKILL of PostgreSQL, and of the client, at each statement of what changes the ledger.

Afterwards the ledger is as one of the two serial histories left it, with the call or without, and asking again tells
which. The state machine's own comparison says so: it applies the call to its oracle when the log has grown.
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faults
import psutil
import pytest
from own_server import OwnServer, own_server
from test_state_machine import LedgerMachine
from universe import CLICKS

from clickledger import errors
from clickledger.console import processes
from clickledger.ledger import database, partitions, schema

VERDICTS = ("v" * 20, "i" * 20, "u" * 20)  # of every click, in turn: each publication flips them all
BLOCKED = "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted"
# Where an append stops when another session holds the table: in front of each of its statements that write.
WRITTEN_BY_APPEND = ("clicks", "decisions", "leaves", "log")


class Served:
    """What the state machine asks of its ledger: a database of a server that faults kill, and start again."""

    def __init__(self, server: OwnServer, url: str) -> None:
        self.server, self.url = server, url
        self.conn = database.connect(url)

    @property
    def checking(self) -> database.Connection:
        """The same: a killed server leaves no connection."""
        return self.conn

    def set_back(self) -> database.Connection:
        return self.conn

    def end_backend(self) -> None:
        self.server.kill()

    def reconnect(self) -> database.Connection:
        self.conn.close()
        if not self.server.runs():
            self.server.start()
        self.conn = database.connect(self.url)
        return self.conn


class KilledServer(LedgerMachine):
    """The state machine with its server killed in calls of our choice, instead of server processes in drawn ones."""

    ledger: Any


class KilledClient(LedgerMachine):
    """Each call with a fault is made by a process of its own, killed there, on a connection of its own."""

    ledger: Any

    def _with_a_fault(self, call: Callable[[], Any], at: int, moment: str) -> Any:
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            self._call_and_die(call, at, moment, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as said:
            backend, counted = int.from_bytes(said.read(8)), said.read()
        os.waitpid(child, 0)
        # What the dead client had sent may still be at work.
        assert processes.wait_until(lambda: _is_gone(backend), 30)
        self.exchanges = pickle.loads(counted) if counted else at + 1
        raise errors.Unavailable("the client is gone, and its answer with it")

    def _call_and_die(self, call: Callable[[], Any], at: int, moment: str, writing: int) -> None:
        try:
            self.conn = database.connect(self.ledger.url)
            os.write(writing, self.conn.info.backend_pid.to_bytes(8))
            with faults.fault_at(self.conn, at, lambda: os.kill(os.getpid(), signal.SIGKILL), moment) as counted:
                call()
            os.write(writing, pickle.dumps(counted.count))
        finally:
            os._exit(0)


class KilledWhileBlocked(LedgerMachine):
    """The server is killed while a call waits for a table, `moment`, that another session holds."""

    ledger: Any

    def _with_a_fault(self, call: Callable[[], Any], at: int, moment: str) -> Any:
        pid = self.conn.info.backend_pid
        with database.connect(self.ledger.url) as holder, ThreadPoolExecutor(1) as pool:
            holder.execute("BEGIN")
            holder.execute(f"LOCK TABLE {moment} IN EXCLUSIVE MODE".encode())
            killed = pool.submit(self._kill_once_blocked, holder, pid)
            try:
                return call()
            finally:
                assert killed.result()

    def _kill_once_blocked(self, holder: database.Connection, pid: int) -> bool:
        blocked = processes.wait_until(lambda: holder.execute(BLOCKED, (pid,)).fetchone() == (1,), 30)
        self.ledger.server.kill()
        return blocked


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    with own_server() as server:
        schema.migrate(server.url)
        with database.connect(server.url) as conn:
            partitions.ensure(conn, {partitions.day_of(click) for click in CLICKS})
        yield server


@pytest.fixture
def ledger(own: OwnServer, request: pytest.FixtureRequest) -> Iterator[Served]:
    served = Served(own, own.create(f"crashes_{abs(hash(request.node.name))}", "clickledger"))
    yield served
    served.conn.close()


class Scenario:
    """Clicks, runs and publications that every one of the calls can be made with, again and again."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        machine.a_model_is_live_and_has_decided([(0, "first", "v"), (1, "first", "i")])
        self.fresh, self.number = itertools.count(2), itertools.count()

    def new_rows(self) -> None:
        self.machine.append_a_batch([(next(self.fresh), "first", "v")])

    def mixed_rows(self) -> None:
        """A repeat, a conflict and a new click: two entries of two transactions."""
        content = f"other {next(self.number)}"
        self.machine.append_a_batch([(0, "first", "v"), (1, content, "i"), (next(self.fresh), "first", "v")])

    def a_run_to_stage(self) -> None:
        self.run_id = self.machine._plan(1, self.machine.oracle.head + 1, 100)
        self.machine._work(self.run_id, VERDICTS[next(self.number) % 3], set(), chunks=100)

    def stage(self) -> None:
        self.machine._stage(self.run_id)

    def a_run_to_publish(self) -> None:
        self.a_run_to_stage()
        self.stage()
        self.machine._compare(self.run_id)

    def publish(self) -> None:
        self.machine._publish(self.run_id)

    def a_publication(self) -> None:
        self.a_run_to_publish()
        self.publish()

    def revert(self) -> None:
        self.machine.revert_a_run(0)

    def nothing(self) -> None:
        """Nothing has to be there before."""


def at_each_statement(machine: Any, prepare: Callable[[], None], call: Callable[[], None]) -> int:
    """A fault during each exchange of a call, and after the last one, until a call is over before it comes."""
    for at in itertools.count():
        prepare()
        machine.crash = (at, "during")
        call()
        machine.everything_holds()
        if machine.exchanges <= at:
            break
    prepare()
    machine.crash = (at - 1, "after")
    call()
    machine.everything_holds()
    return at


CALLS = {
    "append": ("nothing", "new_rows", 1),
    "append of repeats and conflicts": ("nothing", "mixed_rows", 8),
    "stage": ("a_run_to_stage", "stage", 8),
    "publish": ("a_run_to_publish", "publish", 15),
    "revert": ("a_publication", "revert", 8),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("victim", [KilledServer, KilledClient])
def test_kill_at_any_statement_leaves_one_of_two_histories_and_asking_again_tells_which(
    ledger: Served, victim: type[LedgerMachine], name: str
) -> None:
    machine = type("Machine", (victim,), {"ledger": ledger})()
    scenario = Scenario(machine)
    prepare, call, at_least = CALLS[name]
    assert at_each_statement(machine, getattr(scenario, prepare), getattr(scenario, call)) >= at_least
    machine.everything_holds_at_the_end()


@pytest.mark.parametrize("table", WRITTEN_BY_APPEND)
def test_server_killed_between_the_writes_of_an_append_keeps_none_of_them(ledger: Served, table: str) -> None:
    machine = type("Machine", (KilledWhileBlocked,), {"ledger": ledger})()
    scenario = Scenario(machine)
    head = machine.oracle.head
    machine.crash = (0, table)
    scenario.new_rows()
    assert machine.oracle.head == head + 1
    machine.everything_holds_at_the_end()
