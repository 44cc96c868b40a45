"""A replay that nobody disturbs, and whether another came to the same."""

from __future__ import annotations

from clickledger.ledger import comparison, database, runs
from clickledger.recovery import plans, replay, steps, working
from clickledger.recovery.working import Worker

COLUMNS = """
    click_id, log_position, line, advertiser_id, campaign_id, cost_micros, currency, slice, deployment_epoch,
    model_version, calibration_version, score::text, threshold::text, verdict, reason, carried"""
BEYOND = f"""
    SELECT count(*) FROM (
        SELECT {COLUMNS} FROM delayed_decisions WHERE run_id = %s EXCEPT ALL
        SELECT {COLUMNS} FROM delayed_decisions WHERE run_id = %s) beyond"""


def undisturbed(conn: database.Connection, plan: plans.Plan, chunk_rows: int) -> runs.Run:
    """A plan done by one worker in peace."""
    run = replay.start(conn, plan, "tests", "", chunk_rows=chunk_rows)
    working.work(conn, run.run_id, Worker("tests", 600.0), 3_600.0)
    assert steps.finish(conn, run.run_id, "tests") is not None
    return run


def require_same(conn: database.Connection, peace: runs.Run, run: runs.Run) -> None:
    """Every decision to the bit, and what comes of them by slice, advertiser and currency."""
    assert count_beyond(conn, peace.run_id, run.run_id) == count_beyond(conn, run.run_id, peace.run_id) == 0
    assert comparison.latest(conn, peace.run_id).totals == comparison.latest(conn, run.run_id).totals


def count_beyond(conn: database.Connection, run_id: int, other_id: int) -> int:
    """How many decisions of a run the other has not, to the bit and as often."""
    [(count,)] = conn.execute(BEYOND, (run_id, other_id)).fetchall()
    return int(count)
