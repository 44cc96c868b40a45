"""Whatever happens to a replay under way, it ends in the state of one that nobody disturbed.

`make soak-recovery` does the same with a million clicks and fifty kills in mid-chunk, in as many runs as it takes:
CLICKLEDGER_SOAK_CLICKS, CLICKLEDGER_SOAK_KILLS, CLICKLEDGER_SEED.
"""

from __future__ import annotations

import os
from pathlib import Path

from celery_processes import eventually
from chaos import Trouble, World, world
from decided_traffic import bad_deployment

from clickledger.ledger import audit, comparison, database, deployments, publication, runs
from clickledger.recovery import plans, progress, replay, steps, working
from clickledger.recovery.plans import What
from clickledger.recovery.working import Worker

CLICKS = int(os.environ.get("CLICKLEDGER_SOAK_CLICKS", "8000"))
KILLS = int(os.environ.get("CLICKLEDGER_SOAK_KILLS", "1"))
SEED = int(os.environ.get("CLICKLEDGER_SEED", "7"))
SOAK = "CLICKLEDGER_SOAK_KILLS" in os.environ
BATCH, CHUNK_ROWS = (2_000, runs.CHUNK_ROWS) if SOAK else (200, 200)
PATIENCE_SECONDS = 3_600.0 if SOAK else 90.0
HARM = {"kill": KILLS, "restart_postgres": max(KILLS // 10, 1), "restart_broker": max(KILLS // 10, 1),
        "duplicate": max(KILLS // 3, 2), "pause": max(KILLS // 10, 1)}  # fmt: skip
COLUMNS = """
    click_id, log_position, line, advertiser_id, campaign_id, cost_micros, currency, slice, deployment_epoch,
    model_version, calibration_version, score::text, threshold::text, verdict, reason, carried"""
DIFFERENT = f"""
    SELECT count(*) FROM (
        (SELECT {COLUMNS} FROM delayed_decisions WHERE run_id = %(one)s EXCEPT ALL
         SELECT {COLUMNS} FROM delayed_decisions WHERE run_id = %(other)s)
        UNION ALL
        (SELECT {COLUMNS} FROM delayed_decisions WHERE run_id = %(other)s EXCEPT ALL
         SELECT {COLUMNS} FROM delayed_decisions WHERE run_id = %(one)s)) different"""


def undisturbed(conn: database.Connection, plan: plans.Plan) -> runs.Run:
    """The same plan, done by one worker in peace."""
    run = replay.start(conn, plan, "tests", "", chunk_rows=CHUNK_ROWS)
    working.work(conn, run.run_id, Worker("tests", 600.0), 3_600.0)
    assert steps.finish(conn, run.run_id, "tests") is not None
    return run


def stage(conn: database.Connection, run: runs.Run) -> str:
    return progress.of_run(conn, run.run_id).stage


def disturbed(made: World, plan: plans.Plan, seed: int) -> tuple[runs.Run, Trouble]:
    """The plan again, under harm as long as it is under way."""
    with made.connect() as conn:
        run = replay.start(conn, plan, "tests", "", chunk_rows=CHUNK_ROWS)
        trouble = Trouble(made, run.run_id, seed)
        eventually(lambda: progress.of_run(conn, run.run_id).leased, "a worker at work")
    trouble.make(HARM, pause_seconds=1.0 if SOAK else 0.1)
    with made.connect() as conn:
        eventually(lambda: stage(conn, run) == "compared", "the run to be compared", PATIENCE_SECONDS)
    trouble.end()
    return run, trouble


def require_same(conn: database.Connection, peace: runs.Run, run: runs.Run) -> None:
    both = {"one": peace.run_id, "other": run.run_id}
    assert conn.execute(DIFFERENT, both).fetchone() == (0,)
    assert comparison.latest(conn, peace.run_id).totals == comparison.latest(conn, run.run_id).totals


def test_a_replay_under_kills_restarts_repeats_and_pauses_ends_as_one_in_peace(tmp_path: Path) -> None:
    with world(tmp_path / "home", lease_seconds=10 if SOAK else 2, replay_workers=2) as made:
        with made.connect() as conn:
            _, stable, bad = bad_deployment(conn, batches=CLICKS // BATCH, clicks=BATCH, shadow=False)
            span = deployments.model_positions(conn, bad[0])
            assert span is not None
            plan = plans.for_positions(conn, *span, What(stable))
            peace = undisturbed(conn, plan)
        made.celery.beat()
        kills, rounds, takeovers = 0, 0, []
        while kills < KILLS:  # a replay is over before so many workers have died
            run, trouble = disturbed(made, plan, SEED + rounds)
            kills, rounds = kills + trouble.done.get("kill", 0), rounds + 1
            takeovers += trouble.takeover_seconds
            with made.connect() as conn:
                require_same(conn, peace, run)
            if SOAK:
                slowest = max(takeovers, default=0.0)
                print(f"run {run.run_id}: {trouble.done}, {kills} kills so far; slowest takeover {slowest:.1f} s")
        with made.connect() as conn:
            digest = comparison.latest(conn, run.run_id).digest
            publication.publish(conn, run.run_id, digest, "tests", "")
            report = audit.verify(conn)
            assert report.ok, report.failures
