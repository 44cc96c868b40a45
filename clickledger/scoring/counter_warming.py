"""All windows rebuilt beside the traffic, after a restart that restored the last hour only.

Invariants:
- the other set is built from the log alone, in the order of seq, while the first one counts;
- it takes over under a new counter epoch: what was counted on the first one and not appended by then is refused, and
  counted again on the second;
- it takes over only if it holds every click that the log does. A click whose append was under way for longer than the
  margin of `counted_clicks.in_seq_order` makes it fall short; then nothing is gained, and it is begun again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import redis

from clickledger import errors
from clickledger.ledger import database, deployments, log
from clickledger.scoring import counted_clicks, counter_epochs, counters, feature_spec, warmth
from clickledger.scoring.counted_clicks import CountedClick
from clickledger.scoring.counter_epochs import Logged

logger = logging.getLogger(__name__)

WARMING_LOCK = 7163956285231296109
TAIL_CLICKS_MAX = 20_000  # a second during which counting stands still
PASSES_MAX = 20  # the tail is about 120 s of traffic, whatever its pace; it stops getting shorter
STEP_CLICKS = 1_024
COUNT_SINCE = "SELECT count(*) FROM clicks WHERE log_position > %s AND seq > 0"


@dataclass
class _Building:
    """The set that is rebuilt: what it holds so far, and of that how much was appended after it was begun."""

    counter: counters.FeatureCounter
    prefix: str
    epoch: int  # under which it is to count
    begun_position: int
    from_ms: int
    seq: int = 0
    clicks: int = 0
    appended_since: int = 0

    def apply(self, rows: Sequence[CountedClick]) -> None:
        """Count logged clicks again, in the order of their seq."""
        restored = self.counter.restore([row.click for row in rows], [row.seq for row in rows])
        if any(restored.reason):  # somebody else writes into the same set: it holds less than was read
            raise errors.LostCounters(
                f"counter epoch {self.epoch}: expected to be the only one who rebuilds {self.prefix}"
            )
        self.seq, self.clicks = rows[-1].seq, self.clicks + len(rows)
        # What is counted after these is at most so much older.
        clock_ms = max(row.click.event_time_ms for row in rows)
        self.from_ms = max(self.from_ms, clock_ms - feature_spec.LATE_MS)
        self.appended_since += sum(row.log_position > self.begun_position for row in rows)


def warm(
    conn: database.Connection, client: redis.Redis, actor: str, *, stopping: Callable[[], bool] = lambda: False,
    duty: float = 0.5,
) -> bool:  # fmt: skip
    """Rebuild partial counters in the other set and have it take over; whether it did.

    Nothing is done where the counters hold all that the log does, or another connection is at it. `duty` is the share
    of its time that it works. Raises Unavailable, LostCounters, and Conflict when a newer release took the set.
    """
    with _alone(conn) as alone:
        epoch, prefix = deployments.current_counter_epoch(conn), counter_epochs.live_prefix(client)
        if not alone or epoch not in warmth.read(conn).since_ms:
            return False
        began, building = time.monotonic(), _begin(conn, client, epoch, counter_epochs.other_prefix(prefix))
        logger.warning("counters warming counter_epoch=%d", epoch)
        for _ in range(PASSES_MAX):
            before = building.clicks
            _catch_up(conn, building, stopping, duty)
            if stopping():
                return False
            if building.clicks - before <= TAIL_CLICKS_MAX:
                break
        with counter_epochs.settling(conn):
            if (deployments.current_counter_epoch(conn), counter_epochs.live_prefix(client)) != (epoch, prefix):
                return False
            took_over = _take_over(conn, client, building, epoch, began, actor)
        counters.forget(client, prefix if took_over else building.prefix)
        return took_over


def _begin(conn: database.Connection, client: redis.Redis, epoch: int, prefix: str) -> _Building:
    counters.forget(client, prefix)
    counters.open_epoch(client, epoch + 1, prefix=prefix)
    counter = counters.FeatureCounter(client, epoch + 1, prefix)
    begun_position = log.head(conn).position  # before the window: what is read first is all that was there by then
    return _Building(counter, prefix, epoch + 1, begun_position, counter_epochs.logged(conn).window_ms)


def _catch_up(conn: database.Connection, building: _Building, stopping: Callable[[], bool], duty: float) -> None:
    """Apply the logged clicks that can be put in order while others are being appended."""
    rows_of = counted_clicks.in_seq_order(conn, after=building.seq, from_ms=building.from_ms, to_end=False)
    for rows in rows_of:
        for start in range(0, len(rows), STEP_CLICKS):
            if stopping():
                return
            began = time.monotonic()
            building.apply(rows[start : start + STEP_CLICKS])
            time.sleep((time.monotonic() - began) * (1 / duty - 1))


def _take_over(
    conn: database.Connection, client: redis.Redis, building: _Building, epoch: int, began: float, actor: str
) -> bool:
    """Shut out appends counted on the first set, count the last clicks on the second, and let it count."""
    evidence = {
        "kept": {"counter_epoch": epoch}, "kept_used": False, "since_ms": None,
        "feature_schema": feature_spec.SCHEMA_VERSION,
    }  # fmt: skip
    opened = deployments.begin_counter_epoch(conn, evidence, actor, "all windows rebuilt beside the traffic")
    if opened != building.epoch:
        raise errors.InvariantBroken(f"expected counter epoch {building.epoch} to be the next, got {opened}")
    end = counter_epochs.logged(conn)
    for rows in counted_clicks.in_seq_order(conn, after=building.seq, from_ms=building.from_ms):
        building.apply(rows)
    if not _holds_all(conn, building):
        logger.error("counters not warm: clicks were appended too late for their place; it is begun again")
        return False
    counters.open_epoch(client, opened, end.seq, end.clock_ms, building.prefix)
    client.set(counter_epochs.PREFIX_KEY, building.prefix)
    counter_epochs.record_recounted(conn, opened, 0, Logged(end.seq, end.clock_ms), building.clicks, began, actor)
    return True


def _holds_all(conn: database.Connection, building: _Building) -> bool:
    row = conn.execute(COUNT_SINCE, (building.begun_position,)).fetchone()
    return row is not None and row[0] == building.appended_since


@contextmanager
def _alone(conn: database.Connection) -> Iterator[bool]:
    row = conn.execute("SELECT pg_try_advisory_lock(%s)", (WARMING_LOCK,)).fetchone()
    alone = bool(row and row[0])
    try:
        yield alone
    finally:
        if alone and not conn.broken:
            conn.execute("SELECT pg_advisory_unlock(%s)", (WARMING_LOCK,))
