"""Replay beside the pipe it runs through, and live decisions beside a replay; sides take turns in one run.

The pipe limit is what is left when nothing is decided by rule, encoded or hashed: the same chunks copied out (clicks
with snapshots, as a replay reads them), scored by the same network, and copied in as rows encoded before, a commit a
chunk; one process, as the replay it is compared with. Live latency is that of `latency`, alone and while Celery workers
replay the same ledger over and over, giving way as they are set to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import live, models
from benchmarks.corrections import Mistaken
from benchmarks.ground import Figure, Ground, Result, environment, quantile, say
from benchmarks.latency import WARM_UP_SECONDS, OpenLoop
from benchmarks.models import ACTOR
from clickledger.console import processes
from clickledger.ledger import copied_rows, database, delayed, runs
from clickledger.recovery import block_ranges, progress, redecide, working
from clickledger.recovery.working import Worker
from clickledger.scoring import feature_spec
from clickledger.scoring.pseudonyms import Pseudonyms

CLICKS, QUICK_CLICKS, ROUNDS = 200_000, 2_400, 3
LIVE_RATE, LIVE_SECONDS, QUICK_LIVE_SECONDS, LIVE_ROUNDS = 500, 20.0, 1.0, 2
REPLAYED, QUICK_REPLAYED = 300_000, 1_200
TARGET_SHARE, TARGET_RATIO = 0.5, 1.5


def run(ground: Ground) -> Result:
    """Shares of the pipe limit, and the ratio of live p99.9 with and without a replay."""
    result = Result()
    _pipe(ground, result)
    _live(ground, result)
    return result


def _pipe(ground: Ground, result: Result) -> None:
    clicks = QUICK_CLICKS if ground.quick else CLICKS
    threadpool_limits(1)  # as in Celery's workers
    with database.connect(ground.fresh_database()) as conn:
        mistaken = Mistaken(conn)
        span = mistaken.append(clicks)
        block_ranges.summarise(conn)
        sides: dict[str, list[float]] = {"replay": [], "pipe": []}
        for _ in range(1 if ground.quick else ROUNDS):
            say(f"recovery: {clicks:,} clicks replayed, then through the pipe alone")
            sides["replay"].append(_replayed(conn, mistaken, span))
            sides["pipe"].append(_through_pipe(conn, mistaken, span))
    for name, seconds in sides.items():
        rates = [clicks / one for one in seconds]
        note = f"{clicks:,} clicks; rounds {min(rates):,.0f} to {max(rates):,.0f}"
        result.figures.append(Figure(f"{name}, one process", clicks / min(seconds), "clicks/s", note))
    share = min(sides["pipe"]) / min(sides["replay"])
    target = f"at least {TARGET_SHARE:g}"
    result.figures.append(Figure("replay by pipe limit", share, "", "best rounds", target, share >= TARGET_SHARE))
    result.keys["replay_vs_pipe"] = round(share, 3)


def _planned(conn: database.Connection, mistaken: Mistaken, span: tuple[int, int]) -> runs.Run:
    versions = {"model_version": mistaken.stable.model, "calibration_version": mistaken.stable.calibration}
    return runs.plan(conn, *span, **versions, actor=ACTOR, reason="measured")


def _replayed(conn: database.Connection, mistaken: Mistaken, span: tuple[int, int]) -> float:
    run_ = _planned(conn, mistaken, span)
    began = time.perf_counter()
    working.work(conn, run_.run_id, Worker("benchmark", 600.0), 3_600.0)
    return time.perf_counter() - began


def _through_pipe(conn: database.Connection, mistaken: Mistaken, span: tuple[int, int]) -> float:
    """Seconds of copying out, scoring and copying in, chunk by chunk."""
    run_, judges = _planned(conn, mistaken, span), redecide.Judges(conn)
    model = judges.of((mistaken.stable.model, mistaken.stable.calibration)).model
    seconds = 0.0
    for lo, hi, _ in runs.cut(runs.batches(conn, *span), *span, runs.CHUNK_ROWS):
        encoded = redecide.rows(conn, run_, lo, hi, judges).decisions
        features = feature_spec.unpack_snapshots(list(redecide.read(conn, lo, hi).features))
        began = time.perf_counter()
        copied = sum(1 for _ in copied_rows.stream(conn, redecide.SELECT_CLICKS.format(lo=lo, hi=hi)))
        scores = model.score(features)
        with conn.transaction():
            delayed.copy(conn, encoded)
        seconds += time.perf_counter() - began
        if not copied == len(scores) == len(encoded):
            raise RuntimeError(f"expected as many rows out, scored and in, got {copied}, {len(scores)}, {len(encoded)}")
    return seconds


def _live(ground: Ground, result: Result) -> None:
    seconds = QUICK_LIVE_SECONDS if ground.quick else LIVE_SECONDS
    url = ground.fresh_database()
    with database.connect(url) as conn, environment(ground, url):
        mistaken = Mistaken(conn)
        span = mistaken.append(QUICK_REPLAYED if ground.quick else REPLAYED)
        models.deploy_usual(conn)
        settings = live.settings(ground, url)
        count = int(LIVE_RATE * (seconds + WARM_UP_SECONDS))
        rounds = 1 if ground.quick else LIVE_ROUNDS
        clicks = live.simulated(2 * rounds * count).to_clicks(Pseudonyms(bytes(32)))
        times: dict[str, list[float]] = {"alone": [], "during a replay": []}
        replayed = 0
        with live.running(settings, ["scoring-1", "recovery"]):
            for number in range(rounds):
                for side, place in (("alone", 2 * number), ("during a replay", 2 * number + 1)):
                    say(f"recovery: live decisions at {LIVE_RATE} clicks/s, {side}")
                    with _replaying(url, mistaken, span, wanted=side != "alone") as done:
                        loop = OpenLoop(settings, clicks[place * count : (place + 1) * count], LIVE_RATE)
                        times[side] += loop.run()[int(LIVE_RATE * WARM_UP_SECONDS) :]
                    replayed += done[0]
    _note_live(result, times, replayed)


@contextmanager
def _replaying(url: str, mistaken: Mistaken, span: tuple[int, int], *, wanted: bool) -> Iterator[list[int]]:
    """Workers replay the span over and over while the block lasts; yields a list that will hold how many clicks."""
    done, enough = [0], threading.Event()
    thread = threading.Thread(target=_replay_until, args=(url, mistaken, span, enough, done))
    if wanted:
        thread.start()
    try:
        yield done
    finally:
        enough.set()
        if wanted:
            thread.join()


def _replay_until(
    url: str, mistaken: Mistaken, span: tuple[int, int], enough: threading.Event, done: list[int]
) -> None:
    from clickledger.recovery import tasks  # noqa: PLC0415 - configures Celery from the environment at import

    with database.connect(url) as conn:
        while not enough.is_set():
            run_ = _planned(conn, mistaken, span)
            for _ in range(2):
                tasks.wake(tasks.replay_chunks, run_.run_id)
            processes.wait_until(lambda: enough.is_set() or _ended(conn, run_.run_id), 600.0)  # noqa: B023 - called within this turn
            done[0] += progress.of_run(conn, run_.run_id).clicks_done
            runs.abandon(conn, run_.run_id, ACTOR, "measured")


def _ended(conn: database.Connection, run_id: int) -> bool:
    found = progress.of_run(conn, run_id)
    return found.done == found.chunks


def _note_live(result: Result, times: dict[str, list[float]], replayed: int) -> None:
    for side, seconds in times.items():
        for name, share in (("p50", 0.5), ("p99.9", 0.999)):
            note = f"{len(seconds):,} clicks" + (f"; {replayed:,} replayed meanwhile" if side != "alone" else "")
            what = f"decision at {LIVE_RATE} clicks/s {side}, {name}"
            figure = Figure(what, quantile(seconds, share) * 1e3, "ms", note)
            result.figures.append(figure)
    alone, during = (quantile(np.asarray(seconds).tolist(), 0.999) for seconds in times.values())
    ratio, target = during / alone, f"at most {TARGET_RATIO:g}"
    result.figures.append(Figure("live p99.9 during a replay by alone", ratio, "", "", target, ratio <= TARGET_RATIO))
    result.keys["live_p999_during_replay_ratio"] = round(ratio, 2)
