"""Whether the counters may be trusted, and their way back when not: the restart protocol.

Invariants:
- before its first count on a connection, and whenever counts are refused, a worker calls `settle`; one does so at a
  time, and nobody counts under a new counter epoch before its counters are restored;
- counters are adopted without a new epoch only if they hold every logged count and nobody else could have an append
  under way: an append counted on what was lost must be refused, and only a new epoch does that;
- restored counters go on above any number ever issued in the ledger.

The server's run id is kept beside the counters. It changes with every restart, after which the tail may be missing even
though the last number looks right (the other end of the tail could still be on its way into the ledger).

Counting stands still meanwhile. If more clicks would have to be counted again than `at_once_max`, those of the last
`QUICK_WINDOW_MS` are, which fills the windows of an hour, and snapshots are cold (`warmth`) until `counter_warming`
has rebuilt all windows beside the traffic. Counters of an older feature schema are rebuilt in the other set, so that
nothing of two schemas is ever in one; those of a newer schema are left alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import redis

from clickledger import errors
from clickledger.ledger import database, deployments, log
from clickledger.scoring import counted_clicks, counters, feature_spec, warmth
from clickledger.scoring.counters import CounterState

logger = logging.getLogger(__name__)

OWNER_KEY = "cl:counters:owner"  # "ledger id/run id of the server"
PREFIX_KEY = "cl:counters:prefix"  # of the set that counts; the first one where nothing was ever rebuilt beside it
SETTLING_LOCK = 7163956285231296106
COUNTING_LOCK = 7163956285231296107
AT_ONCE_MAX = 200_000  # some ten seconds
QUICK_WINDOW_MS = feature_spec.RING_SLOTS * feature_spec.RING_1H_MS
SELECT_CLOCK = "SELECT click_time_ms(click_id) FROM clicks WHERE seq > 0 ORDER BY click_id DESC LIMIT 1"
SELECT_LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM clicks WHERE click_id >= smallest_click_id(%s)"
COUNT_AFTER = """
    SELECT count(*) FROM (SELECT FROM clicks WHERE seq > %s AND click_id >= smallest_click_id(%s) LIMIT %s) AS few"""


class Counting(NamedTuple):
    """Where and under what to count. `partial`: the counters hold less than the log, and can be rebuilt."""

    epoch: int
    prefix: str
    partial: bool


class Logged(NamedTuple):
    """The end of what the ledger knows to be counted: last number and counting clock."""

    seq: int
    clock_ms: int

    @property
    def window_ms(self) -> int:
        """Event time before which no click can change a feature any more."""
        return max(0, self.clock_ms - feature_spec.LONGEST_WINDOW_MS - feature_spec.LATE_MS)


class _Found(NamedTuple):
    """Counters to go on from, None where they are to be made anew, and since when they hold the log's clicks."""

    kept: CounterState | None
    since_ms: int | None

    def from_ms(self, end: Logged) -> int:
        """The least event time of a click that is to be counted again."""
        kept_ms = 0 if self.kept is None else self.kept.clock_ms - feature_spec.LATE_MS
        return max(end.window_ms, self.since_ms or 0, kept_ms)


def settle(conn: database.Connection, client: redis.Redis, actor: str, at_once_max: int = AT_ONCE_MAX) -> Counting:
    """Where to count, once the counters hold what the ledger says was counted, or at least the last hour of it.

    From then on `conn`, which must be the one that appends, is known as one whose appends may be under way. Raises
    Refused when the counters are another ledger's, or those of a newer release.
    """
    with settling(conn):
        epoch, prefix = _settled(conn, client, actor, at_once_max)
        conn.execute("SELECT pg_advisory_lock_shared(%s)", (COUNTING_LOCK,))
        return Counting(epoch, prefix, epoch in warmth.read(conn).since_ms)


def live_prefix(client: redis.Redis) -> str:
    """The prefix of the set that counts."""
    known = cast(bytes | None, client.get(PREFIX_KEY))
    return counters.PREFIXES[0] if known is None else known.decode()


def other_prefix(prefix: str) -> str:
    """The prefix of the set that does not."""
    first, second = counters.PREFIXES
    return second if prefix == first else first


def _settled(conn: database.Connection, client: redis.Redis, actor: str, at_once_max: int) -> tuple[int, str]:
    owner = _owner(conn, client)
    known = cast(bytes | None, client.get(OWNER_KEY))
    _refuse_strangers(known, owner)
    epoch, prefix = deployments.current_counter_epoch(conn), live_prefix(client)
    kept = counters.state(client, prefix)
    _refuse_newer(kept)
    if kept is not None and _fits(kept, epoch) and known == owner.encode():
        counters.load_library(client)
        return epoch, prefix
    with _nobody_else_counts(conn) as alone:
        if alone and _is_complete(kept, epoch, logged(conn)):
            counters.open_epoch(client, epoch, prefix=prefix)
        else:
            # Nobody's run until they are restored: whoever comes after a crash in between must not adopt a part.
            client.set(OWNER_KEY, owner.partition("/")[0])
            epoch, prefix = _restore(conn, client, prefix, epoch, actor, at_once_max)
    client.set(OWNER_KEY, owner)
    return epoch, prefix


def _owner(conn: database.Connection, client: redis.Redis) -> str:
    run_id = client.info("server")["run_id"]
    return f"{log.entry(conn, 1).payload['ledger_id']}/{run_id}"


def _refuse_strangers(known: bytes | None, owner: str) -> None:
    ledger, theirs = owner.partition("/")[0], (known or b"").decode().partition("/")[0]
    if theirs and theirs != ledger:
        raise errors.Refused(
            f"expected counters of ledger {ledger}, got those of {theirs}: give it a Valkey of its own"
        )


def _refuse_newer(kept: CounterState | None) -> None:
    if kept is not None and kept.schema > feature_spec.SCHEMA_VERSION:
        raise errors.Refused(
            f"counters of feature schema {kept.schema} are in force, expected {feature_spec.SCHEMA_VERSION} at most: "
            "start the release that counts them"
        )


def _fits(kept: CounterState, epoch: int) -> bool:
    return kept.counter_epoch == epoch and kept.schema == feature_spec.SCHEMA_VERSION


def _is_complete(kept: CounterState | None, epoch: int, end: Logged) -> bool:
    if kept is None:
        return end.seq == 0
    return _fits(kept, epoch) and kept.seq >= end.seq


def _restore(
    conn: database.Connection, client: redis.Redis, prefix: str, epoch: int, actor: str, at_once_max: int
) -> tuple[int, str]:
    began = time.monotonic()
    kept = counters.state(client, prefix)
    found = _usable(conn, kept, epoch, at_once_max)
    if kept is not None and kept.schema != feature_spec.SCHEMA_VERSION:
        prefix = other_prefix(prefix)  # an older release may count on in its own until its appends are refused
    if found.kept is None:
        counters.forget(client, prefix)
    epoch = deployments.begin_counter_epoch(conn, _evidence(kept, found), actor, _reason(kept))
    logger.warning("counters restoring counter_epoch=%d kept=%s since_ms=%s", epoch, found.kept, found.since_ms)
    kept_seq = counters.open_epoch(client, epoch, prefix=prefix).seq
    end = logged(conn)  # now, after appends of earlier epochs were shut out
    counter = counters.FeatureCounter(client, epoch, prefix)
    restored = count_again(conn, counter, kept_seq, found.from_ms(end))
    counters.open_epoch(client, epoch, end.seq, end.clock_ms, prefix)
    client.set(PREFIX_KEY, prefix)
    record_recounted(conn, epoch, kept_seq, end, restored, began, actor)
    return epoch, prefix


def _usable(conn: database.Connection, kept: CounterState | None, epoch: int, at_once_max: int) -> _Found:
    """What to go on from: kept counters, nothing, or nothing and the last hour only where all would take too long."""
    end = logged(conn)
    if kept is not None and (kept.schema != feature_spec.SCHEMA_VERSION or kept.counter_epoch > epoch):
        kept = None  # a later epoch: the ledger was set back to an earlier state, and they hold clicks it does not know
    since_ms = None if kept is None else warmth.read(conn).since_ms.get(kept.counter_epoch)
    found, after = _Found(kept, since_ms), 0 if kept is None else kept.seq
    row = conn.execute(COUNT_AFTER, (after, found.from_ms(end), at_once_max + 1)).fetchone()
    if row and row[0] > at_once_max:
        return _Found(None, max(0, end.clock_ms - QUICK_WINDOW_MS - feature_spec.LATE_MS))
    return found


def _evidence(kept: CounterState | None, found: _Found) -> dict[str, Any]:
    told = None if kept is None else {"counter_epoch": kept.counter_epoch, "seq": kept.seq, "schema": kept.schema}
    return {
        "kept": told,
        "kept_used": found.kept is not None,
        "since_ms": found.since_ms,
        "feature_schema": feature_spec.SCHEMA_VERSION,
    }


def _reason(kept: CounterState | None) -> str:
    if kept is not None and kept.schema != feature_spec.SCHEMA_VERSION:
        return f"counters of feature schema {kept.schema} counted again under {feature_spec.SCHEMA_VERSION}"
    return "counters lost or behind the ledger"


def logged(conn: database.Connection) -> Logged:
    """A counted click is at most LATE_MS older than the counting clock: the last number is among the newest clicks."""
    row = conn.execute(SELECT_CLOCK).fetchone()
    if row is None:
        return Logged(0, 0)
    clock_ms = int(row[0])
    last = conn.execute(SELECT_LAST_SEQ, (clock_ms - feature_spec.LATE_MS,)).fetchone()
    return Logged(int(last[0]) if last else 0, clock_ms)


def count_again(conn: database.Connection, counter: counters.FeatureCounter, after: int, from_ms: int) -> int:
    """Apply the logged clicks after `after` of event time `from_ms` or later; how many they were."""
    restored = 0
    for rows in counted_clicks.in_seq_order(conn, after=after, from_ms=from_ms):
        counter.restore([row.click for row in rows], [row.seq for row in rows])
        restored += len(rows)
    return restored


def record_recounted(
    conn: database.Connection, epoch: int, after: int, end: Logged, clicks: int, began: float, actor: str
) -> None:
    """The evidence of a restore that is done: how many logged clicks were counted again, and up to which."""
    payload = {
        "counter_epoch": epoch, "clicks": clicks, "after_seq": after, "up_to_seq": end.seq, "clock_ms": end.clock_ms,
        "ms": round((time.monotonic() - began) * 1000),
    }  # fmt: skip
    log.record(conn, "counters_recounted", payload, actor)
    logger.warning("counters restored counter_epoch=%d clicks=%d seq=%d", epoch, clicks, end.seq)


@contextmanager
def settling(conn: database.Connection) -> Iterator[None]:
    """One worker at a time; the lock goes with the connection."""
    conn.execute("SELECT pg_advisory_lock(%s)", (SETTLING_LOCK,))
    try:
        yield
    finally:
        if not conn.broken:
            conn.execute("SELECT pg_advisory_unlock(%s)", (SETTLING_LOCK,))


@contextmanager
def _nobody_else_counts(conn: database.Connection) -> Iterator[bool]:
    """Whether no other connection counts and appends. A killed worker's still does while its last append runs."""
    row = conn.execute("SELECT pg_try_advisory_lock(%s)", (COUNTING_LOCK,)).fetchone()
    alone = bool(row and row[0])
    try:
        yield alone
    finally:
        if alone and not conn.broken:
            conn.execute("SELECT pg_advisory_unlock(%s)", (COUNTING_LOCK,))
