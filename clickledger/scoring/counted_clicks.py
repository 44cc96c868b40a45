"""The counted clicks of the log in the order of their seq, in bounded memory.

Rows are read by click id, which is by event time and off an index, and put into order here: sorting a day of them on
the server would write it to disk first. A counted click is at most `LATE_MS` older than the counting clock, so every
click with a smaller seq than one of event time t has an event time of t + LATE_MS at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID

from clickledger.ledger import database
from clickledger.scoring import feature_spec
from clickledger.scoring.click import Click

FETCH_ROWS = 20_000
SELECT_COUNTED = """
    SELECT click_id, source, external_id, user_key, session_key, ip_key, device, device_kind, advertiser_id,
           campaign_id, cost_micros, currency, logged_in, slice, intake_digest,
           seq, log_position, counter_epoch, feature_schema, features
    FROM clicks
    WHERE seq > %(after)s AND click_id >= smallest_click_id(%(from_ms)s) AND click_id < smallest_click_id(%(to_ms)s)
    ORDER BY click_id"""
END_MS = (1 << 48) - 1  # after the last event time there may be


class CountedClick(NamedTuple):
    """A click as it was counted."""

    click: Click
    seq: int
    log_position: int
    counter_epoch: int
    feature_schema: int
    features: bytes  # its snapshot as stored


def in_seq_order(
    conn: database.Connection, *, after: int = 0, from_ms: int = 0, to_ms: int = END_MS, to_end: bool = True
) -> Iterator[list[CountedClick]]:
    """The counted clicks with a seq above `after` and an event time in [from_ms, to_ms), in growing order of seq.

    Without `to_end` the last ones are left out, between which clicks may still come whose append is under way.
    """
    held: list[CountedClick] = []
    for page in _pages(conn, {"after": after, "from_ms": max(from_ms, 0), "to_ms": to_ms}):
        held += page
        horizon_ms = page[-1].click.event_time_ms - feature_spec.LATE_MS
        # Whatever is counted before one of these was read already.
        last = max((row.seq for row in held if row.click.event_time_ms < horizon_ms), default=0)
        if last:
            yield sorted((row for row in held if row.seq <= last), key=_seq)
            held = [row for row in held if row.seq > last]
    if held and to_end:
        yield sorted(held, key=_seq)


def _pages(conn: database.Connection, bounds: dict[str, int]) -> Iterator[list[CountedClick]]:
    with conn.transaction(), conn.cursor(name="counted_clicks", binary=True) as cursor:
        cursor.execute(SELECT_COUNTED, bounds)
        while rows := cursor.fetchmany(FETCH_ROWS):
            yield [_counted(row) for row in rows]


def _counted(row: tuple[Any, ...]) -> CountedClick:
    values: list[Any] = [value.bytes if isinstance(value, UUID) else value for value in row]
    click_id, source, external_id, *rest = values
    click = Click(click_id, source, external_id, int.from_bytes(click_id[:6], "big"), *rest[:12])
    seq, position, epoch, schema, features = rest[12:]
    return CountedClick(click, seq, position, epoch, schema, bytes(features))


def _seq(row: CountedClick) -> int:
    return row.seq
