"""Cursors against everything that can stand between a position and its commit: stalls, rollbacks, killed processes.

`make soak-ledger` runs the race for longer. Its seed is printed; CLICKLEDGER_SEED repeats the choices, not the timing.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from batches import batch, clicks
from own_server import OwnServer, own_server

from clickledger import errors
from clickledger.console import processes
from clickledger.ledger import append, audit, billing, canonical, database, log, schema

APPENDERS = 8
EACH = 400 if os.environ.get("CLICKLEDGER_SOAK_STEPS") else 60
SEED = int(os.environ.get("CLICKLEDGER_SEED") or time.time_ns() % 1_000_000)
WAITING = "SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = %s"
END_AN_APPENDER = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'appender' AND datname = current_database() ORDER BY random() LIMIT 1"""
AN_APPENDER = "SELECT pid FROM pg_stat_activity WHERE application_name = 'appender' AND datname = current_database()"


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    with own_server() as server:
        schema.migrate(server.create("template_ledger"))
        yield server


@pytest.fixture
def url(own: OwnServer) -> str:
    return own.create(f"race_{time.time_ns()}", "template_ledger")


@dataclass
class Racer:
    """Somebody with a connection who connects again whenever it is lost."""

    url: str
    name: str
    chance: random.Random
    conn: database.Connection = field(init=False)

    def __post_init__(self) -> None:
        self.conn = database.connect(self.url, application_name=self.name)

    def insist(self, call: Callable[[], Any]) -> Any:
        """The answer of a call that may be made again; asked until it comes."""
        while True:
            try:
                return call()
            except errors.Unavailable:
                self.conn.close()
                assert processes.wait_until(self._connects, 60), "the server did not come back"

    def _connects(self) -> bool:
        try:
            self.conn = database.connect(self.url, application_name=self.name)
        except errors.Unavailable:
            return False
        return True


class Appender(Racer):
    """Appends, and holds entries back before it commits them or takes them back."""

    def run(self, number: int) -> None:
        for n in range(EACH):
            if self.chance.random() < 0.7:
                rows = clicks(self.chance.randint(1, 3), start=number * 100_000 + 10 * n)
                answer = self.insist(
                    lambda rows=rows: append.append(self.conn, batch(rows), actor=f"appender {number}")
                )
                assert set(answer.outcome) <= {"new", "repeat"}
            else:
                self.insist(self._hold_an_entry_back)
        self.conn.close()

    def _hold_an_entry_back(self) -> None:
        # psycopg hands its Rollback on where the server process is ended under it: nothing was committed either way.
        with suppress(psycopg.Rollback), log.writing(self.conn) as writer:
            writer.record("noted", {}, "appender")
            writer.execute("SELECT pg_sleep(%s)", (self.chance.random() / 100,))
            if self.chance.random() < 0.3:
                raise psycopg.Rollback


class LogReader(Racer):
    """Follows the log by position: each one comes once, in order, and what was read stays what it was."""

    def run(self, done: threading.Event) -> int:
        position, previous = 0, canonical.GENESIS_HASH
        while True:
            last_round = done.is_set()  # read before the query: what that finds is then all there is
            limit = self.chance.choice([1, 3, 1_000])
            entries = self.insist(lambda after=position, limit=limit: log.read(self.conn, after=after, limit=limit))
            for entry in entries:
                assert entry.position == position + 1
                assert entry.chain_hash == _hash_of(entry, previous)
                position, previous = entry.position, entry.chain_hash
            assert self.insist(lambda: log.head(self.conn)).position >= position
            if last_round and not entries:
                self.conn.close()
                return position


class FeedReader(Racer):
    """Follows the billing feed by cursor: no line and no cursor goes back, and in the end nothing was skipped."""

    def run(self, done: threading.Event) -> list[tuple[int, int]]:
        cursor, seen = billing.Cursor(), [(0, 0)]
        while True:
            last_round = done.is_set()
            limit = self.chance.choice([1, 4, 500])
            page = self.insist(lambda cursor=cursor, limit=limit: billing.read(self.conn, cursor, limit))
            for line in page.entries:
                assert (line["position"], line["line"]) > seen[-1]
                seen.append((line["position"], line["line"]))
            assert page.cursor >= cursor
            cursor = page.cursor
            if last_round and page.at_head:
                self.conn.close()
                return seen[1:]


def _hash_of(e: log.Entry, previous: bytes) -> bytes:
    return canonical.entry_hash(
        e.position, e.kind, e.recorded_at_ms, e.actor, e.reason, e.payload_text, e.row_count, e.content_digest, previous
    )


def _trouble(url: str, chance: random.Random, appending: list[Any]) -> int:
    """End server processes of appenders while they are at it, one of them with SIGKILL; how many were ended."""
    ended, killed = 0, False
    admin = Racer(url, "trouble", chance)
    while not all(future.done() for future in appending):
        admin.insist(lambda: admin.conn.execute("SELECT pg_sleep(%s)", (chance.random() / 5,)))
        head = admin.insist(lambda: log.head(admin.conn)).position
        if not killed and head > APPENDERS * EACH // 3:
            # One process killed like that, and the server ends all the others and recovers.
            if found := admin.insist(lambda: admin.conn.execute(AN_APPENDER).fetchone()):
                os.kill(found[0], signal.SIGKILL)
                killed = True
        else:
            ended += len(admin.insist(lambda: admin.conn.execute(END_AN_APPENDER).fetchall()))
    admin.conn.close()
    assert killed
    return ended


@pytest.mark.timeout(0)
def test_no_cursor_skips_or_goes_back_among_killed_appenders(url: str) -> None:
    print(f"CLICKLEDGER_SEED={SEED}")
    chances = (random.Random(SEED * 100 + n) for n in itertools.count())
    done = threading.Event()
    with ThreadPoolExecutor(APPENDERS + 4) as pool:
        logs = [pool.submit(LogReader(url, "reader", next(chances)).run, done) for _ in range(2)]
        feeds = [pool.submit(FeedReader(url, "reader", next(chances)).run, done) for _ in range(2)]
        try:
            appenders = [Appender(url, "appender", next(chances)) for _ in range(APPENDERS)]
            appending = [pool.submit(appender.run, number) for number, appender in enumerate(appenders)]
            assert _trouble(url, next(chances), appending) > 0
            for future in appending:
                future.result()
        finally:
            done.set()
    with database.connect(url) as conn:
        head = log.head(conn).position
        lines = "SELECT position, line FROM billing_entries ORDER BY 1, 2"
        assert [reader.result() for reader in logs] == [head, head]
        assert [reader.result() for reader in feeds] == [conn.execute(lines).fetchall()] * 2
        assert audit.verify(conn).ok


def _waits_for(conn: database.Connection, pid: int, *expected: tuple[str, str]) -> bool:
    return processes.wait_until(lambda: conn.execute(WAITING, (pid,)).fetchone() in expected, 30)


def test_commit_that_stalls_keeps_every_later_position_from_being_seen(own: OwnServer, url: str) -> None:
    """Its record is on disk, but it waits for a replica: it holds the log until it is visible itself."""
    with (
        database.connect(url) as first,
        database.connect(url) as second,
        database.connect(url) as reader,
        ThreadPoolExecutor(2) as pool,
    ):
        append.append(first, batch(clicks(1)), actor="first")
        _replicas(own, "nobody")
        try:
            stalled = pool.submit(append.append, first, batch(clicks(1, start=1)), actor="first")
            assert _waits_for(reader, first.info.backend_pid, ("IPC", "SyncRep"))
            second.execute("SET synchronous_commit = local")  # it would not wait
            behind = pool.submit(append.append, second, batch(clicks(1, start=2)), actor="second")
            assert _waits_for(reader, second.info.backend_pid, ("Lock", "advisory"))
            assert log.head(reader).position == 2
            assert len(billing.read(reader).entries) == 1
        finally:
            _replicas(own, "")
        assert (stalled.result(timeout=30).position, behind.result(timeout=30).position) == (3, 4)
        assert [entry.position for entry in log.read(reader, after=2)] == [3, 4]


def _replicas(own: OwnServer, names: str) -> None:
    with psycopg.connect(own.url, autocommit=True) as admin:
        admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'".encode())
        admin.execute("SELECT pg_reload_conf()")
        shown = "SELECT setting FROM pg_settings WHERE name = 'synchronous_standby_names'"
        assert processes.wait_until(lambda: _shown(own, shown) == names, 30)
        admin.execute("CHECKPOINT")  # commits look at what the checkpointer has read, and so it has


def _shown(own: OwnServer, query: str) -> str:
    with psycopg.connect(own.url) as fresh:
        row = fresh.execute(query.encode()).fetchone()
    return str(row[0]) if row else ""


def test_position_of_a_rollback_goes_to_the_next_writer_and_no_reader_saw_it(url: str) -> None:
    with (
        database.connect(url) as first,
        database.connect(url) as second,
        database.connect(url) as reader,
        ThreadPoolExecutor(1) as pool,
    ):
        with log.writing(first) as writer:
            assert writer.record("noted", {}, "first").position == 2
            behind = pool.submit(log.record, second, "noted", {}, "second")
            assert _waits_for(reader, second.info.backend_pid, ("Lock", "advisory"))
            assert log.head(reader).position == 1
            raise psycopg.Rollback
        assert behind.result(timeout=30).position == 2
        assert [(entry.position, entry.actor) for entry in log.read(reader, after=1)] == [(2, "second")]


def test_reader_in_the_middle_of_an_append_sees_all_of_it_or_nothing(url: str) -> None:
    """The append has written its clicks and waits in front of its decisions."""
    with (
        database.connect(url) as holder,
        database.connect(url) as appender,
        database.connect(url) as reader,
        ThreadPoolExecutor(1) as pool,
    ):
        append.append(appender, batch(clicks(2)), actor="tests")
        before = billing.read(reader)
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE decisions IN EXCLUSIVE MODE")
        pending = pool.submit(append.append, appender, batch(clicks(3, start=2)), actor="tests")
        assert _waits_for(reader, appender.info.backend_pid, ("Lock", "relation"))
        assert reader.execute("SELECT count(*) FROM clicks").fetchone() == (2,)
        assert billing.read(reader, before.cursor).entries == []
        holder.execute("COMMIT")
        assert pending.result(timeout=30).position == 3
        assert [line["position"] for line in billing.read(reader, before.cursor).entries] == [3, 3, 3]
