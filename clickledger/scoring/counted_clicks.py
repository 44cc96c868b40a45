"""The counted clicks of the log in the order of their seq, in bounded memory and without a long transaction.

Rows are read by click id, which is by event time and off an index, and put into order here: sorting a day of them on
the server would write it to disk first. A counted click is at most `LATE_MS` older than the counting clock, so every
click with a smaller seq than one of event time t has an event time of t + LATE_MS at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from clickledger.ledger import database, log
from clickledger.scoring import feature_spec
from clickledger.scoring.click import Click

FETCH_ROWS = 20_000
STRETCH_MS = 24 * feature_spec.HOUR_MS  # looked at by one statement, which locks the days it may touch
SELECT_COUNTED = """
    SELECT click_id, source, external_id, user_key, session_key, ip_key, device, device_kind, advertiser_id,
           campaign_id, cost_micros, currency, logged_in, slice, intake_digest,
           seq, log_position, counter_epoch, feature_schema, features
    FROM clicks
    WHERE seq > %(after)s AND log_position <= %(up_to)s AND click_id > %(beyond)s AND click_id <= %(last)s
    ORDER BY click_id LIMIT %(rows)s"""
SELECT_NEXT = """
    SELECT click_id FROM clicks WHERE seq > 0 AND click_id > %s AND click_id <= %s ORDER BY click_id LIMIT 1"""
END_MS = (1 << 48) - 1  # after the last event time there may be
_TIME_BITS = 80  # of an id, behind its 48 bits of time


class CountedClick(NamedTuple):
    """A click as it was counted."""

    click: Click
    seq: int
    log_position: int
    counter_epoch: int
    feature_schema: int
    features: bytes  # its snapshot as stored


def in_seq_order(
    conn: database.Connection, *, after: int = 0, from_ms: int = 0, to_ms: int = END_MS, to_end: bool = True,
    up_to_position: int = log.NO_LIMIT,
) -> Iterator[list[CountedClick]]:  # fmt: skip
    """The counted clicks with a seq above `after` and an event time in [from_ms, to_ms), in growing order of seq.

    Without `to_end` the last ones are left out, between which clicks may still come whose append is under way. Whoever
    reads while others append, and has no fence, bounds it by an `up_to_position` that exists.
    """
    held: list[CountedClick] = []
    for page in _pages(conn, {"after": after, "up_to": up_to_position, "rows": FETCH_ROWS}, from_ms, to_ms):
        held += page
        horizon_ms = page[-1].click.event_time_ms - feature_spec.LATE_MS
        # Whatever is counted before one of these was read already.
        last = max((row.seq for row in held if row.click.event_time_ms < horizon_ms), default=0)
        if last:
            yield sorted((row for row in held if row.seq <= last), key=_seq)
            held = [row for row in held if row.seq > last]
    if held and to_end:
        yield sorted(held, key=_seq)


def _pages(conn: database.Connection, bounds: dict[str, int], from_ms: int, to_ms: int) -> Iterator[list[CountedClick]]:
    """Rows by click id, a statement for each page: the server ends whoever thinks for long within a transaction."""
    beyond, end = _last_before(from_ms), _last_before(to_ms)
    while (start := _next(conn, beyond, end)) is not None:
        last = min(end, _last_before((start.int >> _TIME_BITS) + STRETCH_MS))
        full = True
        while full:
            rows = _rows(conn, {**bounds, "beyond": beyond, "last": last})
            if rows:
                yield [_counted(row) for row in rows]
            full = len(rows) == bounds["rows"]
            beyond = rows[-1][0] if full else last


def _last_before(moment_ms: int) -> UUID:
    """The greatest id of an event time before `moment_ms`."""
    return UUID(int=max(0, (moment_ms << _TIME_BITS) - 1))


def _next(conn: database.Connection, beyond: UUID, end: UUID) -> UUID | None:
    row = conn.execute(SELECT_NEXT, (beyond, end), prepare=False).fetchone()
    return None if row is None else row[0]


def _rows(conn: database.Connection, bounds: dict[str, Any]) -> Sequence[tuple[Any, ...]]:
    with conn.cursor(binary=True) as cursor:
        return cursor.execute(SELECT_COUNTED, bounds, prepare=False).fetchall()


def _counted(row: tuple[Any, ...]) -> CountedClick:
    values: list[Any] = [value.bytes if isinstance(value, UUID) else value for value in row]
    click_id, source, external_id, *rest = values
    click = Click(click_id, source, external_id, int.from_bytes(click_id[:6], "big"), *rest[:12])
    seq, position, epoch, schema, features = rest[12:]
    return CountedClick(click, seq, position, epoch, schema, bytes(features))


def _seq(row: CountedClick) -> int:
    return row.seq
