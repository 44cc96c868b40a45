"""A training set: what the ledger recorded up to a log position, labelled by what had become of it by a cut-off.

Snapshots are taken as they were recorded, never recomputed. The same ledger, position and cut-off give the same arrays
and so the same digest, whatever has been appended since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput
from clickledger.ledger import database, log
from clickledger.scoring import feature_spec, labels

OUTCOME_KINDS = ("purchase", "install")  # what counts as proof of a human
FETCH_ROWS = 20_000
Stretch = tuple[int, int]  # event times [from, to) in Unix ms

# Counted clicks only: the others have no snapshot to learn from.
SELECT_CLICKS = """
    SELECT click_id, user_key, slice, features FROM clicks
    WHERE log_position > %(after)s AND log_position <= %(up_to)s AND feature_schema = %(schema)s AND seq > 0
    ORDER BY seq"""
# An account's outcomes count wherever its click was, so the click is looked up beyond the training range, too.
SELECT_OUTCOMES = """
    SELECT o.click_id, c.user_key, o.occurred_at_ms, o.value_micros FROM outcomes o JOIN clicks c USING (click_id)
    WHERE o.log_position <= %(up_to)s AND o.occurred_at_ms <= %(cutoff_ms)s AND o.kind = ANY(%(kinds)s)"""


class ClickRow(NamedTuple):
    """What a training set takes of a click."""

    click_id: bytes  # UUIDv7, event time inside
    user_key: bytes
    slice: str
    features: bytes  # snapshot as stored


class OutcomeRow(NamedTuple):
    """What a training set takes of an outcome."""

    click_id: bytes
    user_key: bytes  # of the click
    occurred_at_ms: int
    value_micros: int


@dataclass(frozen=True, eq=False)
class Dataset:
    """n labelled clicks, one array a column, in the order they were counted."""

    features: npt.NDArray[np.int32]  # (n, k) snapshots
    human: npt.NDArray[np.bool_]  # (n,) weak label
    purchased: npt.NDArray[np.bool_]  # (n,) led to an outcome itself
    user: npt.NDArray[np.int64]  # (n,) index of the account, 0 based
    slice: npt.NDArray[np.str_]  # (n,)
    event_time_ms: npt.NDArray[np.int64]  # (n,)

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) != 1:
            raise InvalidInput(f"dataset: expected columns of one length, got {lengths}")

    def __len__(self) -> int:
        return len(self.human)

    def where(self, rows: npt.NDArray[np.bool_]) -> Dataset:
        """The rows for which a flag (n,) is set."""
        return Dataset(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def between(self, from_ms: int, to_ms: int) -> Dataset:
        """The clicks of one stretch of event time, [from_ms, to_ms)."""
        return self.where((self.event_time_ms >= from_ms) & (self.event_time_ms < to_ms))

    def digest(self) -> str:
        """SHA-256 over every column's name, type, shape and values, length-prefixed; hex."""
        sha = hashlib.sha256(b"clickledger/dataset/1\0")
        for field in fields(self):
            column = _canonical(getattr(self, field.name))
            for part in (field.name.encode(), str(column.dtype).encode(), str(column.shape).encode(), column.tobytes()):
                sha.update(len(part).to_bytes(8, "big") + part)
        return sha.hexdigest()

    def summary(self) -> dict[str, Any]:
        """Counts, window and digest: JSON values for log entries and artefacts."""
        return {
            "rows": len(self),
            "human": int(self.human.sum()),
            "purchased": int(self.purchased.sum()),
            "from_ms": int(self.event_time_ms.min()) if len(self) else None,
            "to_ms": int(self.event_time_ms.max()) if len(self) else None,
            "digest": self.digest(),
        }


def build(
    conn: database.Connection,
    up_to_position: int,
    label_cutoff_ms: int,
    *,
    after_position: int = 0,
    rfm: labels.RfmRule = labels.DEFAULT_RFM,
    withheld: Sequence[Stretch] = (),
) -> Dataset:
    """The counted clicks recorded in (after_position, up_to_position], labelled by outcomes up to the cut-off.

    `withheld`: see `assemble`. Outcomes count if they were recorded by `up_to_position` and happened by the cut-off.
    """
    clicks_range = {"after": after_position, "up_to": up_to_position, "schema": feature_spec.SCHEMA_VERSION}
    known = {"up_to": up_to_position, "cutoff_ms": label_cutoff_ms, "kinds": list(OUTCOME_KINDS)}
    clicks = [ClickRow(c.bytes, u.bytes, s, bytes(f)) for c, u, s, f in _rows(conn, SELECT_CLICKS, clicks_range)]
    outcomes = [OutcomeRow(c.bytes, u.bytes, at, v) for c, u, at, v in _rows(conn, SELECT_OUTCOMES, known)]
    return assemble(clicks, outcomes, rfm=rfm, withheld=withheld)


def assemble(
    clicks: Sequence[ClickRow],
    outcomes: Iterable[OutcomeRow],
    *,
    rfm: labels.RfmRule = labels.DEFAULT_RFM,
    withheld: Sequence[Stretch] = (),
) -> Dataset:
    """Label clicks by the outcomes known of them and of their accounts; pure.

    `withheld` is a fault injection: it reproduces label feeds that were down. Clicks in those stretches of event time
    get no human label from any source, and their outcomes count for no account either.
    """
    times = event_times_ms([click.click_id for click in clicks])
    outcomes = [o for o in outcomes if not _within(int.from_bytes(o.click_id[:6], "big"), withheld)]
    keys = chain((click.user_key for click in clicks), (outcome.user_key for outcome in outcomes))
    users = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    user = _ints(users[click.user_key] for click in clicks)
    proven = {outcome.click_id for outcome in outcomes}
    purchased = np.array([click.click_id in proven for click in clicks], dtype=np.bool_)
    high = labels.high_rfm(
        _ints(users[o.user_key] for o in outcomes),
        _ints(o.occurred_at_ms for o in outcomes),
        _ints(o.value_micros for o in outcomes),
        len(users),
        rfm,
    )
    seen = np.array([not _within(int(time), withheld) for time in times], dtype=np.bool_)
    return Dataset(
        features=feature_spec.unpack_snapshots([click.features for click in clicks]),
        human=labels.human(purchased, user, high) & seen,
        purchased=purchased,
        user=user,
        slice=np.array([click.slice for click in clicks], dtype=np.str_),
        event_time_ms=times,
    )


def record_built(
    conn: database.Connection,
    built: Dataset,
    *,
    up_to_position: int,
    label_cutoff_ms: int,
    actor: str,
    after_position: int = 0,
    withheld: Sequence[Stretch] = (),
    reason: str = "",
) -> log.Entry:
    """Append the `dataset_built` entry: from what a set was built, its counts and its digest."""
    payload = {
        "after_position": after_position,
        "up_to_position": up_to_position,
        "label_cutoff_ms": label_cutoff_ms,
        "feature_schema": feature_spec.SCHEMA_VERSION,
        "withheld": [list(stretch) for stretch in withheld],
        **built.summary(),
    }
    return log.record(conn, "dataset_built", payload, actor, reason)


def hours_of_each_day(from_hour: int, to_hour: int, from_ms: int, to_ms: int) -> list[Stretch]:
    """The stretches [from_hour, to_hour) UTC of every day that [from_ms, to_ms) touches; `to_hour` may pass 24."""
    day = datetime.fromtimestamp(from_ms / 1000, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    day -= timedelta(days=1)  # a stretch past midnight begins the day before
    stretches = []
    while (midnight := int(day.timestamp()) * 1000) < to_ms:
        stretches.append((midnight + from_hour * feature_spec.HOUR_MS, midnight + to_hour * feature_spec.HOUR_MS))
        day += timedelta(days=1)
    return [stretch for stretch in stretches if stretch[1] > from_ms and stretch[0] < to_ms]


def event_times_ms(click_ids: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """The 48-bit times of UUIDv7 ids, (n,)."""
    return _ints(int.from_bytes(click_id[:6], "big") for click_id in click_ids)


def _rows(conn: database.Connection, query: str, params: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows in steps, off a cursor on the server: a month of clicks does not fit a client's memory twice."""
    with conn.transaction(), conn.cursor(name="dataset", binary=True) as cursor:
        cursor.itersize = FETCH_ROWS
        yield from cursor.execute(query, params)


def _within(time_ms: int, stretches: Sequence[Stretch]) -> bool:
    return any(start <= time_ms < end for start, end in stretches)


def _ints(values: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.fromiter(values, dtype=np.int64)


def _canonical(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Little-endian and packed; texts as UTF-8, so that numpy's width of the longest one has no say."""
    if column.dtype.kind == "U":
        return np.frombuffer("\0".join(column.tolist()).encode(), dtype=np.uint8)
    return np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("<"))
