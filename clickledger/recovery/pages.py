"""One look at rates beside the same hour of earlier weeks: pages recorded, and those that are over.

Pages are entries of the log, `signal_paged` and `signal_cleared`; which stand is their fold. They never act.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from clickledger.ledger import database, deployments, log
from clickledger.recovery import paging, ticks
from clickledger.recovery.paging import Minute, Reading, Standing

ALL = "*"
WINDOW_MINUTES = 180
WEEKS = 4
SCORES_MINUTES = 30
SCORES_BEFORE_MINUTES = 24 * 60
PAGED, CLEARED = "signal_paged", "signal_cleared"
KEYS = ("signal", "slice", "direction")
SUMMED = ("clicks", "invalid", "undecided", "incomplete", "lagging", "hot", "hot_invalid", "loyal", "loyal_invalid")
ARRIVED = "arrived"  # clicks, whoever decided them
# What a model decided that was rolled back is no baseline; that its clicks came is.
SELECT_MINUTES = f"""
    SELECT slice, floor(extract(epoch FROM at) / 60)::bigint, min(first_position), sum(clicks)::bigint,
           {", ".join(f"coalesce(sum({name}) FILTER (WHERE counted), 0)::bigint" for name in SUMMED)}
    FROM signal_ticks t CROSS JOIN LATERAL (
        SELECT %(revoked)s OR NOT EXISTS (
            SELECT FROM deployments d
            WHERE d.epoch = t.deployment_epoch AND d.revoked_position IS NOT NULL)) c (counted)
    WHERE at >= to_timestamp(%(since)s) AND at < to_timestamp(%(until)s)
    GROUP BY 1, 2 ORDER BY 2"""
SELECT_UNFOLDED = """
    SELECT extract(epoch FROM recorded_at) FROM log
    WHERE kind = 'clicks_decided' AND position > (SELECT position FROM signal_ticks_upto) ORDER BY position LIMIT 1"""
SELECT_SCORES = """
    SELECT bin, sum(of_bin)::bigint, min(first_position)
    FROM signal_ticks, unnest(scores) WITH ORDINALITY AS histogram (of_bin, bin)
    WHERE model_version = ANY (%(models)s) AND at >= to_timestamp(%(since)s) AND at < to_timestamp(%(until)s)
    GROUP BY 1"""

Minutes = dict[str, list[Minute]]  # by slice, all of them under `ALL`


def look(conn: database.Connection, now: float | None = None) -> list[Reading]:
    """Every signal over every slice, of the ticks that are folded; `now` is Unix time, the clock's by default."""
    moment = time.time() if now is None else now
    until = min(moment - 60, _folded_until(conn)) // 60 * 60  # what is not folded yet is no silence
    since = until - 60 * WINDOW_MINUTES
    earlier: Minutes = {}
    for week in range(1, WEEKS + 1):
        shift = week * 7 * 86_400
        hours = since // 3600 * 3600 - shift, (until // 3600 + 1) * 3600 - shift
        for name, minutes in _minutes(conn, *hours, revoked=False).items():
            earlier.setdefault(name, []).extend(minutes)
    current = _minutes(conn, since, until, revoked=True, names=earlier)  # a slice that fell silent as well
    return [*judge(current, earlier), *_scores(conn, until)]


def _folded_until(conn: database.Connection) -> float:
    """When the first clicks were recorded that no tick holds yet, Unix time; infinite where all of them are in one."""
    row = conn.execute(SELECT_UNFOLDED).fetchone()
    return math.inf if row is None else float(row[0])


def judge(current: Minutes, earlier: Minutes) -> list[Reading]:
    """Readings of shares and rates of each slice that there is a past of; pure."""
    found = []
    for name, minutes in current.items():
        by_hour: dict[int, list[Minute]] = {}
        for minute in earlier.get(name, ()):
            by_hour.setdefault(paging.hour_of_week(minute.at), []).append(minute)
        for share in paging.SHARES:
            hours = {hour: paging.baseline(past, share) for hour, past in by_hour.items()}
            found += paging.read_share(share, name, minutes, hours)
        clicks = {hour: [m.counts[ARRIVED] for m in past] for hour, past in by_hour.items()}
        found += paging.read_rate(name, minutes, clicks)
    return found


def page(conn: database.Connection, actor: str, now: float | None = None) -> list[Reading]:
    """Look, record what to page and what is over; the new pages."""
    moment = time.time() if now is None else now
    known = standing(conn)
    pages, over = paging.transitions(look(conn, moment), {key: state for key, (state, _) in known.items()}, moment)
    epoch = deployments.current(conn).epoch
    for reading in pages:
        log.record(conn, "signal_paged", _fields(conn, reading, epoch, moment), actor)
    for reading in over:
        log.record(conn, "signal_cleared", {"page": known[reading.key][1], "at": moment, **_key(reading)}, actor)
    return pages


def standing(conn: database.Connection) -> dict[tuple[str, str, str], tuple[Standing, int]]:
    """The newest page of each signal, slice and direction: its state, and the position of its entry."""
    found: dict[tuple[str, str, str], tuple[Standing, int]] = {}
    for entry in log.read(conn, kinds=[PAGED, CLEARED]):
        payload = entry.payload
        key = payload["signal"], payload["slice"], payload["direction"]
        position = entry.position if entry.kind == PAGED else int(payload["page"])
        found[key] = Standing(entry.kind == PAGED, float(payload["at"])), position
    return found


def _fields(conn: database.Connection, reading: Reading, epoch: int, moment: float) -> dict[str, Any]:
    numbers = {name: value for name, value in asdict(reading).items() if name not in KEYS}
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in numbers.items()}
    affected = [reading.onset_position, log.head(conn).position + 1]
    return {**_key(reading), **rounded, "at": moment, "deployment_epoch": epoch, "affected": affected}


def _key(reading: Reading) -> dict[str, str]:
    return dict(zip(KEYS, reading.key, strict=True))


def _minutes(
    conn: database.Connection, since: float, until: float, *, revoked: bool, names: Iterable[str] = ()
) -> Minutes:
    """Every minute of the stretch, of the slices that have clicks in it and of `names`; without clicks as well."""
    wanted = {"since": since, "until": until, "revoked": revoked}
    cells: dict[tuple[str, int], tuple[int, dict[str, int]]] = {}
    empty = dict.fromkeys((ARRIVED, *SUMMED), 0)
    for name, at, position, *counts in conn.execute(SELECT_MINUTES.encode(), wanted):
        made = dict(zip((ARRIVED, *SUMMED), counts, strict=True))
        cells[name, at] = position, made
        first, total = cells.get((ALL, at), (position, empty))
        cells[ALL, at] = min(first, position), {key: total[key] + made[key] for key in made}
    stretch = range(int(since // 60), int(until // 60))
    found: Minutes = {}
    for name in sorted({*names, *(name for name, _ in cells)}):
        position = 0
        for at in stretch:
            position, counts = cells.get((name, at), (position, empty))
            found.setdefault(name, []).append(Minute(at, position, counts))
    return found


def _scores(conn: database.Connection, until: float) -> list[Reading]:
    models = sorted(deployments.models_of(deployments.current(conn).routing))
    border = until - 60 * SCORES_MINUTES
    now, position = _histogram(conn, models, border, until)
    before, _ = _histogram(conn, models, border - 60 * SCORES_BEFORE_MINUTES, border)
    reading = paging.read_scores(now, before, position)
    return [] if reading is None else [reading]


def _histogram(conn: database.Connection, models: list[int], since: float, until: float) -> tuple[list[int], int]:
    sums, first = [0] * (len(ticks.SCORE_EDGES) + 1), 0
    for number, clicks, position in conn.execute(SELECT_SCORES, {"models": models, "since": since, "until": until}):
        sums[number - 1], first = clicks, position  # of every row the same: each holds all bins
    return sums, first
