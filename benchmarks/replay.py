"""Replay through real Celery workers: from waking them until every chunk of the run is done, with 1 and 2 processes.

Each click is read back with its snapshot, scored by a network and written with its leaf. The run is planned before and
staged after; a small run goes before it, so that starting processes and importing torch are not measured.
"""

from __future__ import annotations

import os
import time

from benchmarks import live
from benchmarks.corrections import Mistaken
from benchmarks.ground import Figure, Ground, Result, environment, say
from benchmarks.models import ACTOR
from clickledger.console import processes
from clickledger.ledger import database, runs
from clickledger.recovery import progress

CLICKS, QUICK_CLICKS = 300_000, 1_200
WARM_UP_CLICKS, WARM_UP_BATCH = 4096, 256
PROCESSES = (1, 2)
KEY_PROCESSES = 2  # the default of `replay_workers`
PATIENCE_SECONDS = 900.0


def run(ground: Ground) -> Result:
    """Clicks a second by number of Celery processes."""
    result = Result()
    url = ground.fresh_database()
    clicks = QUICK_CLICKS if ground.quick else CLICKS
    with database.connect(url) as conn, environment(ground, url):
        mistaken = Mistaken(conn)
        warm, measured = mistaken.append(WARM_UP_CLICKS, WARM_UP_BATCH), mistaken.append(clicks)
        for count in PROCESSES[-1:] if ground.quick else PROCESSES:
            settings = live.settings(ground, url, replay_workers=count)
            with live.running(settings, ["recovery"]):
                _replay(
                    conn, mistaken, warm, count, chunk_rows=WARM_UP_BATCH
                )  # a chunk for each batch: work for every process
                say(f"replay: {clicks:,} clicks, {count} processes")
                rate = clicks / _replay(conn, mistaken, measured, count)
            note = f"{clicks:,} clicks in chunks of {runs.CHUNK_ROWS:,}; {os.cpu_count()} cores"
            what = f"Celery, {count} process{'es' if count > 1 else ''}"
            result.figures.append(Figure(what, rate, "clicks/s", note))
            result.keys[f"replay_clicks_per_s_{count}_processes"] = round(rate)
    result.keys["replay_clicks_per_s"] = result.keys[f"replay_clicks_per_s_{KEY_PROCESSES}_processes"]
    return result


def _replay(
    conn: database.Connection,
    mistaken: Mistaken,
    positions: tuple[int, int],
    workers: int,
    chunk_rows: int = runs.CHUNK_ROWS,
) -> float:
    """Seconds from waking the workers until the last chunk is done."""
    from clickledger.recovery import tasks  # noqa: PLC0415 - configures Celery from the environment at import

    stable = mistaken.stable
    run = runs.plan(
        conn,
        *positions,
        model_version=stable.model,
        calibration_version=stable.calibration,
        actor=ACTOR,
        reason="measured",
        chunk_rows=chunk_rows,
    )
    began = time.perf_counter()
    for _ in range(workers):
        tasks.wake(tasks.replay_chunks, run.run_id)
    if not processes.wait_until(lambda: _is_done(conn, run.run_id), PATIENCE_SECONDS):
        raise RuntimeError(f"run {run.run_id} is not done: {progress.of_run(conn, run.run_id)}")
    seconds = time.perf_counter() - began
    if not processes.wait_until(lambda: progress.of_run(conn, run.run_id).stage == "compared", PATIENCE_SECONDS):
        raise RuntimeError(f"run {run.run_id} was not staged and compared")
    return seconds


def _is_done(conn: database.Connection, run_id: int) -> bool:
    found = progress.of_run(conn, run_id)
    return found.done == found.chunks
