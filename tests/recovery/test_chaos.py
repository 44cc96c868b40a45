"""Whatever happens to a replay under way, it ends in the state of one that nobody disturbed.

`make soak-recovery` does the same with a million clicks and fifty kills in mid-chunk, in as many runs as it takes:
CLICKLEDGER_SOAK_CLICKS, CLICKLEDGER_SOAK_KILLS, CLICKLEDGER_SEED.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from celery_processes import eventually
from chaos import Trouble, World, world
from decided_traffic import bad_deployment
from undisturbed import count_beyond, require_same, undisturbed

from clickledger.ledger import audit, comparison, database, deployments, publication, runs
from clickledger.recovery import plans, progress
from clickledger.recovery.plans import What

CLICKS = int(os.environ.get("CLICKLEDGER_SOAK_CLICKS", "8000"))
KILLS = int(os.environ.get("CLICKLEDGER_SOAK_KILLS", "1"))
SEED = int(os.environ.get("CLICKLEDGER_SEED", "7"))
SOAK = "CLICKLEDGER_SOAK_KILLS" in os.environ
BATCH, CHUNK_ROWS = (2_000, runs.CHUNK_ROWS) if SOAK else (200, 200)
PATIENCE_SECONDS = 3_600.0 if SOAK else 90.0
HARM = {"kill": KILLS, "restart_postgres": max(KILLS // 10, 1), "restart_broker": max(KILLS // 10, 1),
        "duplicate": max(KILLS // 3, 2), "pause": max(KILLS // 10, 1), "cancel": max(KILLS // 10, 1)}  # fmt: skip


def stage(conn: database.Connection, run_id: int) -> str:
    return progress.of_run(conn, run_id).stage


def disturbed(made: World, plan: plans.Plan, seed: int) -> tuple[runs.Run, Trouble]:
    """The plan again, under harm as long as it is under way; the run that came of it."""
    trouble = Trouble(made, plan, CHUNK_ROWS, seed)
    with made.connect() as conn:
        eventually(lambda: progress.of_run(conn, trouble.run_id).leased, "a worker at work")
    trouble.make(HARM, pause_seconds=1.0 if SOAK else 0.1)
    with made.connect() as conn:
        eventually(lambda: stage(conn, trouble.run_id) == "compared", "the run to be compared", PATIENCE_SECONDS)
        trouble.end()
        return runs.get(conn, trouble.run_id), trouble


def require_given_up(conn: database.Connection, peace: runs.Run, cancelled: dict[int, int]) -> None:
    """Nothing more was done of what was cancelled, and what had been done is evidence: no decision of it is wrong."""
    for run_id, done in cancelled.items():
        left = progress.of_run(conn, run_id)
        assert (left.stage, left.done, left.leased, left.comparison_id) == ("abandoned", done, 0, None)
        assert count_beyond(conn, run_id, peace.run_id) == 0


def test_a_replay_under_kills_restarts_repeats_pauses_and_cancels_ends_as_one_in_peace(tmp_path: Path) -> None:
    with world(tmp_path / "home", large=SOAK, lease_seconds=10 if SOAK else 2, replay_workers=2) as made:
        with made.connect() as conn:
            _, stable, bad = bad_deployment(conn, batches=CLICKS // BATCH, clicks=BATCH, shadow=False)
            span = deployments.model_positions(conn, bad[0])
            assert span is not None
            plan = plans.for_positions(conn, *span, What(stable))
            peace = undisturbed(conn, plan, CHUNK_ROWS)
        made.celery.beat()
        done, rounds, takeovers = Counter[str](), 0, []
        while done["kill"] < KILLS or not done["cancel"]:  # a replay is over before so many workers have died
            run, trouble = disturbed(made, plan, SEED + rounds)
            done.update(trouble.done)
            rounds += 1
            takeovers += trouble.takeover_seconds
            with made.connect() as conn:
                require_same(conn, peace, run)
                require_given_up(conn, peace, trouble.cancelled)
            if SOAK:
                slowest = max(takeovers, default=0.0)
                print(f"run {run.run_id}: {trouble.done}, so far {dict(done)}; slowest takeover {slowest:.1f} s")
        assert takeovers or not SOAK, "no worker was killed while it held a chunk"
        with made.connect() as conn:
            digest = comparison.latest(conn, run.run_id).digest
            publication.publish(conn, run.run_id, digest, "tests", "")
            report = audit.verify(conn)
            assert report.ok, report.failures
