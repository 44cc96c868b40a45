"""Retention: days older than it are detached, unless a legal hold, billing or a run still needs them.

Invariants:
- a day leaves by an entry that names all it takes with it (`departure`), so chain and sums stay whole (`departed`);
- nothing that is still at work is taken away: no held day, no day younger than the retention, none of an open billing
  period, none that a run decided or will decide which is not in force and not given up;
- each step can be cut off and asked for again: what was done is found done.

    sealed -> computed aside -> day_detached -> DETACH CONCURRENTLY, three tables -> day_dropped, by hand
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

from psycopg import sql

from clickledger import errors
from clickledger.ledger import database, departed, departure, log, partitions
from clickledger.ledger.departure import Departure

MONTHS = 13
ATTEMPTS = 3

SELECT_HOLDS = """
    SELECT hold_id, first_day, last_day, released_position FROM legal_holds
    WHERE (%(all)s OR released_position IS NULL) ORDER BY hold_id"""
SELECT_HOLD = "SELECT hold_id, first_day, last_day, released_position FROM legal_holds WHERE hold_id = %s"
SELECT_HOLD_OVER = """
    SELECT hold_id, first_day, last_day FROM legal_holds
    WHERE released_position IS NULL AND %s BETWEEN first_day AND last_day ORDER BY hold_id LIMIT 1"""
SELECT_LAST_DAY = "SELECT ((clock_timestamp() AT TIME ZONE 'UTC')::date - make_interval(months => %s))::date - 1"
SELECT_PERIOD_CLOSED = "SELECT 1 FROM billing_periods WHERE period = %s"
# Runs that are neither in force nor given up, and touch a day: by decisions written, or by positions to be decided.
SELECT_RUN_AT_WORK = """
    SELECT r.run_id, r.status FROM replay_runs r
    WHERE r.status IN ('planned', 'staged')
      AND NOT EXISTS (SELECT 1 FROM publications p WHERE p.run_id = r.run_id AND p.reverted_position IS NULL)
      AND ({touched}) ORDER BY r.run_id LIMIT 1"""
# A sparse run is planned with all its decisions: what else lies between its clicks does not concern it.
TOUCHED_ROWS = """
    EXISTS (SELECT 1 FROM delayed_decisions n WHERE n.run_id = r.run_id AND {day})
    OR (r.kind <> 'sparse' AND EXISTS (
            SELECT 1 FROM decisions d WHERE {day}
            AND d.log_position >= lower(r.positions) AND d.log_position < upper(r.positions)))"""
TOUCHED_DEPARTURE = """
    EXISTS (SELECT 1 FROM departed_rows n WHERE n.departure = '{departure}' AND n.run_id = r.run_id)
    OR (r.kind <> 'sparse' AND EXISTS (
            SELECT 1 FROM departed_rows d WHERE d.departure = '{departure}' AND d.run_id = 0
            AND d.log_position >= lower(r.positions) AND d.log_position < upper(r.positions)))"""
# Anything but traffic, and what beat and the detector record all the time, may have changed what is authoritative, held
# or at work since the departure was computed.
SELECT_CHANGE_SINCE = """
    SELECT position, kind FROM log WHERE kind <> 'clicks_decided' AND position > %s
      AND kind NOT IN ('outcomes_recorded', 'conflicts_recorded', 'clicks_rejected', 'checkpoint_signed',
                       'signal_paged', 'signal_cleared', 'counters_restored', 'counters_recounted')
    ORDER BY position LIMIT 1"""
SELECT_DETACHED = "SELECT day, position, clicks, delayed, dropped_position FROM detached_days ORDER BY day"
SELECT_STATE = "SELECT position, dropped_position FROM detached_days WHERE day = %s"
SELECT_ATTACHMENT = """
    SELECT i.inhdetachpending FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = %s::regclass AND c.relname = %s"""
SELECT_EXISTS = "SELECT to_regclass(%s) IS NOT NULL"
SELECT_SIZES = """
    SELECT coalesce(sum(pg_total_relation_size(to_regclass(n))), 0)::bigint,
           (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass(%(clicks)s))
    FROM unnest(%(names)s::text[]) n"""


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold over days first to last, both included, in force until released."""

    hold_id: int
    first_day: date
    last_day: date
    released_position: int | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A day older than the retention: about how many clicks, bytes, and why it may not leave (None: it may)."""

    day: date
    clicks: int
    size_bytes: int
    refused: str | None


@dataclass(frozen=True, slots=True)
class Detached:
    """A detached day: its entry, how many clicks and delayed decisions it took, and the entry that dropped it."""

    day: date
    position: int
    clicks: int
    delayed: int
    dropped_position: int | None


def hold(conn: database.Connection, first: date, last: date, actor: str, reason: str) -> Hold:
    """Keep days first to last (both included) from being detached or dropped until released.

    A day that is detached already stays in its tables. Raises InvalidInput for an empty range or without a reason.
    """
    if first > last:
        raise errors.InvalidInput(f"legal hold: expected the first day not after the last, got {first} and {last}")
    _require(reason, "legal hold")
    with log.writing(conn) as writer:
        payload = {"first_day": first.isoformat(), "last_day": last.isoformat()}
        entry = writer.record("legal_hold_set", payload, actor, reason)
        writer.execute("INSERT INTO legal_holds VALUES (%s, %s, %s, NULL)", (entry.position, first, last))
    return Hold(entry.position, first, last, None)


def release(conn: database.Connection, hold_id: int, actor: str, reason: str) -> Hold:
    """Lift a legal hold. Raises NotFound, or Conflict when it was released before."""
    _require(reason, f"release of hold {hold_id}")
    with log.writing(conn) as writer:
        if not (found := writer.execute(SELECT_HOLD, (hold_id,))):
            raise errors.NotFound(f"no legal hold {hold_id}")
        known = Hold(*found[0])
        if known.released_position is not None:
            raise errors.Conflict(f"legal hold {hold_id} was released at position {known.released_position}")
        entry = writer.record("legal_hold_released", {"hold_id": hold_id}, actor, reason)
        writer.execute("UPDATE legal_holds SET released_position = %s WHERE hold_id = %s", (entry.position, hold_id))
    return Hold(hold_id, known.first_day, known.last_day, entry.position)


def holds(conn: database.Connection, *, released: bool = False) -> list[Hold]:
    """Legal holds in force, or all that ever were, in order."""
    return [Hold(*row) for row in conn.execute(SELECT_HOLDS, {"all": released})]


def detached(conn: database.Connection) -> list[Detached]:
    """Every day that was detached, in order."""
    return [Detached(*row) for row in conn.execute(SELECT_DETACHED)]


def get(conn: database.Connection, day: date) -> Detached:
    """A detached day. Raises NotFound when it was not."""
    if found := [known for known in detached(conn) if known.day == day]:
        return found[0]
    raise errors.NotFound(f"{day} was not detached")


def plan(conn: database.Connection, months: int = MONTHS) -> list[Candidate]:
    """The attached days older than the retention, oldest first, and what keeps each from leaving. Changes nothing."""
    last = _last_day(conn, months)
    return [_candidate(conn, day, months) for day in sorted(partitions.attached(conn)) if day <= last]


def _candidate(conn: database.Connection, day: date, months: int) -> Candidate:
    names = [partitions.name_of(parent, day) for parent in partitions.PARENTS]
    size, clicks = conn.execute(SELECT_SIZES, {"names": names, "clicks": names[0]}).fetchone() or (0, 0)
    return Candidate(
        day, clicks or 0, size, _refusal(conn, day, months, TOUCHED_ROWS.format(day=departure.condition(day)))
    )


def _refusal(conn: database.Connection, day: date, months: int, touched: str) -> str | None:
    """Why a day may not leave, in words; `touched` says in SQL whether run `r` touches it."""
    if found := conn.execute(SELECT_HOLD_OVER, (day,)).fetchone():
        return f"{day} is under legal hold {found[0]} ({found[1]} to {found[2]})"
    if day > (last := _last_day(conn, months)):
        return f"{day} is younger than the retention of {months} months: expected {last} or before"
    if not conn.execute(SELECT_PERIOD_CLOSED, (f"{day:%Y-%m}",)).fetchone():
        return f"{day} is in billing period {day:%Y-%m}, which is not closed"
    if found := conn.execute(SELECT_RUN_AT_WORK.format(touched=touched).encode()).fetchone():
        return f"{day} is touched by run {found[0]}, which is {found[1]} and not in force: publish or abandon it first"
    return None


def _last_day(conn: database.Connection, months: int) -> date:
    if months < 1:
        raise errors.InvalidInput(f"months: expected at least 1, got {months}")
    row = conn.execute(SELECT_LAST_DAY, (months,)).fetchone()
    if row is None:
        raise errors.InvariantBroken("the server told no date")
    last: date = row[0]
    return last


def detach(conn: database.Connection, day: date, actor: str, reason: str, months: int = MONTHS) -> Detached:
    """Detach a day: nobody reads it any more, and the ledger says what is gone. The tables stay, sealed.

    Asked again after a crash it goes on where it stopped. Raises Refused saying what keeps the day, NotFound when there
    is no such day, Unavailable when readers or others held it up too long (ask again), VerificationFailed when a row of
    it is not the one that was appended.
    """
    with _alone(conn):
        if conn.execute(SELECT_STATE, (day,)).fetchone() is None:
            _require(reason, f"detach of {day}")
            _record(conn, day, actor, reason, months)
        if any(conn.execute(SELECT_ATTACHMENT, pair).fetchone() for pair in _tables(day)):
            # No row may come before it is out of sight, whatever became of the first call.
            _seal(conn, day, sealed=True)
        for parent, name in _tables(day):
            _detach_table(conn, parent, name)
    with database.committed(f"{day} is detached"):
        return get(conn, day)


def drop(conn: database.Connection, day: date, actor: str, reason: str) -> Detached:
    """Drop the tables of a detached day, with an entry, both or neither. Export them before: nothing brings them back.

    Raises Refused unless it was detached completely and is under no legal hold, Conflict when it was dropped before.
    """
    _require(reason, f"drop of {day}")
    names = [partitions.name_of(parent, day) for parent in partitions.PARENTS]
    tables = sql.SQL(", ").join([sql.Identifier(name) for name in names])
    with _alone(conn):
        position = _droppable(conn, day)

        def attempt() -> None:
            with conn.transaction():
                conn.execute(f"SET LOCAL lock_timeout = '{partitions.LOCK_TIMEOUT}'".encode())
                conn.execute(sql.SQL("DROP TABLE {}").format(tables))
                conn.execute("SET LOCAL lock_timeout = 0")  # the log lock is waited for as by everybody else
                with log.writing(conn) as writer:
                    if found := writer.execute(SELECT_HOLD_OVER, (day,)):
                        raise errors.Refused(
                            f"{day} is under legal hold {found[0][0]} since it was asked to be dropped"
                        )
                    payload = {"day": day.isoformat(), "detached_position": position, "tables": names}
                    entry = writer.record("day_dropped", payload, actor, reason)
                    statement = "UPDATE detached_days SET dropped_position = %s WHERE day = %s"
                    writer.execute(statement, (entry.position, day))

        partitions.patiently(attempt, f"drop of {day}")
        database.require_confirmed(conn)  # within, there was no commit yet
    with database.committed(f"{day} is dropped"):
        return get(conn, day)


def _droppable(conn: database.Connection, day: date) -> int:
    row = conn.execute(SELECT_STATE, (day,)).fetchone()
    if row is None:
        raise errors.Refused(f"{day} was not detached: expected `clickledger retention detach {day}` before")
    if row[1] is not None:
        raise errors.Conflict(f"{day} was dropped at position {row[1]}")
    if halfway := [line for line in departed.halfway(conn) if line.startswith(str(day))]:
        raise errors.Refused(halfway[0])
    if found := conn.execute(SELECT_HOLD_OVER, (day,)).fetchone():
        raise errors.Refused(f"{day} is under legal hold {found[0]} ({found[1]} to {found[2]})")
    return int(row[0])


def _record(conn: database.Connection, day: date, actor: str, reason: str, months: int) -> None:
    """Seal the day, compute what it takes along, and record that it leaves; refused or failed, it is open again."""
    if len(partitions.attached(conn).get(day, ())) < len(partitions.PARENTS):
        raise errors.NotFound(f"no partitions of {day} are attached")
    try:
        if refused := _refusal(conn, day, months, TOUCHED_ROWS.format(day=departure.condition(day))):
            raise errors.Refused(refused)
        _seal(conn, day, sealed=True)
        for _ in range(ATTEMPTS):
            computed = departure.compute(conn, day)
            if _written(conn, day, computed, actor, reason, months):
                return
        raise errors.Unavailable(f"{day}: the ledger changed {ATTEMPTS} times while it was computed: ask again")
    except (errors.ClickledgerError, KeyboardInterrupt):
        # A commit that was not confirmed may have happened: the day is leaving then, and stays sealed.
        if not conn.closed and conn.execute(SELECT_STATE, (day,)).fetchone() is None:
            _seal(conn, day, sealed=False)
        raise


def _written(conn: database.Connection, day: date, computed: Departure, actor: str, reason: str, months: int) -> bool:
    """Whether the entry was written: not when anything but traffic happened since the departure was computed."""
    with log.writing(conn) as writer:
        if writer.execute(SELECT_CHANGE_SINCE, (computed.computed_at,)):
            return False
        if refused := _refusal(conn, day, months, TOUCHED_DEPARTURE.format(departure=computed.departure)):
            raise errors.Refused(refused)
        entry = writer.record("day_detached", payload_of(day, computed, months), actor, reason)
        row = (
            day, entry.position, computed.departure, computed.digest, computed.clicks, computed.delayed,
            computed.first_position, computed.last_position, computed.settled_position,
        )  # fmt: skip
        writer.execute("INSERT INTO detached_days VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, NULL)", row)
    return True


def payload_of(day: date, computed: Departure, months: int) -> dict[str, Any]:
    """What the entry `day_detached` says; `sums` by currency, micros."""
    return {
        "day": day.isoformat(),
        "retention_months": months,
        "departure": str(computed.departure),
        "digest": computed.digest.hex(),
        "clicks": computed.clicks,
        "delayed": computed.delayed,
        "first_position": computed.first_position,
        "last_position": computed.last_position,
        "settled_position": computed.settled_position,
        "sums": computed.sums,
    }


def _seal(conn: database.Connection, day: date, *, sealed: bool) -> None:
    def attempt() -> None:
        with conn.transaction():
            conn.execute(f"SET LOCAL lock_timeout = '{partitions.LOCK_TIMEOUT}'".encode())
            conn.execute("SELECT seal_day(%s, %s)", (day, sealed))

    partitions.patiently(attempt, f"seal of {day}")


def _detach_table(conn: database.Connection, parent: str, name: str) -> None:
    """Take one partition out of its parent's sight, from wherever an earlier attempt left it.

    CONCURRENTLY marks it in one transaction, waits for whoever used the parent before, and takes it away in another.
    Cut off in between it stays marked, which hides it from new readers already, and FINALIZE does the rest.
    """
    names = {"parent": sql.Identifier(parent), "name": sql.Identifier(name)}

    def attempt() -> None:
        pending = conn.execute(SELECT_ATTACHMENT, (parent, name)).fetchone()
        if pending is None:
            return
        how = "FINALIZE" if pending[0] else "CONCURRENTLY"
        statement = f"ALTER TABLE {{parent}} DETACH PARTITION {{name}} {how}"
        with partitions.session_lock_timeout(conn):
            conn.execute(sql.SQL(statement).format(**names))

    partitions.patiently(attempt, f"detach of {name}")


@contextmanager
def _alone(conn: database.Connection) -> Iterator[None]:
    """Nobody else detaches, and nobody audits, while the block lasts. Raises Unavailable when somebody does."""
    try:
        with partitions.session_lock_timeout(conn):
            conn.execute(f"SELECT pg_advisory_lock({departed.ADVISORY_LOCK})".encode())
    except errors.Unavailable as error:
        if not database.lacks_lock(error):
            raise
        raise errors.Unavailable("an audit reads, or somebody else detaches a day: ask again later") from error
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute(f"SELECT pg_advisory_unlock({departed.ADVISORY_LOCK})".encode())


def _tables(day: date) -> list[tuple[str, str]]:
    """The tables that a day has partitions of, each with the partition's name."""
    return [(parent, partitions.name_of(parent, day)) for parent in partitions.PARENTS]


def _require(reason: str, what: str) -> None:
    if not reason.strip():
        raise errors.InvalidInput(f"{what}: expected a reason, got none")
