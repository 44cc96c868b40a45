"""Accounts that purchases vouch for: a fold of recorded outcomes, which can be made again from them."""

from __future__ import annotations

from clickledger.ledger import database, log
from clickledger.scoring.dataset import OUTCOME_KINDS

OUTCOME_ENTRIES_PER_STEP = 200  # of 5,000 outcomes at most

# The end of a step: its last entry of outcomes if it is full, else the entry that was the newest at first.
NEXT_STEP = """
    SELECT CASE WHEN count(*) = %(entries)s THEN max(position) ELSE %(head)s END FROM (
        SELECT position FROM log WHERE kind = 'outcomes_recorded' AND position > %(upto)s AND position <= %(head)s
        ORDER BY position LIMIT %(entries)s) step"""
# Whichever of a purchase and its click is recorded later brings the pair, once: feeds do not wait for each other.
# OFFSET 0 makes new clicks look their outcomes up; the planner would rather join them with all outcomes there are.
FOLD_PURCHASES = """
    INSERT INTO known_customers (user_key, purchased_at_ms, purchases)
    SELECT user_key, min(occurred_at_ms), count(*) FROM (
        SELECT c.user_key, o.occurred_at_ms FROM outcomes o JOIN clicks c USING (click_id)
        WHERE o.log_position > {lo} AND o.log_position <= {hi} AND c.log_position <= {hi} AND o.kind = ANY (%(kinds)s)
        UNION ALL
        SELECT c.user_key, early.occurred_at_ms FROM clicks c CROSS JOIN LATERAL (
            SELECT o.occurred_at_ms FROM outcomes o
            WHERE o.click_id = c.click_id AND o.log_position <= {lo} AND o.kind = ANY (%(kinds)s) OFFSET 0) early
        WHERE c.log_position > {lo} AND c.log_position <= {hi}
    ) found
    GROUP BY user_key
    ON CONFLICT (user_key) DO UPDATE SET purchases = known_customers.purchases + excluded.purchases,
        purchased_at_ms = least(known_customers.purchased_at_ms, excluded.purchased_at_ms)"""


def fold(conn: database.Connection) -> None:
    """Take the purchases into account that were recorded since the last call, or whose clicks were, step by step.

    Up to what was the newest entry at first: traffic that never pauses would keep whoever detects here.
    """
    head = log.head(conn).position
    while _fold_step(conn, head):
        pass


def _fold_step(conn: database.Connection, head: int) -> bool:
    with conn.transaction():
        row = conn.execute("SELECT position FROM known_customers_upto FOR UPDATE").fetchone()
        upto = int(row[0]) if row else 0
        step = {"upto": upto, "head": head, "entries": OUTCOME_ENTRIES_PER_STEP}
        reached = int((conn.execute(NEXT_STEP, step).fetchone() or (upto,))[0] or upto)
        if reached <= upto:
            return False
        query = FOLD_PURCHASES.format(lo=upto, hi=reached).encode()
        conn.execute(query, {"kinds": list(OUTCOME_KINDS)}, prepare=False)
        conn.execute("UPDATE known_customers_upto SET position = %s", (reached,))
        return True
