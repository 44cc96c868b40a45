"""Appending a micro-batch: idempotent, fenced, in one call.

Invariants:
- a click is decided once; the same id and digest again is a repeat and gets the first decision, another digest is a
  conflict: noted in the log once, reported, and the first version stays;
- new rows of a revoked deployment or of lost counters are refused, all of the batch or nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from psycopg.pq import TransactionStatus

from clickledger import errors
from clickledger.ledger import database, log, partitions
from clickledger.ledger.preparation import Preparation
from clickledger.ledger.records import Batch, Encoded, encode

APPEND_BATCH = """
    SELECT position, recorded_at, new_count, new_ordinals
    FROM append_batch(%s, %s, %s, %s, %s, %b, %s)"""
# Each table for itself, put together here: whatever a planner without statistics would join them by, it may read all of
# one side for every row of the other.
SELECT_FIRST = """
    SELECT click_id, intake_digest, seq, NULL::bigint, NULL, NULL, NULL::integer
    FROM clicks WHERE click_id = ANY (%(ids)s) AND click_id BETWEEN %(low)s AND %(high)s
    UNION ALL
    SELECT click_id, NULL, NULL, log_position, verdict::text, reason, deployment_epoch
    FROM decisions WHERE click_id = ANY (%(ids)s) AND click_id BETWEEN %(low)s AND %(high)s"""
KNOWN_CONFLICTS = "SELECT click_id, intake_digest FROM conflicts WHERE click_id = ANY (%s)"
INSERT_CONFLICT = "INSERT INTO conflicts VALUES (%s, %s, %s)"

# Where known clicks came, more are likely (a file read again, a worker's retry): look before inserting for a while.
LOOKING_BATCHES = 32


class Place(NamedTuple):
    """What tells databases apart; `conn.info.dsn` would too, but takes 0.13 ms (benchmarks/LOG.md)."""

    host: str
    port: int
    name: str


class _Written(NamedTuple):
    """`ordinals`: from 1, of the rows that were new; None when all were."""

    position: int | None
    recorded_at: datetime | None
    ordinals: list[int] | None


T = TypeVar("T")

_known_days: dict[Place, set[int]] = {}
_looking: dict[Place, int] = {}  # batches still to look first


class Decision(NamedTuple):
    """The first decision of a click that was already known, and the number it was counted under (0: it was not)."""

    log_position: int
    verdict: str
    reason: str
    deployment_epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch, in the caller's row order.

    `outcome` is 'new', 'repeat' or 'conflict' per row; `first` maps the index of a row that was not new to the first
    decision of its click. `position` is None when nothing was new.
    """

    position: int | None
    recorded_at: datetime | None
    new: int
    outcome: list[str]
    first: dict[int, Decision] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch ready to be sent: `kept` are its rows in click id order, of repeated ids the first; `encoded` is of them.

    It names the epochs of its batch, under which alone it may be appended.
    """

    batch: Batch
    kept: Sequence[int]
    days: set[int]
    encoded: Encoded


def append(conn: database.Connection, batch: Batch, *, actor: str) -> Appended:
    """Append the new clicks of a batch with their decisions as one log entry.

    Raises RevokedDeployment or LostCounters when the batch holds new clicks that may not be appended, InvalidInput
    when it cannot be encoded, Unavailable when the server went away (ask again: a commit that happened is answered as
    repeats).
    """
    return append_prepared(conn, Preparation(prepare(batch)).finish(), actor=actor)


def prepare(batch: Batch) -> Generator[None, None, Prepared]:
    """Put a batch in order and encode it; a generator that pauses between its parts, and needs no server.

    Whoever appends batch after batch prepares the next one while the server works (`Connection.meanwhile`). Raises
    InvalidInput.
    """
    kept = in_id_order(batch.click_id)
    encoded = yield from encode(batch, kept)  # before the days: a malformed id names none
    days = days_of(batch.click_id[kept[0]], batch.click_id[kept[-1]], batch.click_id) if kept else set()
    return Prepared(batch, kept, days, encoded)


def append_prepared(
    conn: database.Connection, this: Prepared, *, actor: str, meanwhile: Callable[[], bool] | None = None
) -> Appended:
    """Append what was prepared, with the answers and errors of `append`.

    `meanwhile` is called as `Connection.meanwhile` does, but in the one call that inserts and commits by itself: the
    client holds no lock then, so that it may wait for another server in it.
    """
    if not this.kept:
        return Appended(None, None, 0, [])
    position, recorded_at, ordinals = with_partitions(
        conn, this.days, lambda place: _call(conn, this, actor, place, meanwhile)
    )
    new_rows = this.kept if ordinals is None else [this.kept[o - 1] for o in ordinals]
    return answer(conn, this.batch, position, recorded_at, new_rows, actor=actor)


def reject(
    conn: database.Connection, counted: Sequence[tuple[bytes, int]], counter_epoch: int, *, actor: str
) -> log.Entry:
    """Say of clicks that were counted under a number each that no click has it: audits then miss none. The entry."""
    clicks = [{"click_id": str(uuid.UUID(bytes=click_id)), "seq": seq} for click_id, seq in counted]
    return log.record(conn, "clicks_rejected", {"counter_epoch": counter_epoch, "clicks": clicks}, actor)


def in_id_order(click_id: Sequence[bytes]) -> list[int]:
    """The rows in click id order, of repeated ids the first."""
    order = sorted(range(len(click_id)), key=click_id.__getitem__)
    if len(set(click_id)) == len(order):
        return order
    return [i for k, i in enumerate(order) if k == 0 or click_id[order[k - 1]] != click_id[i]]


def days_of(first: bytes, last: bytes, click_id: Iterable[bytes]) -> set[int]:
    """The days (since 1970) of click ids, of which the smallest and the largest are given: they mostly share one."""
    days = {partitions.day_of(first), partitions.day_of(last)}
    return days if len(days) == 1 else set(map(partitions.day_of, click_id))


def with_partitions(conn: database.Connection, days: set[int], write: Callable[[Place], T]) -> T:
    """Run `write`, which appends clicks of these days, with partitions made ahead of it.

    What this process knows of the days of a database is wrong once another database took its place (restored, made
    anew): then the server finds no partition, and after making them `write` runs once more.
    """
    with database.translated():  # of a closed connection
        place = Place(conn.info.host, conn.info.port, conn.info.dbname)
    try:
        return _prepared_write(conn, days, place, write)
    except errors.InvariantBroken as error:
        if not database.lacks_partition(error):
            raise
        _known_days.pop(place, None)
        if conn.info.transaction_status is not TransactionStatus.IDLE:
            raise  # the caller's transaction is spoilt: its own retry finds the partitions
    return _prepared_write(conn, days, place, write)


def _prepared_write(conn: database.Connection, days: set[int], place: Place, write: Callable[[Place], T]) -> T:
    known = _known_days.setdefault(place, set())
    if missing := days - known:
        partitions.ensure(conn, missing)
        known |= missing
    return write(place)


def _call(
    conn: database.Connection, this: Prepared, actor: str, place: Place, meanwhile: Callable[[], bool] | None
) -> _Written:
    batch, encoded = this.batch, this.encoded
    looking = _looking.get(place, 0)
    epochs = (batch.deployment_epoch, batch.counter_epoch, batch.feature_schema)
    parameters = (actor, *epochs, encoded.clicks, encoded.leaves, looking > 0)
    with database.committing(conn), conn.meanwhile(meanwhile) if meanwhile else nullcontext():
        row = conn.execute(APPEND_BATCH, parameters, prepare=True).fetchone()
    database.require_confirmed(conn)
    if row is None:
        raise errors.InvariantBroken("append_batch returned nothing")
    position, recorded_at, new, ordinals = row
    _looking[place] = LOOKING_BATCHES if new < len(batch) else max(0, looking - 1)
    return _Written(position, recorded_at, ordinals if new else [])


def answer(
    conn: database.Connection,
    batch: Batch,
    position: int | None,
    recorded_at: datetime | None,
    new_rows: Sequence[int],
    *,
    actor: str,
) -> Appended:
    """What became of a batch of which `new_rows` were written: looks the others up and notes conflicts among them."""
    if len(new_rows) == len(batch):
        return Appended(position, recorded_at, len(new_rows), ["new"] * len(new_rows))
    outcome, first = _explain(conn, batch, set(new_rows))
    if "conflict" in outcome:
        _note_conflicts(conn, batch, outcome, actor)
    return Appended(position, recorded_at, len(new_rows), outcome, first)


def _explain(conn: database.Connection, batch: Batch, new_rows: set[int]) -> tuple[list[str], dict[int, Decision]]:
    """Outcome per row and first decisions; read after the commit, which is safe since history does not change."""
    others = [i for i in range(len(batch)) if i not in new_rows]
    ids = sorted({batch.click_id[i] for i in others})
    bounds = {
        "ids": [uuid.UUID(bytes=i) for i in ids],
        "low": uuid.UUID(bytes=ids[0]),
        "high": uuid.UUID(bytes=ids[-1]),
    }
    # Unprepared: planned with these very bounds, so that days they do not touch are neither planned nor locked.
    clicks: dict[bytes, tuple[bytes, int]] = {}
    decisions: dict[bytes, list[Any]] = {}
    for click_id, digest, seq, *decision in conn.execute(SELECT_FIRST, bounds, prepare=False, binary=True):
        if digest is None:
            decisions[click_id.bytes] = decision
        else:
            clicks[click_id.bytes] = digest, seq
    outcome = ["new"] * len(batch)
    first = {}
    for i in others:
        digest, seq = clicks[batch.click_id[i]]
        position, verdict, reason, epoch = decisions[batch.click_id[i]]
        first[i] = Decision(position, verdict, reason, epoch, seq)
        outcome[i] = "repeat" if digest == batch.intake_digest[i] else "conflict"
    return outcome, first


def _note_conflicts(conn: database.Connection, batch: Batch, outcome: list[str], actor: str) -> None:
    """Record every conflicting version once. A crash before this is mended by the retry, which conflicts again."""
    found = {(batch.click_id[i], batch.intake_digest[i]) for i, what in enumerate(outcome) if what == "conflict"}
    with log.writing(conn) as writer:
        ids = [uuid.UUID(bytes=click_id) for click_id, _ in found]
        known = {(row[0].bytes, bytes(row[1])) for row in writer.execute(KNOWN_CONFLICTS, (ids,))}
        if not (new := sorted(found - known)):
            return
        listed = [{"click_id": str(uuid.UUID(bytes=c)), "intake_digest": d.hex()} for c, d in new]
        entry = writer.record("conflicts_recorded", {"conflicts": listed}, actor, "same click id, other content")
        for click_id, digest in new:
            writer.execute(INSERT_CONFLICT, (uuid.UUID(bytes=click_id), digest, entry.position))
