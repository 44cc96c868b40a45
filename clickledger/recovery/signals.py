"""What detection looks at, read from the ledger: disagreements of live and shadow, tick by tick.

Nothing is kept between two looks: a look reads the newest clicks of the deployment, `WINDOW_CLICKS` at most, in log
order. A CUSUM may start anywhere, so what lies before the window only ever takes evidence away.

A user counts once a tick and slice, however often they click: disagreements of one user do not come one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from clickledger.ledger import database
from clickledger.recovery.detection import Tick
from clickledger.scoring.dataset import OUTCOME_KINDS

WINDOW_CLICKS = 100_000  # 0.3 s to read; a model that withholds 1% more people shows within a fifth of it
OUTCOME_ENTRIES_PER_STEP = 200  # of 5,000 outcomes at most

SELECT_WINDOW = """
    SELECT min(position), max(position) FROM (
        SELECT position, sum(row_count) OVER (ORDER BY position DESC) - row_count AS newer
        FROM (SELECT position, row_count FROM log WHERE kind = 'clicks_decided' AND position > %(after)s
              ORDER BY position DESC LIMIT %(clicks)s) newest) counted
    WHERE newer < %(clicks)s"""
# Ranges are literals: the planner cannot estimate a block-range index otherwise.
SELECT_DISAGREEMENTS = """
    WITH entries AS MATERIALIZED (
        SELECT position, floor(extract(epoch FROM recorded_at) / {tick_seconds})::bigint AS tick
        FROM log WHERE position >= {lo} AND position < {hi} AND kind = 'clicks_decided'),
    seen AS MATERIALIZED (
        SELECT d.model_version, d.slice, e.tick, c.user_key,
               bool_or(s.live_verdict = 'invalid' AND s.verdict = 'valid') AS withheld,
               bool_or(s.live_verdict = 'valid' AND s.verdict = 'invalid') AS released,
               coalesce(bool_or((SELECT k.purchased_at_ms <= click_time_ms(s.click_id) - {age_ms}
                                 FROM known_customers k WHERE k.user_key = c.user_key)), false) AS known
        FROM shadow_scores s
        JOIN entries e ON e.position = s.log_position
        JOIN decisions d ON d.click_id = s.click_id AND d.log_position >= {lo} AND d.log_position < {hi}
        JOIN clicks c ON c.click_id = s.click_id AND c.log_position >= {lo} AND c.log_position < {hi}
        WHERE s.log_position >= {lo} AND s.log_position < {hi} AND s.deployment_epoch IN ({epochs})
          AND s.model_version = {model} AND s.calibration_version = {calibration} AND d.model_version <> {model}
        GROUP BY 1, 2, 3, 4)
    SELECT model_version, slice, tick, count(*), count(*) FILTER (WHERE withheld), count(*) FILTER (WHERE released),
           count(*) FILTER (WHERE known), count(*) FILTER (WHERE known AND withheld),
           count(*) FILTER (WHERE known AND released)
    FROM seen GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""
# Fresh tables have no statistics: left alone, the planner probes three indexes for each click or sorts on disk.
PINNED = (
    "SET LOCAL work_mem = '64MB'",
    "SET LOCAL enable_nestloop = off",
    "SET LOCAL enable_mergejoin = off",
    "SET LOCAL enable_sort = off",
    "SET LOCAL enable_seqscan = off",
)
# The end of a step: its last entry of outcomes if it is full, else the newest entry.
NEXT_STEP = """
    SELECT CASE WHEN count(*) = %(entries)s THEN max(position) ELSE (SELECT max(position) FROM log) END FROM (
        SELECT position FROM log WHERE kind = 'outcomes_recorded' AND position > %(upto)s
        ORDER BY position LIMIT %(entries)s) step"""
# Whichever of a purchase and its click is recorded later brings the pair: feeds do not wait for each other. OFFSET 0
# makes new clicks look their outcomes up; the planner would rather join them with all outcomes there are.
FOLD_PURCHASES = """
    INSERT INTO known_customers
    SELECT user_key, min(occurred_at_ms) FROM (
        SELECT c.user_key, o.occurred_at_ms FROM outcomes o JOIN clicks c USING (click_id)
        WHERE o.log_position > {lo} AND o.log_position <= {hi} AND c.log_position <= {hi} AND o.kind = ANY (%(kinds)s)
        UNION ALL
        SELECT c.user_key, early.occurred_at_ms FROM clicks c CROSS JOIN LATERAL (
            SELECT o.occurred_at_ms FROM outcomes o
            WHERE o.click_id = c.click_id AND o.log_position <= {lo} AND o.kind = ANY (%(kinds)s) OFFSET 0) early
        WHERE c.log_position > {lo} AND c.log_position <= {hi}
    ) found
    GROUP BY user_key
    ON CONFLICT (user_key) DO UPDATE SET purchased_at_ms = excluded.purchased_at_ms
    WHERE excluded.purchased_at_ms < known_customers.purchased_at_ms"""


@dataclass
class Series:
    """Ticks of one live model by slice, of known customers and of everyone; every slice has the same ticks."""

    known: dict[str, list[Tick]] = field(default_factory=dict)
    everyone: dict[str, list[Tick]] = field(default_factory=dict)


def window(conn: database.Connection, after: int) -> tuple[int, int] | None:
    """Log positions [lo, hi) of the newest clicks after a position, `WINDOW_CLICKS` at most; None without any."""
    row = conn.execute(SELECT_WINDOW, {"after": after, "clicks": WINDOW_CLICKS}).fetchone()
    return None if row is None or row[0] is None else (int(row[0]), int(row[1]) + 1)


def disagreements(
    conn: database.Connection,
    lo: int,
    hi: int,
    *,
    epochs: Sequence[int],
    stable: tuple[int, int],
    tick_seconds: float,
    purchase_age_ms: int,
) -> dict[int, Series]:
    """The series of each live model beside the stable one, over positions [lo, hi) of some deployment epochs.

    `stable` is model and calibration; other models in shadow are not looked at, nor is a live one of the same model.
    """
    query = SELECT_DISAGREEMENTS.format(
        lo=int(lo),
        hi=int(hi),
        epochs=", ".join(str(int(epoch)) for epoch in epochs),
        model=int(stable[0]),
        calibration=int(stable[1]),
        tick_seconds=float(tick_seconds),
        age_ms=int(purchase_age_ms),
    )
    with conn.transaction():
        for pin in PINNED:
            conn.execute(pin)
        rows = conn.execute(query.encode(), prepare=False).fetchall()
    by_model: dict[int, list[tuple[str, int, Tick, Tick]]] = {}
    for model, slice_, tick, *counts in rows:
        by_model.setdefault(model, []).append((slice_, tick, Tick(*counts[:3]), Tick(*counts[3:])))
    return {model: _series(found) for model, found in by_model.items()}


def _series(rows: Iterable[tuple[str, int, Tick, Tick]]) -> Series:
    cells = {(slice_, tick): (everyone, known) for slice_, tick, everyone, known in rows}
    ticks = sorted({tick for _, tick in cells})
    none = (Tick(0, 0, 0), Tick(0, 0, 0))
    series = Series()
    for slice_ in sorted({name for name, _ in cells}):
        found = [cells.get((slice_, tick), none) for tick in ticks]
        series.everyone[slice_] = [everyone for everyone, _ in found]
        series.known[slice_] = [known for _, known in found]
    return series


def fold_known_customers(conn: database.Connection) -> None:
    """Take the purchases into account that were recorded since the last call, or whose clicks were, step by step."""
    while _fold_step(conn):
        pass


def _fold_step(conn: database.Connection) -> bool:
    with conn.transaction():
        row = conn.execute("SELECT position FROM known_customers_upto FOR UPDATE").fetchone()
        upto = int(row[0]) if row else 0
        step = {"upto": upto, "entries": OUTCOME_ENTRIES_PER_STEP}
        reached = int((conn.execute(NEXT_STEP, step).fetchone() or (upto,))[0] or upto)
        if reached <= upto:
            return False
        query = FOLD_PURCHASES.format(lo=upto, hi=reached).encode()
        conn.execute(query, {"kinds": list(OUTCOME_KINDS)}, prepare=False)
        conn.execute("UPDATE known_customers_upto SET position = %s", (reached,))
        return True
