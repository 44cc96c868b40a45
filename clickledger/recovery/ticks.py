"""What detection looks at, from the ledger: clicks and users of each tick, slice and model, made once and kept.

A tick that is over, and whose shadow scores have had time to be written, is folded into `signal_ticks`; the newest
clicks are read from the ledger at each look. A live model is paired with the stable one of its deployment, not with
candidates in shadow. Both by one statement, so a look sees every click once, and two detectors
that see the same log and the same known customers see the same thing.

A user counts once a tick and slice, however often they click: disagreements of one user do not come one by one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from clickledger.ledger import database
from clickledger.scoring import feature_spec
from clickledger.scoring.judged import SESSION_CLICKS_MAX
from clickledger.scoring.labels import DEFAULT_RFM

STEP_CLICKS = 100_000  # of one statement, 0.6 s
FOLD_SECONDS = 10.0  # then a look judges what it has; after an import the next ones catch up
SETTLE_SECONDS = 1.0  # shadow scores are written after the append, without waiting
LAG_MS = 60_000  # clicks recorded later than this after they happened are lagging
SCORE_EDGES = (-8, -6, -5, -4, -3, -2, -1, 0, 1, 2, 4, 8)  # logits between the bins of the histogram

COUNTS = (
    "clicks", "invalid", "undecided", "incomplete", "lagging", "hot", "hot_invalid", "loyal", "loyal_invalid", "scores",
    "paired", "withheld", "released", "known", "known_withheld", "known_released", "hot_paired", "hot_withheld",
    "hot_released",
)  # fmt: skip
COLUMNS = ("at", "deployment_epoch", "model_version", "slice", "first_position", "last_position", *COUNTS)

_OFFSET = 4 * feature_spec.INDEX["user_session_clicks_1h"]
# Low byte first, and none of a user's 32 recent events needs a second one. Every layout begins as the first one.
HOT = (
    f"c.feature_schema IN ({', '.join(map(str, feature_spec.SCHEMAS))}) "
    f"AND get_byte(c.features, {_OFFSET}) > {SESSION_CLICKS_MAX} AND get_byte(c.features, {_OFFSET + 3}) = 0"
)
EDGES = f"'{{{{{','.join(map(str, SCORE_EDGES))}}}}}'::real[]"
BINS = ", ".join(f"count(*) FILTER (WHERE bin = {n})" for n in range(len(SCORE_EDGES) + 1))
# Ranges are literals: the planner cannot estimate a block-range index otherwise. 1 in `standing` is a known customer,
# 2 a loyal one.
SELECT_TICKS = f"""
    WITH entries AS MATERIALIZED (
        SELECT position, recorded_at,
               to_timestamp(floor(extract(epoch FROM recorded_at) / {{tick_seconds}}) * {{tick_seconds}}) AS at
        FROM log WHERE position >= {{lo}} AND position < {{hi}} AND kind = 'clicks_decided'),
    stable AS MATERIALIZED (
        SELECT epoch, (routing::jsonb #>> '{{{{shadow,model}}}}')::integer AS model,
               (routing::jsonb #>> '{{{{shadow,calibration}}}}')::integer AS calibration
        FROM deployments),
    seen AS MATERIALIZED (
        SELECT e.at, d.deployment_epoch, d.model_version, d.slice, c.user_key, e.position,
               d.verdict = 'invalid' AS invalid, d.verdict = 'undecided' AS undecided,
               c.logged_in IS NULL AS incomplete,
               extract(epoch FROM e.recorded_at) * 1000 - click_time_ms(d.click_id) > {LAG_MS} AS lagging,
               {HOT} AS hot,
               CASE WHEN d.verdict <> 'undecided' THEN width_bucket(d.score, {EDGES}) END AS bin,
               s.click_id IS NOT NULL AS paired,
               s.live_verdict = 'invalid' AND s.verdict = 'valid' AS withheld,
               s.live_verdict = 'valid' AND s.verdict = 'invalid' AS released,
               coalesce((SELECT CASE WHEN k.purchased_at_ms > click_time_ms(d.click_id) - {{age_ms}} THEN 0
                                     WHEN k.purchases >= {DEFAULT_RFM.outcomes_min} THEN 2 ELSE 1 END
                         FROM known_customers k WHERE k.user_key = c.user_key), 0) AS standing
        FROM decisions d
        JOIN entries e ON e.position = d.log_position
        JOIN clicks c ON c.click_id = d.click_id AND c.log_position >= {{lo}} AND c.log_position < {{hi}}
        LEFT JOIN stable ON stable.epoch = d.deployment_epoch AND stable.model <> d.model_version
        LEFT JOIN shadow_scores s ON s.click_id = d.click_id AND s.log_position >= {{lo}} AND s.log_position < {{hi}}
             AND s.model_version = stable.model AND s.calibration_version = stable.calibration
        WHERE d.log_position >= {{lo}} AND d.log_position < {{hi}}),
    users AS MATERIALIZED (
        SELECT at, deployment_epoch, model_version, slice, bool_or(withheld) AS withheld, bool_or(released) AS released,
               max(standing) > 0 AS known, bool_or(hot) AS hot
        FROM seen WHERE paired GROUP BY 1, 2, 3, 4, user_key),
    of_clicks AS (
        SELECT at, deployment_epoch, model_version, slice, min(position) AS first_position,
               max(position) AS last_position, count(*) AS clicks, count(*) FILTER (WHERE invalid) AS invalid,
               count(*) FILTER (WHERE undecided) AS undecided, count(*) FILTER (WHERE incomplete) AS incomplete,
               count(*) FILTER (WHERE lagging) AS lagging, count(*) FILTER (WHERE hot) AS hot,
               count(*) FILTER (WHERE hot AND invalid) AS hot_invalid, count(*) FILTER (WHERE standing = 2) AS loyal,
               count(*) FILTER (WHERE standing = 2 AND invalid) AS loyal_invalid, ARRAY[{BINS}] AS scores
        FROM seen GROUP BY 1, 2, 3, 4),
    of_users AS (
        SELECT at, deployment_epoch, model_version, slice, count(*) AS paired,
               count(*) FILTER (WHERE withheld) AS withheld, count(*) FILTER (WHERE released) AS released,
               count(*) FILTER (WHERE known) AS known, count(*) FILTER (WHERE known AND withheld) AS known_withheld,
               count(*) FILTER (WHERE known AND released) AS known_released, count(*) FILTER (WHERE hot) AS hot_paired,
               count(*) FILTER (WHERE hot AND withheld) AS hot_withheld,
               count(*) FILTER (WHERE hot AND released) AS hot_released
        FROM users GROUP BY 1, 2, 3, 4)
    SELECT at, deployment_epoch, model_version, slice, first_position, last_position, clicks, invalid, undecided,
           incomplete, lagging, hot, hot_invalid, loyal, loyal_invalid, scores,
           {", ".join(f"coalesce({name}, 0)" for name in COUNTS[COUNTS.index("paired") :])}
    FROM of_clicks LEFT JOIN of_users USING (at, deployment_epoch, model_version, slice)"""
INSERT_TICKS = f"INSERT INTO signal_ticks ({', '.join(COLUMNS)})"
# Fresh tables have no statistics: left alone, the planner probes three indexes for each click or sorts on disk.
PINNED = (
    "SET LOCAL work_mem = '64MB'",
    "SET LOCAL enable_nestloop = off",
    "SET LOCAL enable_mergejoin = off",
    "SET LOCAL enable_sort = off",
    "SET LOCAL enable_seqscan = off",
)
# Entries of the ticks that are over, up to a number of clicks: position, tick, clicks up to there.
SELECT_SETTLED = """
    SELECT position, floor(extract(epoch FROM recorded_at) / %(tick)s)::bigint, (before + row_count)::bigint FROM (
        SELECT position, recorded_at, row_count, sum(row_count) OVER (ORDER BY position) - row_count AS before FROM (
            SELECT position, recorded_at, row_count FROM log
            WHERE kind = 'clicks_decided' AND position > %(upto)s ORDER BY position LIMIT %(clicks)s) next) counted
    WHERE before < %(clicks)s
      AND floor(extract(epoch FROM recorded_at) / %(tick)s)
          < floor((extract(epoch FROM clock_timestamp()) - %(settle)s) / %(tick)s)
    ORDER BY position"""
SELECT_KEPT = f"""
    SELECT {", ".join(COLUMNS)} FROM signal_ticks
    WHERE deployment_epoch = ANY (%s) AND first_position > %s AND at > clock_timestamp() - make_interval(secs => %s)"""
DELETE_OLD = "DELETE FROM signal_ticks WHERE at < clock_timestamp() - make_interval(days => %s)"
DAYS_KEPT = 36  # four weeks behind each hour, and some


class Rules(NamedTuple):
    """What ticks are made by: their length, and how old a purchase must be to vouch for its account."""

    tick_seconds: float
    purchase_age_seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """Counts of one tick of one epoch, model and slice, by the columns of `signal_ticks`."""

    at: float  # Unix time, seconds
    deployment_epoch: int
    model_version: int
    slice: str
    first_position: int
    last_position: int
    counts: dict[str, Any]


def fold(conn: database.Connection, rules: Rules) -> tuple[int, bool]:
    """Fold the ticks that are over, for `FOLD_SECONDS` at most.

    The position up to which clicks are folded, and whether more that are over are left.
    """
    deadline = time.monotonic() + FOLD_SECONDS
    while True:
        upto, more = _fold_step(conn, rules)
        if not more or time.monotonic() > deadline:
            return upto, more


def _fold_step(conn: database.Connection, rules: Rules) -> tuple[int, bool]:
    with conn.transaction():
        row = conn.execute("SELECT position FROM signal_ticks_upto FOR UPDATE").fetchone()
        upto = int(row[0]) if row else 0
        wanted = {
            "upto": upto, "clicks": STEP_CLICKS, "tick": float(rules.tick_seconds), "settle": SETTLE_SECONDS
        }  # fmt: skip
        entries = conn.execute(SELECT_SETTLED, wanted).fetchall()
        if not entries:
            return upto, False
        reached = _whole_ticks(entries)
        _pin(conn)
        conn.execute(f"{INSERT_TICKS} {_query(upto + 1, reached + 1, rules)}".encode(), prepare=False)
        conn.execute("UPDATE signal_ticks_upto SET position = %s", (reached,))
        return reached, entries[-1][2] >= STEP_CLICKS


def _whole_ticks(entries: list[tuple[int, int, int]]) -> int:
    """Where a step ends: if it is full, before the tick that it may leave unfinished, unless that is the only one."""
    last, last_tick, clicks = entries[-1]
    earlier = [position for position, tick, _ in entries if tick < last_tick]
    return earlier[-1] if clicks >= STEP_CLICKS and earlier else last


def between(conn: database.Connection, lo: int, hi: int, rules: Rules) -> list[Row]:
    """The ticks of log positions [lo, hi), from the ledger."""
    if hi <= lo:
        return []
    with conn.transaction():
        _pin(conn)
        return _rows(conn.execute(_query(lo, hi, rules).encode(), prepare=False))


def kept(conn: database.Connection, epochs: Sequence[int], after: int, seconds: float) -> list[Row]:
    """Folded ticks of some epochs that began after a position, of the last `seconds`."""
    return _rows(conn.execute(SELECT_KEPT, (list(epochs), after, seconds)))


def forget_old(conn: database.Connection) -> None:
    """Delete the ticks that no baseline reads any more. For the owner."""
    conn.execute(DELETE_OLD, (DAYS_KEPT,))


def _pin(conn: database.Connection) -> None:
    for pin in PINNED:
        conn.execute(pin)


def _query(lo: int, hi: int, rules: Rules) -> str:
    return SELECT_TICKS.format(
        lo=int(lo),
        hi=int(hi),
        tick_seconds=float(rules.tick_seconds),
        age_ms=round(rules.purchase_age_seconds * 1000),
    )


def _rows(found: Iterable[tuple[Any, ...]]) -> list[Row]:
    made = []
    for at, epoch, model, slice_, first, last, *counts in found:
        made.append(Row(at.timestamp(), epoch, model, slice_, first, last, dict(zip(COUNTS, counts, strict=True))))
    return made
