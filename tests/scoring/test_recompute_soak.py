"""Recompute == recorded, to the bit, whatever happens on the way: several workers, disorder, repeats, a Valkey that is
killed and loses its tail, then all of its memory.

In `make test` a few thousand clicks and two workers in this process; `make soak-scoring` has 100,000 real clicks and a
million simulated ones decided by four worker processes (CLICKLEDGER_SOAK_CLICKS), and says how far it is.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from test_features_real_clicks import SHARED_DATA
from worker_processes import until, workers

from clickledger.console import home, processes, services, valkey
from clickledger.ledger import database, log
from clickledger.scoring import exchange, heartbeat, intake, recount, simulated_comparison, simulation, warmth
from clickledger.scoring.click import Click
from clickledger.scoring.exchange import ExchangeConfig
from clickledger.scoring.pseudonyms import Pseudonyms
from clickledger.scoring.simulation import SimulationConfig
from clickledger.scoring.worker import Worker, WorkerConfig

SOAK = int(os.environ.get("CLICKLEDGER_SOAK_CLICKS", "0"))
SMOKE_CLICKS = 2_500
DISORDER_MS = 40_000  # with what is on its way at once less than LATE_MS
REPEATED_SHARE = 0.05
FILE = SHARED_DATA / "talkingdata_20171107_1131.csv"


def real_clicks(count: int, folder: Path) -> list[Click]:
    if not FILE.exists():
        pytest.skip(f"no real clicks at {FILE}; name their folder in CLICKLEDGER_SHARED_DATA")
    part = folder / "real.csv"
    with FILE.open("rb") as file:
        part.write_bytes(b"".join(islice(file, count + 1)))
    return intake.read_file(part, "talkingdata", Pseudonyms(bytes(32)), cpc_micros=1000).clicks


def simulated_clicks(count: int) -> list[Click]:
    hours = 48.0 if SOAK else 6.0
    traffic, _ = simulation.simulate(SimulationConfig(count, simulated_comparison.START_MS, hours))
    return traffic.to_clicks(simulated_comparison.PSEUDONYMS)


def arriving(clicks: Sequence[Click], seed: int) -> list[Click]:
    """Out of order in time, and some of them again a little later."""
    random = np.random.default_rng(seed)
    times = np.array([each.event_time_ms for each in clicks]) + random.integers(0, DISORDER_MS, len(clicks))
    again = random.random(len(clicks)) < REPEATED_SHARE
    rows = np.concatenate([np.arange(len(clicks)), np.flatnonzero(again)])
    at_ms = np.concatenate([times, times[again] + random.integers(0, DISORDER_MS // 2, int(again.sum()))])
    return [clicks[row] for row in rows[np.argsort(at_ms, kind="stable")].tolist()]


@contextmanager
def deciding(database_url: str, redis_url: str, folder: Path, at_once_max: int) -> Iterator[None]:
    """Four worker processes for the soak, two workers in threads for the smoke."""
    if SOAK:
        with workers(database_url, redis_url, folder) as fleet:
            for number in range(4):
                given = {"restore_at_once_max": str(at_once_max), "claim_idle_seconds": "2"}
                fleet.start(f"scoring-{number}", wait=False, **given)
            assert processes.wait_until(lambda: all(map(fleet.is_live, fleet.running)), 600.0), "expected four workers"
            yield
        return
    configs = [
        WorkerConfig(
            f"here-{number}", database_url, redis_url, block_ms=20, batch_clicks_max=64, claim_idle_ms=500,
            retry_seconds_max=0.2, restore_at_once_max=at_once_max,
        )
        for number in range(2)
    ]  # fmt: skip
    made = [Worker(config) for config in configs]
    threads = [threading.Thread(target=worker.run) for worker in made]
    for thread in threads:
        thread.start()
    try:
        with redis.Redis.from_url(redis_url) as client:
            until(lambda: len(heartbeat.live(client)) == len(made), "both workers")
        yield
    finally:
        for worker in made:
            worker.stop()
        for thread in threads:
            thread.join()


class Valkey:
    """The session's server, to be killed."""

    def __init__(self, servers: Any) -> None:
        self._home = servers.home
        self._place = services.valkey_place(home.at(servers.home), None)

    def lose_tail(self, share: float) -> int:
        """SIGKILL it, cut off the end of its append-only file, start it; the bytes that are gone."""
        processes.stop(valkey.running(self._place), [(processes.signal.SIGKILL, 30.0)])
        files = (self._place.data / "appendonlydir").glob("*.incr.aof")
        newest = max(files, key=lambda file: file.stat().st_mtime)
        size = newest.stat().st_size
        os.truncate(newest, size - int(size * share))
        services.start_servers(self._home)
        return int(size * share)


def progress(what: str, total: int) -> Callable[[int], None]:
    """Says, in a soak, how far it is and how long it will take."""
    began = told = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told
        if SOAK and done and time.monotonic() - told > 10:
            told = time.monotonic()
            left = (told - began) / done * (total - done)
            print(f"{what}: {done:,} of {total:,}, {done / (told - began):,.0f}/s, {left:.0f} s left", file=sys.stderr)

    return tell


@pytest.mark.parametrize("source", ["real", "simulated"])
def test_every_recorded_snapshot_is_recomputed_after_disorder_repeats_kills_and_loss(
    source: str, servers: Any, conn: database.Connection, database_url: str, redis_client: redis.Redis, redis_url: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    count = min(SOAK, 100_000) if source == "real" and SOAK else SOAK or SMOKE_CLICKS
    clicks = real_clicks(count, tmp_path) if source == "real" else simulated_clicks(count)
    sent = arriving(clicks, seed=count)
    at_once_max = count // 50 if SOAK else 150
    config = ExchangeConfig(in_flight_max=4096 if SOAK else 256, resend_seconds=0.5, give_up_seconds=300)
    tell, server, answered, lost_bytes = progress(f"{source} decided", len(sent)), Valkey(servers), 0, 0
    with deciding(database_url, redis_url, tmp_path, at_once_max):
        for _, answer in exchange.decide_all(redis_url, sent, config):
            answered += 1
            tell(answered)
            if answered == len(sent) * 2 // 5:
                lost_bytes = server.lose_tail(0.02)
            if answered == len(sent) * 3 // 5:
                redis_client.flushall()
                redis_client.function_flush()
            assert answer.outcome in ("new", "repeat"), answer
        assert processes.wait_until(lambda: not partial(conn), 60.0 + SOAK / 1000), "expected all windows to be rebuilt"
    restored = log.read(conn, kinds=["counters_restored"])
    assert lost_bytes > 1000
    tell = progress(f"{source} recomputed", count)
    found = recount.verify(conn, progress=lambda done, _: tell(done))
    said = f"{source}: {len(sent):,} sent, {found.recounted:,} counted, {found.exact:,} recomputed to the bit, "
    said += f"{len(restored)} counter epochs after the first: {[entry.payload['since_ms'] for entry in restored]}"
    print(said, file=sys.stderr)
    distinct = len({each.click_id for each in clicks})
    assert conn.execute("SELECT count(*) FROM clicks").fetchone() == (distinct,)
    assert found.exact == found.recounted > 0.97 * distinct, found.failures
    assert len(restored) >= 2, "a cut tail and a lost memory"


def partial(conn: database.Connection) -> bool:
    """Whether the counters in force hold less than the log."""
    row = conn.execute("SELECT max(counter_epoch) FROM counter_epochs").fetchone()
    return row is not None and row[0] in warmth.read(conn).since_ms
