"""Importing history: decided clicks by the thousand, copied in.

An import of a batch leaves what an append of it would: one entry, the same leaves, the same answer for each row. It
differs in how rows travel, by binary COPY, which for thousands of rows takes half the server's time.

Invariants:
- rows carry their entry's position, so they are copied in under the log lock. Everything is encoded before it is taken;
  under it the client hands over ready bytes, and encodes the next batch wherever it would only wait for the server;
- the lock is held once for each batch, at most `ROWS_MAX` rows, so appenders beside an import wait for one batch;
- it inserts rows itself, which no role may: an import of history is the owner's act;
- a host that is gone is noticed by the server within `database.GONE_SECONDS`. A process that is frozen in a
  COPY is not: PostgreSQL waits for the rest of it, and `pg_terminate_backend` ends it.
"""

from __future__ import annotations

import operator
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from itertools import compress
from typing import NamedTuple

from psycopg import errors as sql_errors
from psycopg.copy import LibpqWriter

from clickledger import errors
from clickledger.ledger import append, canonical, database, log, records, wire
from clickledger.ledger.append import Appended, Place
from clickledger.ledger.preparation import Preparation
from clickledger.ledger.records import Batch

ROWS_MAX = 16_384  # a longer batch would hold the log up for longer than an appender should wait
BATCH_ROWS = 8_192  # what callers should cut history into; live appends wait for less at smaller ones
ENCODED_ROWS = 256  # at a time, in several steps: the server should not have eaten meanwhile what its socket holds
WRITE_ROWS = 512  # handed over at a time

COPY_CLICKS = f"COPY clicks (log_position, {', '.join(canonical.CLICK_COLUMNS)}) FROM STDIN (FORMAT binary)"
COPY_DECISIONS = (
    f"COPY decisions (log_position, line, {', '.join(canonical.DECISION_COLUMNS)}) FROM STDIN (FORMAT binary)"
)
# Unprepared, so planned with these very bounds: other days are neither planned nor locked.
SELECT_KNOWN = "SELECT click_id FROM clicks WHERE click_id = ANY (%b) AND click_id BETWEEN %s AND %s"
IMPORT_POSITION = "SELECT import_position(%s, %s)"

COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
COPY_TRAILER = b"\xff\xff"
LINES = [(4).to_bytes(4) + line.to_bytes(4) for line in range(ROWS_MAX)]

_looking: dict[Place, int] = {}  # batches still to look first


def import_batches(conn: database.Connection, batches: Iterable[Batch], *, actor: str) -> Iterator[Appended]:
    """Append each batch as one entry, answered as `append.append` would, in order; each is committed when answered.

    `batches` is asked for the batch after the next one while no lock is held. Raises what `append.append` raises; a
    batch that was answered before stays, and importing again answers it as repeats. InvalidInput for a batch longer
    than `ROWS_MAX`.
    """
    supply = iter(batches)
    ahead: Preparation[_Prepared] | None = _next(supply)
    while ahead is not None:
        this, ahead = ahead.finish(), _next(supply)
        with conn.meanwhile(ahead.step) if ahead else nullcontext():
            done = _import(conn, this, actor)
        yield done


def import_batch(conn: database.Connection, batch: Batch, *, actor: str) -> Appended:
    """One batch of thousands; to import several of them, `import_batches` is faster."""
    return next(import_batches(conn, [batch], actor=actor), Appended(None, None, 0, []))


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A batch encoded: `kept` are its rows in click id order, each id once; the other columns follow them."""

    batch: Batch
    kept: Sequence[int]
    clicks: Sequence[bytes]
    decisions: Sequence[bytes]
    leaves: bytes

    def only(self, chosen: Sequence[bool]) -> _Prepared:
        """The rows that are chosen, one flag for each of `kept`."""
        leaves = b"".join(self.leaves[i : i + 32] for i in compress(range(0, len(self.leaves), 32), chosen))
        clicks, decisions = list(compress(self.clicks, chosen)), list(compress(self.decisions, chosen))
        return _Prepared(self.batch, list(compress(self.kept, chosen)), clicks, decisions, leaves)


def _next(supply: Iterator[Batch]) -> Preparation[_Prepared] | None:
    batch = next(supply, None)
    return None if batch is None else Preparation(_prepare(batch))


def _prepare(batch: Batch) -> Generator[None, None, _Prepared]:
    if len(batch) > ROWS_MAX:
        raise errors.InvalidInput(f"expected at most {ROWS_MAX} clicks in an imported batch, got {len(batch)}")
    kept = append.in_id_order(batch.click_id)
    clicks: list[bytes] = []
    decisions: list[bytes] = []
    leaves = []
    for start in range(0, len(kept), ENCODED_ROWS):
        yield
        part = yield from records.encode_for_copy(batch.take(kept[start : start + ENCODED_ROWS]))
        clicks += part.clicks
        decisions += part.decisions
        leaves.append(part.leaves)
    return _Prepared(batch, kept, clicks, decisions, b"".join(leaves))


def _import(conn: database.Connection, this: _Prepared, actor: str) -> Appended:
    if not this.kept:
        return Appended(None, None, 0, [])
    ids = [this.batch.click_id[i] for i in this.kept]
    days = append.days_of(ids[0], ids[-1], ids)
    written = append.with_partitions(conn, days, lambda place: _write(conn, this, ids, actor, place))
    return append.answer(conn, this.batch, written.position, written.recorded_at, written.rows, actor=actor)


class _Written(NamedTuple):
    """The entry, None when nothing was new, and the batch's rows that were."""

    position: int | None
    recorded_at: datetime | None
    rows: Sequence[int]


def _write(
    conn: database.Connection,
    this: _Prepared,
    ids: Sequence[bytes],
    actor: str,
    place: Place,
) -> _Written:
    """Copy unseen, since rows of history are new as a rule; a collision or a refusal makes it look which are."""
    looking = _looking.get(place, 0)
    _looking[place] = max(0, looking - 1)
    if not looking:
        try:
            with log.writing(conn) as writer:
                return _copy_in(conn, writer, this, actor)
        except (sql_errors.UniqueViolation, errors.RevokedDeployment, errors.LostCounters):
            _looking[place] = append.LOOKING_BATCHES
    with log.writing(conn) as writer:
        fresh = this.only(_new(conn, ids))
        if not fresh.kept:
            writer.confirm_earlier()
            return _Written(None, None, [])
        return _copy_in(conn, writer, fresh, actor)


def _new(conn: database.Connection, ids: Sequence[bytes]) -> list[bool]:
    """For each id whether the ledger lacks it."""
    array = wire.FixedBlock([("click_id", wire.UUID, wire.opaque(ids, wire.UUID))]).array("click_id")
    bounds = (uuid.UUID(bytes=ids[0]), uuid.UUID(bytes=ids[-1]))
    known = {row[0].bytes for row in conn.execute(SELECT_KNOWN, (array, *bounds), prepare=False)}
    return [click_id not in known for click_id in ids]


def _copy_in(conn: database.Connection, writer: log.Writer, this: _Prepared, actor: str) -> _Written:
    batch = this.batch
    [(position,)] = writer.execute(IMPORT_POSITION, (batch.deployment_epoch, batch.counter_epoch))
    stamp = (8).to_bytes(4) + int(position).to_bytes(8)
    lined = list(map(operator.add, LINES, this.decisions))
    _copy(conn, COPY_CLICKS, len(canonical.CLICK_COLUMNS) + 1, stamp, this.clicks)
    _copy(conn, COPY_DECISIONS, len(canonical.DECISION_COLUMNS) + 2, stamp, lined)
    entry = writer.record("clicks_decided", {}, actor, leaf_bytes=this.leaves)
    if entry.position != position:
        raise errors.InvariantBroken(f"expected the imported entry at position {position}, got {entry.position}")
    return _Written(entry.position, entry.recorded_at, this.kept)


def _copy(conn: database.Connection, statement: str, columns: int, stamp: bytes, rows: Sequence[bytes]) -> None:
    """Each row behind its count of columns and its log position."""
    head = columns.to_bytes(2) + stamp
    with conn.cursor() as cursor, cursor.copy(statement, writer=LibpqWriter(cursor, flush_threshold=0)) as copy:
        copy.write(COPY_HEADER)
        for start in range(0, len(rows), WRITE_ROWS):
            copy.write(head + head.join(rows[start : start + WRITE_ROWS]))
        copy.write(COPY_TRAILER)
