"""One authoritative decision per click: a map that covers every position, and runs that decide their very clicks.

Where the map says live, the click's own decision is in force, and the rows of an entry are checked against its leaves:
one decision for each click. Where it says a run, the run must hold each click of its range, with all that a run may not
change as the live decision has it. So each click has one decision in force, and only what was replayed is counted.
"""

from __future__ import annotations

from clickledger.ledger import authority, database

SELECT_STAGED = """
    SELECT run_id, lower(positions), upper(positions) FROM replay_runs
    WHERE status = 'staged' AND kind = 'range' ORDER BY run_id"""
COUNT_OVERRIDES = "SELECT count(*) FROM authority_overrides WHERE upper_inf(in_force)"
# What identifies a click's rows in both tables, added up whatever their order.
_SAME = "d.click_id, d.log_position, d.line, d.advertiser_id, d.campaign_id, d.cost_micros, d.currency, d.slice"
SELECT_SUM = f"""
    SELECT count(*), sum(hash_record_extended(ROW({_SAME}), 0)) FROM {{table}} d
    WHERE {{only}} d.log_position >= {{lo}} AND d.log_position < {{hi}}"""
SELECT_DIFFERENT = f"""
    SELECT coalesce(d.log_position, n.log_position), coalesce(d.click_id, n.click_id)
    FROM (SELECT {_SAME} FROM decisions d WHERE d.log_position >= {{lo}} AND d.log_position < {{hi}}) d
    FULL JOIN (SELECT {_SAME} FROM delayed_decisions d
               WHERE d.run_id = {{run}} AND d.log_position >= {{lo}} AND d.log_position < {{hi}}) n USING (click_id)
    WHERE ROW({_SAME}) IS DISTINCT FROM ROW({_SAME.replace("d.", "n.")}) ORDER BY 1, 2 LIMIT 1"""


def verify(conn: database.Connection) -> list[str]:
    """What is wrong with the map in force and with the manifests of staged runs."""
    authority.in_force(conn)  # raises where the map has a gap
    failures = []
    for run_id, lo, hi in conn.execute(SELECT_STAGED).fetchall():
        live = _sum(conn, SELECT_SUM.format(table="decisions", only="", lo=lo, hi=hi))
        run = _sum(conn, SELECT_SUM.format(table="delayed_decisions", only=f"d.run_id = {run_id} AND", lo=lo, hi=hi))
        if live != run:
            failures.append(
                f"run {run_id}: expected the {live[0]} clicks of its range decided once, {_which(conn, run_id, lo, hi)}"
            )
    return failures


def overrides(conn: database.Connection) -> int:
    """How many clicks have a sparse correction in force; that each of them follows from the log is `rebuild`'s to say.

    A click whose range was published again later is decided by that, and its override counts still.
    """
    return int((conn.execute(COUNT_OVERRIDES).fetchone() or (0,))[0])


def _sum(conn: database.Connection, query: str) -> tuple[int, int]:
    row = conn.execute(query.encode()).fetchone()
    return (int(row[0]), int(row[1] or 0)) if row else (0, 0)


def _which(conn: database.Connection, run_id: int, lo: int, hi: int) -> str:
    row = conn.execute(SELECT_DIFFERENT.format(run=run_id, lo=lo, hi=hi).encode()).fetchone()
    return f"not so click {row[1]} of entry {row[0]}" if row else "some of them are there more than once"
