"""Recorded snapshots computed again from the clicks of the log, which must give the same numbers.

What tables of facts said (`feature_spec.FACT_FEATURES`) stands nowhere else in the log, and is not compared. What
cannot be computed is told, not failed: snapshots of another feature schema, those within `LONGEST_WINDOW_MS` of days
that left the ledger, and those that differ within it after a counting number that no click of the log has (a click that
was counted and then refused, or lost with its server). Which clicks the counters of an epoch held, `warmth` knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from uuid import UUID

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput
from clickledger.ledger import database, log
from clickledger.scoring import counted_clicks, feature_replay, feature_spec, warmth
from clickledger.scoring.counted_clicks import CountedClick
from clickledger.scoring.warmth import Warmth

_Clicks = npt.NDArray[np.void]  # (n,) of _CLICK, in the order of seq
_SNAPSHOT_BYTES = 4 * len(feature_spec.FEATURES)
_CLICK = np.dtype(
    [
        ("record", feature_spec.CLICK_DTYPE),
        ("event_ms", np.int64),
        ("seq", np.int64),
        ("epoch", np.int64),
        ("schema", np.int64),
        ("snapshot", f"V{_SNAPSHOT_BYTES}"),
    ]
)
Progress = Callable[[int, int], None]
FAILURES_MAX = 20
BLOCK_CLICKS = 200_000  # recomputed at a time, beside the window before them
REACH_MS = feature_spec.LONGEST_WINDOW_MS + feature_spec.LATE_MS
DAY_MS = 24 * feature_spec.HOUR_MS
COUNT_CLICKS = """
    SELECT count(*) FROM clicks
    WHERE seq > 0 AND click_id >= smallest_click_id(%s) AND click_id < smallest_click_id(%s)"""
SELECT_LAST_GONE_DAY = "SELECT max(day) FROM detached_days WHERE day <= %s"


@dataclass
class Recounted:
    """How many snapshots were recomputed, how many were the recorded ones, and the first that were not."""

    recounted: int = 0
    exact: int = 0
    unexplained: int = 0  # differ, but behind a number that no click of the log has
    skipped: int = 0  # cannot be recomputed
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every snapshot that the log explains is the recorded one."""
        return self.recounted == self.exact + self.unexplained

    @property
    def notes(self) -> list[str]:
        """What was not verified, in words."""
        told = [
            (self.skipped, "of another feature schema, or behind days that left the ledger, are not recomputed"),
            (self.unexplained, "count a click that the log does not hold: a number is missing in the 28 h before them"),
        ]
        return [f"{count} snapshots {what}" for count, what in told if count]


def verify(conn: database.Connection, day: date | None = None, progress: Progress | None = None) -> Recounted:
    """Recompute the snapshots of all counted clicks, or of one UTC day, and compare them to the bit.

    Memory holds the clicks of 28 hours and of one block. Raises InvalidInput for a day that left the ledger.
    """
    from_ms, to_ms = (0, counted_clicks.END_MS) if day is None else _bounds(day)
    known_from_ms = _known_from_ms(conn, day)
    audit = _Audit(warmth.read(conn), from_ms, to_ms, known_from_ms)
    total, tell = _count(conn, max(from_ms - REACH_MS, 0), to_ms), progress or (lambda done, total: None)
    done = 0
    up_to = log.head(conn).position
    for rows in counted_clicks.in_seq_order(conn, from_ms=from_ms - REACH_MS, to_ms=to_ms, up_to_position=up_to):
        audit.take(_columns(rows))
        done += len(rows)
        tell(done, max(total, done))
    audit.conclude()
    return audit.result


def day_of(text: str) -> date | None:
    """What a person may ask for: a day, or 'all'. Raises InvalidInput."""
    if text == "all":
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"snapshots: expected 'all' or a day as in 2026-11-29, got {text!r}") from error


class _Audit:
    """Takes clicks in the order of seq, recomputes them block by block, keeps what windows still reach."""

    def __init__(self, warm: Warmth, from_ms: int, to_ms: int, known_from_ms: int) -> None:
        self.result = Recounted()
        self._warm, self._from_ms, self._to_ms, self._known_from_ms = warm, from_ms, to_ms, known_from_ms
        self._history = _columns([])
        self._parts: list[_Clicks] = []
        self._gap_ms = -REACH_MS  # event time of the last click behind a missing number
        self._last_seq = 0

    def take(self, clicks: _Clicks) -> None:
        self._parts.append(clicks)
        if sum(map(len, self._parts)) >= max(BLOCK_CLICKS, len(self._history)):
            self.conclude()

    def conclude(self) -> None:
        """Recompute what was taken."""
        block, self._parts = np.concatenate([_columns([]), *self._parts]), []
        if not len(block):
            return
        behind = self._behind_gap(block)
        held = np.concatenate([self._history, block])
        new = np.arange(len(held)) >= len(self._history)
        since_ms = np.array([self._warm.since_ms.get(int(epoch), 0) for epoch in held["epoch"]], dtype=np.int64)
        for since in np.unique(since_ms[new]).tolist():
            rows = held["event_ms"] >= since
            self._compare(held[rows], (new & (since_ms == since))[rows], behind)
        clock_ms = int(held["event_ms"].max())
        self._history = held[held["event_ms"] >= clock_ms - REACH_MS]

    def _behind_gap(self, block: _Clicks) -> dict[int, bool]:
        """By seq, whether a number is missing within the longest window before a click."""
        before = np.concatenate([[self._last_seq], block["seq"][:-1]])
        gaps = (block["seq"] != before + 1) & (before > 0)
        at_ms = np.maximum.accumulate(np.where(gaps, block["event_ms"], self._gap_ms))
        self._gap_ms, self._last_seq = int(at_ms[-1]), int(block["seq"][-1])
        behind = block["event_ms"] < at_ms + REACH_MS + feature_spec.LATE_MS
        return dict(zip(block["seq"].tolist(), behind.tolist(), strict=True))

    def _compare(self, held: _Clicks, asked: npt.NDArray[np.bool_], behind: dict[int, bool]) -> None:
        inside = asked & (held["event_ms"] >= self._from_ms) & (held["event_ms"] < self._to_ms)
        counted = np.isin(held["schema"], list(feature_spec.SCHEMAS))
        able = inside & counted & (held["event_ms"] >= self._known_from_ms)
        self.result.skipped += int(inside.sum() - able.sum())
        if not able.any():
            return
        got = feature_replay.recompute_encoded(held["record"].tobytes())[able]
        recorded = feature_spec.unpack_snapshots([bytes(snapshot) for snapshot in held["snapshot"][able].tolist()])
        differ = (got != recorded).any(axis=1)
        self.result.recounted += len(got)
        self.result.exact += int((~differ).sum())
        of = held[able]
        for row in np.flatnonzero(differ).tolist():
            if behind[int(of["seq"][row])]:
                self.result.unexplained += 1
            elif len(self.result.failures) < FAILURES_MAX:
                self.result.failures.append(_explain(of, row, recorded[row], got[row]))


def _explain(of: _Clicks, row: int, recorded: npt.NDArray[np.int32], got: npt.NDArray[np.int32]) -> str:
    at = int(np.flatnonzero(recorded != got)[0])
    others = int((recorded != got).sum()) - 1
    more = f", and {others} more differ" if others else ""
    click_id = UUID(bytes=of["record"]["click_id"][row].tobytes())
    name = feature_spec.FEATURES[at]
    seq = of["seq"][row]
    return f"click {click_id} (seq {seq}): {name} recorded {recorded[at]}, got {got[at]} from the log{more}"


def _columns(rows: list[CountedClick]) -> _Clicks:
    columns = np.empty(len(rows), _CLICK)
    encoded = feature_spec.encode_clicks([row.click for row in rows], [row.seq for row in rows])
    columns["record"] = np.frombuffer(encoded, feature_spec.CLICK_DTYPE)
    columns["event_ms"] = [row.click.event_time_ms for row in rows]
    columns["seq"] = [row.seq for row in rows]
    columns["epoch"] = [row.counter_epoch for row in rows]
    columns["schema"] = [row.feature_schema for row in rows]
    # What was counted comes first. Facts behind it cannot be computed; other schemas are compared with nothing.
    snapshots = b"".join(row.features[:_SNAPSHOT_BYTES].ljust(_SNAPSHOT_BYTES, b"\0") for row in rows)
    columns["snapshot"] = np.frombuffer(snapshots, f"V{_SNAPSHOT_BYTES}")
    return columns


def _bounds(day: date) -> tuple[int, int]:
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
    return start, start + DAY_MS


def _known_from_ms(conn: database.Connection, day: date | None) -> int:
    """The event time from which on all clicks that a window reaches are still there."""
    row = conn.execute(SELECT_LAST_GONE_DAY, (day or date.max,)).fetchone()
    gone: date | None = row[0] if row else None
    if gone is not None and gone == day:
        raise InvalidInput(f"snapshots: {day} left the ledger, with the clicks to recompute them from")
    return 0 if gone is None else _bounds(gone)[1] + REACH_MS


def _count(conn: database.Connection, from_ms: int, to_ms: int) -> int:
    row = conn.execute(COUNT_CLICKS, (from_ms, to_ms)).fetchone()
    return int(row[0]) if row else 0
