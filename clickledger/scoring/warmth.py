"""Which snapshots are cold: counted while the windows behind them were not full yet.

A fold of the log, so nothing is stored with a click: an entry `counters_restored` with a `since_ms` says that the
counters of its epoch hold the clicks of that event time and later; without one they hold all that the log does. No
counters hold what was before the ledger's first counted click. A snapshot is cold until `LONGEST_WINDOW_MS` lie between
the one or the other and its event time: then its windows are full, the 24 h ones included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clickledger.ledger import database, log
from clickledger.scoring import feature_spec

Ints = npt.NDArray[np.int64]
# Named in the statement, so that the index of control entries serves it.
SELECT_RESTORED = "SELECT payload FROM log WHERE kind = 'counters_restored' AND position <= %s ORDER BY position"
# The counted click of the least event time: within LATE_MS of the first that was counted, and at an end of an index.
SELECT_BEGAN = """
    SELECT click_time_ms(click_id) FROM clicks WHERE seq > 0 AND log_position <= %s ORDER BY click_id LIMIT 1"""
# Asked of a few days only: opening all of them for one click would lock them all.
SELECT_ANY_BEFORE = """
    SELECT 1 FROM clicks
    WHERE seq > 0 AND click_id >= smallest_click_id(%s) AND click_id < smallest_click_id(%s) LIMIT 1"""
SELECT_FIRST_GONE_DAY = "SELECT (extract(epoch FROM min(day)::timestamp) * 1000)::bigint FROM detached_days"


@dataclass(frozen=True)
class Warmth:
    """From which event time on counters were complete: all of them, and each epoch that holds less than the log."""

    began_ms: int | None  # None: nothing was counted yet
    since_ms: Mapping[int, int] = field(default_factory=dict)  # by counter epoch

    def full_from_ms(self, counter_epoch: int) -> int | None:
        """The event time from which snapshots of an epoch are warm; None while nothing was ever counted."""
        if self.began_ms is None:
            return None
        return max(self.began_ms, self.since_ms.get(counter_epoch, 0)) + feature_spec.LONGEST_WINDOW_MS

    def cold(self, counter_epochs: Ints, event_times_ms: Ints) -> npt.NDArray[np.bool_]:
        """Whether each of n counted clicks (n,) has a cold snapshot."""
        epochs, which = np.unique(counter_epochs, return_inverse=True)
        full = np.array([_or_never(self.full_from_ms(int(epoch))) for epoch in epochs], dtype=np.int64)
        return np.asarray(event_times_ms < full[which], dtype=np.bool_)

    def is_cold(self, counter_epoch: int, event_time_ms: int) -> bool:
        """Whether one counted click has a cold snapshot."""
        return event_time_ms < _or_never(self.full_from_ms(counter_epoch))


def _or_never(moment_ms: int | None) -> int:
    return int(np.iinfo(np.int64).max) if moment_ms is None else moment_ms


def read(conn: database.Connection, up_to_position: int = log.NO_LIMIT) -> Warmth:
    """What the entries up to a position say, and the clicks recorded by then.

    Where days have left the ledger it began with the first of them, at the latest.
    """
    starts = [_number(conn, SELECT_FIRST_GONE_DAY, ()), _number(conn, SELECT_BEGAN, (up_to_position,))]
    began_ms = min((start for start in starts if start is not None), default=None)
    return Warmth(began_ms, _since_ms(conn, up_to_position))


def around(conn: database.Connection, event_time_ms: int) -> Warmth:
    """What decides about one click: like `read`, but where the ledger began long before it is not said exactly."""
    end_ms = event_time_ms - feature_spec.LONGEST_WINDOW_MS
    start_ms = max(0, end_ms - 2 * feature_spec.LONGEST_WINDOW_MS)
    if end_ms > 0 and _number(conn, SELECT_ANY_BEFORE, (start_ms, end_ms)):
        return Warmth(start_ms, _since_ms(conn, log.NO_LIMIT))
    return read(conn)


def _since_ms(conn: database.Connection, up_to_position: int) -> dict[int, int]:
    payloads = [json.loads(text) for (text,) in conn.execute(SELECT_RESTORED, (up_to_position,))]
    stated = {int(payload["counter_epoch"]): payload.get("since_ms") for payload in payloads}
    return {epoch: int(since) for epoch, since in stated.items() if since is not None}


def _number(conn: database.Connection, query: str, parameters: tuple[int, ...]) -> int | None:
    row = conn.execute(query, parameters).fetchone()
    return None if row is None or row[0] is None else int(row[0])
