"""Snapshots counted again from the log, for clicks whose counters were wrong: what `scoring.feature_replay` gives them.

A click's features depend on the clicks of its user and of its IP counted before it, within the longest window, and on
the counting clock. So for some clicks of a range this reads

1. number and event time of every click counted in the window before them: the clock, 16 bytes each;
2. of these, the clicks that share a user or an IP with one asked for, in steps of so few clicks asked for that no more
   than `RECORDS_MAX` are held at once (a single click whose user and IP have more is the exception).

Windows are found by event time, which the click id carries: counted clicks lie at most `LATE_MS` behind the clock. So
it does not matter in which order appends came.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clickledger import errors
from clickledger.ledger import copied_rows, database
from clickledger.scoring import feature_replay, feature_spec
from clickledger.scoring.click import Click

ORDER_LOST = "counting_order_lost"  # its number is also another click's: nobody knows which came first
RECORDS_MAX = 1_000_000  # about 300 bytes each while they are counted again
SELECT_ASKED = """
    SELECT uuid_send(click_id), seq, uuid_send(user_key), uuid_send(ip_key) FROM clicks
    WHERE log_position >= {lo} AND log_position < {hi} AND seq > 0 AND feature_schema IN ({schemas})"""
_WINDOW = "click_id >= '{first}' AND click_id < '{end}' AND seq > 0 AND seq <= {last_seq}"
SELECT_CLOCK = f"SELECT seq, click_id FROM clicks WHERE {_WINDOW}"
_RELATED = f"FROM clicks WHERE {_WINDOW} AND (user_key = ANY (%(user_key)s) OR ip_key = ANY (%(ip_key)s))"
COUNT_RELATED = f"SELECT count(*) {_RELATED}"
_FIELDS = """
    SELECT uuid_send(click_id), source, external_id, uuid_send(user_key), uuid_send(session_key), uuid_send(ip_key),
           device, device_kind, advertiser_id, campaign_id, cost_micros, currency, logged_in, slice, intake_digest,
           seq"""
SELECT_RELATED = f"{_FIELDS} {_RELATED} ORDER BY seq"
SELECT_UNCOUNTED = f"{_FIELDS} FROM clicks WHERE click_id = ANY (%s) AND seq = 0 ORDER BY click_id"
SEQ_MAX = (1 << 63) - 1
SELECT_DEPARTED = "SELECT max(day)::text FROM detached_days WHERE day >= %s AND day <= %s"
_CLOCK_ROW = np.dtype([("fields", ">i2"), ("seq_bytes", ">i4"), ("seq", ">i8"), ("id_bytes", ">i4"), ("id", "V16")])


class Asked(NamedTuple):
    """A click to be counted again: 16 bytes of click id, its number, 16 bytes of each record it belongs to."""

    click_id: bytes
    seq: int
    user_key: bytes
    ip_key: bytes

    @property
    def event_ms(self) -> int:
        """Its event time, Unix milliseconds."""
        return int.from_bytes(self.click_id[:6])


@dataclass
class Recounted:
    """Snapshots by click id, and the clicks whose place in the counting order is not known."""

    snapshots: dict[bytes, bytes] = field(default_factory=dict)
    order_lost: set[bytes] = field(default_factory=set)


class _Window(NamedTuple):
    first: uuid.UUID
    end: uuid.UUID
    last_seq: int


@dataclass(frozen=True)
class _Clock:
    """The counting clock after each counted click of a window, by its number, ascending."""

    seq: npt.NDArray[np.int64]  # (n,)
    clock_ms: npt.NDArray[np.int64]  # (n,)

    def at(self, seqs: Sequence[int]) -> npt.NDArray[np.int64]:
        return self.clock_ms[np.searchsorted(self.seq, np.asarray(seqs, np.int64))]

    def places(self, moments: Sequence[int]) -> list[float]:
        """Where clicks of these event times belong: half a number after the last click that the clock had then."""
        found = np.searchsorted(self.clock_ms, np.asarray(moments, np.int64), side="right") - 1
        return [float(self.seq[i]) + 0.5 if i >= 0 else 0.5 for i in found.tolist()]

    def before(self, places: Sequence[float]) -> npt.NDArray[np.int64]:
        """The clock after the last counted click at or before each place; 0 before the first."""
        found = np.searchsorted(self.seq, np.asarray(places), side="right") - 1
        return (
            np.where(found >= 0, self.clock_ms[np.maximum(found, 0)], 0)
            if len(self.seq)
            else np.zeros(len(places), np.int64)
        )

    def twice(self) -> set[int]:
        """Numbers that more than one click has."""
        return set(self.seq[1:][self.seq[1:] == self.seq[:-1]].tolist())


def recount(conn: database.Connection, lo: int, hi: int, wanted: Sequence[bytes]) -> Recounted:
    """Count the wanted clicks of log positions [lo, hi) again, those that were counted at all.

    What comes out is what counters give: facts are taken from the recorded snapshot (`feature_spec.with_facts_of`).
    Raises Refused when a day that their windows reach into is not in the ledger any more.
    """
    query = SELECT_ASKED.format(lo=int(lo), hi=int(hi), schemas=", ".join(map(str, feature_spec.SCHEMAS)))
    with conn.cursor(binary=True) as cursor:
        found = [Asked(*row) for row in cursor.execute(query.encode(), prepare=False)]
    chosen = set(wanted)
    asked = sorted((click for click in found if click.click_id in chosen), key=lambda click: click.seq)
    result = Recounted()
    if not asked:
        return result
    window = _window([click.event_ms for click in asked], asked[-1].seq)
    _require_there(conn, window)
    clock = _clock(conn, window)
    twice = clock.twice()
    result.order_lost = {click.click_id for click in asked if click.seq in twice}
    _count(conn, window, clock, [click for click in asked if click.seq not in twice], result)
    return result


def count_in_time(conn: database.Connection, uncounted: Sequence[uuid.UUID]) -> dict[bytes, bytes]:
    """Snapshots of clicks that came too late or early to be counted, as if all of them had been counted in their time:
    each after the clicks at which the counting clock had come up to its event time. By click id.

    Those whose windows reach into a day that is not in the ledger any more are left out.
    """
    with conn.cursor(binary=True) as cursor:
        rows = cursor.execute(SELECT_UNCOUNTED.encode(), (list(uncounted),), prepare=False).fetchall()
    if not rows:
        return {}
    if _gone_day(conn, _window([_event_ms(row) for row in rows], SEQ_MAX)) is not None:
        rows = [row for row in rows if _gone_day(conn, _window([_event_ms(row)], SEQ_MAX)) is None]
    found: dict[bytes, bytes] = {}
    for together in _apart(rows):
        found |= _count_together(conn, together)
    return found


def _apart(rows: Sequence[tuple[Any, ...]]) -> list[list[tuple[Any, ...]]]:
    """Clicks by event time, in groups whose windows do not meet: what lies between them need not be read."""
    groups: list[list[tuple[Any, ...]]] = []
    reach_ms = feature_spec.LONGEST_WINDOW_MS + 2 * feature_spec.LATE_MS
    for row in sorted(rows, key=_event_ms):
        if groups and _event_ms(row) - _event_ms(groups[-1][-1]) <= reach_ms:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _count_together(conn: database.Connection, rows: Sequence[tuple[Any, ...]]) -> dict[bytes, bytes]:
    """Snapshots of uncounted clicks that may be in each other's windows."""
    moments = [_event_ms(row) for row in rows]
    window = _window(moments, SEQ_MAX)
    clock = _clock(conn, window)
    records = {name: list({uuid.UUID(bytes=getattr(_click(r), name)) for r in rows}) for name in feature_replay.RECORDS}
    related = [(float(row[-1]), row) for row in _related(conn, window, records)]
    placed = sorted([*related, *zip(clock.places(moments), rows, strict=True)], key=lambda pair: pair[0])
    clicks = [_click(row) for _, row in placed]
    times = np.array([click.event_time_ms for click in clicks], np.int64)
    features = feature_replay.recompute_encoded(
        feature_spec.encode_clicks(clicks), np.maximum(clock.before([place for place, _ in placed]), times)
    )
    wanted = {row[0] for row in rows}
    packed = feature_spec.pack_snapshots(features)
    return {c.click_id: snapshot for c, snapshot in zip(clicks, packed, strict=True) if c.click_id in wanted}


def _window(moments: Sequence[int], last_seq: int) -> _Window:
    """Click ids of everything that can have been counted within the longest window before some event times."""
    first = min(moments) - feature_spec.LONGEST_WINDOW_MS - feature_spec.LATE_MS
    end = max(moments) + feature_spec.LATE_MS + 1
    return _Window(_smallest_id(max(first, 0)), _smallest_id(end), last_seq)


def _event_ms(row: tuple[Any, ...]) -> int:
    """Event time of a row that begins with its click id."""
    return int.from_bytes(row[0][:6])


def _smallest_id(at_ms: int) -> uuid.UUID:
    return uuid.UUID(bytes=at_ms.to_bytes(6) + bytes(10))


def _require_there(conn: database.Connection, window: _Window) -> None:
    if (day := _gone_day(conn, window)) is not None:
        raise errors.Refused(f"counting again needs the clicks of {day}, which have left the ledger")


def _gone_day(conn: database.Connection, window: _Window) -> str | None:
    """The newest day that a window reaches into and that is not in the ledger any more."""
    days = [f"{np.datetime64(int.from_bytes(edge.bytes[:6]), 'ms'):.10}" for edge in (window.first, window.end)]
    row = conn.execute(SELECT_DEPARTED, tuple(days)).fetchone()
    return None if row is None else row[0]


def _clock(conn: database.Connection, window: _Window) -> _Clock:
    rows = b"".join(copied_rows.stream(conn, SELECT_CLOCK.format(**window._asdict())))
    table = np.frombuffer(rows, dtype=_CLOCK_ROW)
    order = np.argsort(table["seq"], kind="stable")
    high = np.ascontiguousarray(table["id"][order]).view(np.uint8).reshape(-1, 16)[:, :6].astype(np.int64)
    event_ms = high @ (256 ** np.arange(5, -1, -1, dtype=np.int64))
    return _Clock(table["seq"][order].astype(np.int64), np.maximum.accumulate(event_ms))


def _count(
    conn: database.Connection, window: _Window, clock: _Clock, asked: Sequence[Asked], result: Recounted
) -> None:
    """Count some clicks again, in halves where what they depend on is too much at once."""
    if not asked:
        return
    records = {name: list({uuid.UUID(bytes=getattr(c, name)) for c in asked}) for name in feature_replay.RECORDS}
    bounds = window._asdict()
    row = conn.execute(COUNT_RELATED.format(**bounds).encode(), records, prepare=False).fetchone()
    if row is not None and row[0] > RECORDS_MAX and len(asked) > 1:
        half = len(asked) // 2
        _count(conn, window, clock, asked[:half], result)
        _count(conn, window, clock, asked[half:], result)
        return
    related = _related(conn, window, records)
    seqs = [row[-1] for row in related]
    encoded = feature_spec.encode_clicks([_click(row) for row in related], seqs)
    features = feature_replay.recompute_encoded(encoded, clock.at(seqs))
    place = {row[0]: i for i, row in enumerate(related)}
    snapshots = feature_spec.pack_snapshots(features[[place[click.click_id] for click in asked]])
    result.snapshots.update(zip((click.click_id for click in asked), snapshots, strict=True))


def _related(
    conn: database.Connection, window: _Window, records: Mapping[str, Sequence[uuid.UUID]]
) -> list[tuple[Any, ...]]:
    """The counted clicks of a window that share one of these records, in the order of their numbers."""
    query = SELECT_RELATED.format(**window._asdict()).encode()
    with conn.cursor(binary=True) as cursor:
        return cursor.execute(query, records, prepare=False).fetchall()


def _click(row: tuple[Any, ...]) -> Click:
    """A row of SELECT_RELATED, whose event time is in its id."""
    fields = (*row[:3], int.from_bytes(row[0][:6]), *row[3:-1])
    return Click(*fields)
