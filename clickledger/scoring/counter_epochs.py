"""Whether the counters may be trusted, and their way back when not: the restart protocol.

Invariants:
- before its first count on a connection, and whenever counts are refused, a worker calls `settle`; one does so at a
  time, and nobody counts under a new counter epoch before its counters are restored;
- counters are adopted without a new epoch only if they hold every logged count and nobody else could have an append
  under way: an append counted on what was lost must be refused, and only a new epoch does that;
- restored counters go on above any number ever issued in the ledger.

The server's run id is kept beside the counters. It changes with every restart, after which the tail may be missing even
though the last number looks right (the other end of the tail could still be on its way into the ledger).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast
from uuid import UUID

import redis

from clickledger import errors
from clickledger.ledger import database, deployments, log
from clickledger.scoring import counters, feature_spec
from clickledger.scoring.click import Click
from clickledger.scoring.counters import CounterState

logger = logging.getLogger(__name__)

OWNER_KEY = "cl:counters:owner"  # "ledger id/run id of the server"
SETTLING_LOCK = 7163956285231296106
COUNTING_LOCK = 7163956285231296107
RESTORE_ROWS = 4096
SELECT_CLOCK = "SELECT click_time_ms(click_id) FROM clicks WHERE seq > 0 ORDER BY click_id DESC LIMIT 1"
SELECT_LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM clicks WHERE click_id >= smallest_click_id(%s)"
SELECT_COUNTED = """
    SELECT click_id, source, external_id, click_time_ms(click_id), user_key, session_key, ip_key, device, device_kind,
           advertiser_id, campaign_id, cost_micros, currency, logged_in, slice, intake_digest, seq
    FROM clicks WHERE seq > %(after)s AND click_id >= smallest_click_id(%(from_ms)s) ORDER BY seq"""


class _Logged(NamedTuple):
    """The end of what the ledger knows to be counted: last number and counting clock."""

    seq: int
    clock_ms: int


def settle(conn: database.Connection, client: redis.Redis, actor: str) -> int:
    """The counter epoch to count under, once the counters hold what the ledger says was counted.

    From then on `conn`, which must be the one that appends, is known as one whose appends may be under way. Restores
    the clicks of the longest window where the counters were lost. Raises Refused when they are another ledger's.
    """
    with _locked(conn):
        epoch = _settled_epoch(conn, client, actor)
        conn.execute("SELECT pg_advisory_lock_shared(%s)", (COUNTING_LOCK,))
    return epoch


def _settled_epoch(conn: database.Connection, client: redis.Redis, actor: str) -> int:
    owner = _owner(conn, client)
    known = cast(bytes | None, client.get(OWNER_KEY))
    _refuse_strangers(known, owner)
    epoch, kept = deployments.current_counter_epoch(conn), counters.state(client)
    if kept is not None and kept.counter_epoch == epoch and known == owner.encode():
        counters.load_library(client)
        return epoch
    with _nobody_else_counts(conn) as alone:
        if alone and _is_complete(kept, epoch, _logged(conn)):
            counters.open_epoch(client, epoch)
        else:
            # Nobody's run until they are restored: whoever comes after a crash in between must not adopt a part.
            client.set(OWNER_KEY, owner.partition("/")[0])
            epoch = _restore(conn, client, kept, epoch, actor)
    client.set(OWNER_KEY, owner)
    return epoch


def _owner(conn: database.Connection, client: redis.Redis) -> str:
    run_id = client.info("server")["run_id"]
    return f"{log.entry(conn, 1).payload['ledger_id']}/{run_id}"


def _refuse_strangers(known: bytes | None, owner: str) -> None:
    ledger, theirs = owner.partition("/")[0], (known or b"").decode().partition("/")[0]
    if theirs and theirs != ledger:
        raise errors.Refused(
            f"expected counters of ledger {ledger}, got those of {theirs}: give it a Valkey of its own"
        )


def _is_complete(kept: CounterState | None, epoch: int, logged: _Logged) -> bool:
    if kept is None:
        return logged.seq == 0
    return kept.counter_epoch == epoch and kept.seq >= logged.seq


def _restore(conn: database.Connection, client: redis.Redis, kept: CounterState | None, epoch: int, actor: str) -> int:
    if kept is not None and kept.counter_epoch > epoch:
        # The ledger was set back to an earlier state: these counters hold clicks it does not know.
        _forget(client)
        kept = None
    found = None if kept is None else {"counter_epoch": kept.counter_epoch, "seq": kept.seq}
    epoch = deployments.begin_counter_epoch(conn, {"kept": found}, actor, "counters lost or behind the ledger")
    logger.warning("counters restoring counter_epoch=%d kept=%s", epoch, found)
    kept_seq = counters.open_epoch(client, epoch).seq
    logged = _logged(conn)  # now, after appends of earlier epochs were shut out
    restored = _count_again(conn, counters.FeatureCounter(client, epoch), kept_seq, logged)
    counters.open_epoch(client, epoch, logged.seq, logged.clock_ms)
    logger.warning("counters restored counter_epoch=%d clicks=%d seq=%d", epoch, restored, logged.seq)
    return epoch


def _logged(conn: database.Connection) -> _Logged:
    """A counted click is at most LATE_MS older than the counting clock: the last number is among the newest clicks."""
    row = conn.execute(SELECT_CLOCK).fetchone()
    if row is None:
        return _Logged(0, 0)
    clock_ms = int(row[0])
    last = conn.execute(SELECT_LAST_SEQ, (clock_ms - feature_spec.LATE_MS,)).fetchone()
    return _Logged(int(last[0]) if last else 0, clock_ms)


def _count_again(conn: database.Connection, counter: counters.FeatureCounter, after: int, logged: _Logged) -> int:
    """Apply the logged clicks after `after` that can still change a feature; how many they were."""
    from_ms = logged.clock_ms - feature_spec.LONGEST_WINDOW_MS - feature_spec.LATE_MS
    bounds = {"after": after, "from_ms": max(from_ms, 0)}
    restored = 0
    with conn.transaction(), conn.cursor(name="counted_clicks") as cursor:
        cursor.execute(SELECT_COUNTED, bounds)
        while rows := cursor.fetchmany(RESTORE_ROWS):
            counter.restore([_click(row) for row in rows], [row[-1] for row in rows])
            restored += len(rows)
    return restored


def _click(row: tuple[Any, ...]) -> Click:
    """A row of SELECT_COUNTED: the fields of a click in their order, then its seq."""
    fields: list[Any] = [value.bytes if isinstance(value, UUID) else value for value in row[:-1]]
    return Click(*fields)


def _forget(client: redis.Redis) -> None:
    for pattern in ("cl:state", "cl:seen:*", "cl:u:*", "cl:i:*"):
        for key in client.scan_iter(match=pattern, count=1000):
            client.unlink(key)


@contextmanager
def _locked(conn: database.Connection) -> Iterator[None]:
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
