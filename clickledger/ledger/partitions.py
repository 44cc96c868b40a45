"""Day partitions of clicks and decisions: made ahead of their rows, watched, frozen when their day is over.

Invariants:
- making a day waits for no reader and no appender, and none of them for it: nothing stronger than SHARE UPDATE
  EXCLUSIVE is taken on what exists already;
- nobody queues behind our DDL for long: it gives up its place after `LOCK_TIMEOUT` and asks again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

from psycopg import sql

from clickledger import errors
from clickledger.ledger import database

T = TypeVar("T")

DAY_MS = 86_400_000
GENESIS_DAY = 14_610  # 2010-01-01: clicks before it share the `undated` partition
LAST_DAY = 2_932_896  # 9999-12-31
LOCK_ATTEMPTS = 20
LOCK_TIMEOUT = "500ms"
DAYS_AHEAD = 3  # a beat that is down over a long weekend costs nothing
FREEZE_AFTER_DAYS = 2  # late clicks are rare by then, and no transaction is that old
FREEZE_SECONDS_MAX = 60.0
UNDATED_COUNT_MAX = 1_000
PARENTS = ("clicks", "decisions", "delayed_decisions")
EPOCH = date(1970, 1, 1)

# Day partitions as (parent, name, whether a DETACH of it was begun).
SELECT_ATTACHED = """
    SELECT p.relname, c.relname, i.inhdetachpending
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
    WHERE i.inhparent = ANY (%s::regclass[]) AND c.relname ~ '_[0-9]{8}$' ORDER BY c.relname"""
SELECT_TODAY = "SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date"
# Through the parent, since roles may read no leaf; the literal leaves `clicks_undated` alone to be planned.
COUNT_UNDATED = """
    SELECT count(*) FROM (SELECT 1 FROM clicks WHERE click_id < '0125e72e-7800-0000-0000-000000000000' LIMIT %s) rows"""
# Partitions of days that are over, whose size is not the one at which they were frozen; the newest days first.
SELECT_TO_FREEZE = """
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    LEFT JOIN frozen_partitions f ON f.name = c.relname
    WHERE i.inhparent = ANY (%s::regclass[]) AND NOT i.inhdetachpending AND c.relname ~ '_[0-9]{8}$'
      AND right(c.relname, 8) < to_char(%s::date, 'YYYYMMDD') AND f.bytes IS DISTINCT FROM pg_relation_size(c.oid)
    ORDER BY right(c.relname, 8) DESC, c.relname"""
SELECT_BLOCK_RANGE_INDEXES = """
    SELECT i.indexrelid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
    WHERE a.amname = 'brin' AND i.indrelid = %s::regclass"""
SELECT_SIZE = "SELECT pg_relation_size(%s::regclass)"
SELECT_ALL_FROZEN = "SELECT relallvisible = relpages FROM pg_class WHERE oid = %s::regclass"
NOTE_FROZEN = """
    INSERT INTO frozen_partitions VALUES (%s, %s, clock_timestamp())
    ON CONFLICT (name) DO UPDATE SET bytes = excluded.bytes, frozen_at = excluded.frozen_at"""


@dataclass(frozen=True, slots=True)
class Watch:
    """How far ahead days exist, without a gap from tomorrow on, and what should not be.

    `undated` counts clicks that carry a time before 2010, up to `UNDATED_COUNT_MAX`; `unfrozen` counts partitions of
    days that are over and not frozen at their present size.
    """

    days_ahead: int
    wanted: int
    undated: int
    unfrozen: int

    @property
    def warnings(self) -> list[str]:
        """What somebody should look at, in words."""
        found = []
        if self.days_ahead < self.wanted:
            found.append(
                f"partitions: expected days to exist {self.wanted} ahead, got {self.days_ahead}: is beat running?"
            )
        if self.undated:
            many = "at least " if self.undated == UNDATED_COUNT_MAX else ""
            found.append(f"partitions: {many}{self.undated} clicks are undated (before 2010): who sends such times?")
        return found


def day_of(click_id: bytes) -> int:
    """Days since 1970 of a UUIDv7 click id's time."""
    return int.from_bytes(click_id[:6]) // DAY_MS


def date_of(day: int) -> date:
    """The UTC date of a day since 1970."""
    return EPOCH + timedelta(days=day)


def name_of(parent: str, day: date) -> str:
    """The name of a day's partition, attached or not."""
    return f"{parent}_{day:%Y%m%d}"


def ensure(conn: database.Connection, days: Iterable[int]) -> int:
    """Create the partitions of the given days (since 1970) where missing; how many days were new.

    Days before genesis need none. Raises InvalidInput for a day that no calendar has or that was detached.
    """
    wanted = sorted({day for day in days if day >= GENESIS_DAY})
    if wanted and wanted[-1] > LAST_DAY:
        raise errors.InvalidInput(f"click id: expected a time before the year 10000, got day {wanted[-1]} since 1970")
    return sum(_ensure_day(conn, date_of(day)) for day in wanted)


def ensure_ahead(conn: database.Connection, days_ahead: int = DAYS_AHEAD) -> int:
    """Create today's partitions and those of the days to come; how many days were new."""
    today = int(datetime.now(UTC).timestamp()) // 86_400
    return ensure(conn, range(today, today + days_ahead + 1))


def _ensure_day(conn: database.Connection, day: date) -> bool:
    def attempt() -> bool:
        with conn.transaction():
            conn.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'".encode())
            row = conn.execute("SELECT ensure_day(%s)", (day,)).fetchone()
            return bool(row and row[0])

    return patiently(attempt, f"partitions of {day}")


def patiently(attempt: Callable[[], T], what: str) -> T:
    """The result of DDL that sets a lock_timeout, asked again while it gets no lock. Raises Unavailable in the end."""
    for number in range(LOCK_ATTEMPTS):
        try:
            return attempt()
        except errors.Unavailable as error:
            if not database.lacks_lock(error):
                raise
            time.sleep(0.05 * (number + 1))
    raise errors.Unavailable(f"{what}: expected its locks within {LOCK_ATTEMPTS} attempts of {LOCK_TIMEOUT}")


@contextmanager
def session_lock_timeout(conn: database.Connection) -> Iterator[None]:
    """For what cannot run in a transaction: waits for a lock end after `LOCK_TIMEOUT` while the block lasts."""
    conn.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'".encode())
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute("RESET lock_timeout")


def attached(conn: database.Connection) -> dict[date, set[str]]:
    """The parents of which each day has an attached partition; one whose DETACH was begun counts no more."""
    days: dict[date, set[str]] = {}
    for parent, name, detaching in conn.execute(SELECT_ATTACHED, (list(PARENTS),)):
        parents = days.setdefault(datetime.strptime(name[-8:], "%Y%m%d").replace(tzinfo=UTC).date(), set())
        if not detaching:
            parents.add(parent)
    return days


def watch(conn: database.Connection, wanted: int = DAYS_AHEAD) -> Watch:
    """Where the partitions stand, by the server's clock; takes milliseconds."""
    today, days = today_of(conn), attached(conn)
    ahead = 0
    while len(days.get(today + timedelta(days=ahead + 1), ())) == len(PARENTS):
        ahead += 1
    row = conn.execute(COUNT_UNDATED, (UNDATED_COUNT_MAX,)).fetchone()
    return Watch(ahead, wanted, int(row[0]) if row else 0, len(_to_freeze(conn, today)))


def freeze_closed(conn: database.Connection, seconds_max: float = FREEZE_SECONDS_MAX) -> list[str]:
    """Freeze partitions of days that are over and finish their block-range indexes; the names of those done.

    Bounded: no partition is begun after `seconds_max`. One that somebody locks is left for the next time, and so is one
    whose rows an old snapshot still keeps from being frozen: only what is frozen entirely is noted as such.
    """
    until, frozen = time.monotonic() + seconds_max, []
    for name in _to_freeze(conn, today_of(conn)):
        if time.monotonic() >= until:
            break
        if _freeze(conn, name):
            frozen.append(name)
    return frozen


def _to_freeze(conn: database.Connection, today: date) -> list[str]:
    before = today - timedelta(days=FREEZE_AFTER_DAYS)
    return [name for (name,) in conn.execute(SELECT_TO_FREEZE, (list(PARENTS), before)).fetchall()]


def _freeze(conn: database.Connection, name: str) -> bool:
    size = conn.execute(SELECT_SIZE, (name,)).fetchone()  # before: what comes meanwhile makes the partition differ
    try:
        with session_lock_timeout(conn):
            conn.execute(sql.SQL("VACUUM (FREEZE) {}").format(sql.Identifier(name)))
            for (index,) in conn.execute(SELECT_BLOCK_RANGE_INDEXES, (name,)).fetchall():
                conn.execute("SELECT brin_summarize_new_values(%s)", (index,))
    except errors.Unavailable as error:
        if not database.lacks_lock(error):
            raise
        return False
    if size is None or conn.execute(SELECT_ALL_FROZEN, (name,)).fetchone() != (True,):
        return False
    conn.execute(NOTE_FROZEN, (name, size[0]))
    return True


def today_of(conn: database.Connection) -> date:
    row = conn.execute(SELECT_TODAY).fetchone()
    if row is None:
        raise errors.InvariantBroken("the server told no date")
    today: date = row[0]
    return today
