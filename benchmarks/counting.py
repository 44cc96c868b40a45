"""Counting: the function in Valkey by size of call and by what it counts, its memory, and the same from the log.

A call is `FeatureCounter.count` as a worker makes it: encoding, round trip over the unix socket, the function,
decoding. One client, so a call is never queued behind another. Clicks are simulated, six hours of them in the order of
time; each side gets its own empty server memory and the same clicks.

"By number of features" is an ablation: the library with the step that counts a record taken out of its source. A single
feature cannot be taken out, and would save little: reading, unpacking and writing its record is what costs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import redis

from benchmarks import models
from benchmarks.ground import Figure, Ground, Result, quantile, say
from benchmarks.models import ACTOR
from clickledger.ledger import append, database
from clickledger.scoring import counters, feature_replay, feature_spec, recount, simulated_comparison, simulation
from clickledger.scoring.click import Click
from clickledger.scoring.counters import FeatureCounter
from clickledger.scoring.deciding import Decider
from clickledger.scoring.simulation import SimulationConfig

SIZES = (1, 4, 16, 64)
USER_STEP = "  count_user(load_user(call, click), click, state.clock_ms, row)\n"
IP_STEP = "  count_ip(load_ip(call, click), click, state.clock_ms, row)\n"
LEFT_OUT = {"all 22 features": (), "13 of users": (IP_STEP,), "6 of IPs": (USER_STEP,), "none": (USER_STEP, IP_STEP)}
ABLATED_CALL = 64


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    calls: int  # of each size
    ablated_clicks: int
    recomputed_clicks: int
    logged_clicks: int


FULL, QUICK = Plan(1_000, 16_000, 200_000, 20_000), Plan(20, 256, 2_000, 1_000)


def run(ground: Ground) -> Result:
    """Clicks a second and call times, bytes a record, and clicks recomputed a second."""
    plan, result = QUICK if ground.quick else FULL, Result()
    traffic, _ = simulation.simulate(_simulation(max(plan.calls * max(SIZES), plan.recomputed_clicks)))
    clicks = traffic.to_clicks(simulated_comparison.PSEUDONYMS)
    with redis.Redis.from_url(ground.servers.redis_url) as client:
        for size in SIZES:
            _by_size(client, clicks, size, plan, result)
        _memory(client, result)
        for name, steps in LEFT_OUT.items():
            _ablated(client, clicks[: plan.ablated_clicks], name, steps, result)
        _recomputed(clicks[: plan.recomputed_clicks], result)
        _audited(ground.fresh_database(), client, clicks[: plan.logged_clicks], result)
    return result


def _simulation(clicks: int) -> SimulationConfig:
    return SimulationConfig(clicks=clicks, start_ms=simulated_comparison.START_MS, duration_hours=6.0)


def _empty(client: redis.Redis) -> FeatureCounter:
    client.flushall()
    client.function_flush("SYNC")
    counters.open_epoch(client, 1)
    return FeatureCounter(client, 1)


def _by_size(client: redis.Redis, clicks: Sequence[Click], size: int, plan: Plan, result: Result) -> None:
    say(f"counting: calls of {size}")
    times = _timed_calls(_empty(client), clicks, size, plan.calls)
    rate, p99_us = size * len(times) / sum(times), quantile(times, 0.99) * 1e6
    result.figures += [
        Figure(f"clicks counted, calls of {size}", rate, "clicks/s", f"one client, {len(times):,} calls"),
        Figure(f"a call of {size}, p99", p99_us, "us", f"p50 {quantile(times, 0.5) * 1e6:.0f} us"),
    ]
    result.keys |= {f"counting_clicks_per_s_{size}": round(rate), f"counting_call_p99_us_{size}": round(p99_us)}


def _timed_calls(counter: FeatureCounter, clicks: Sequence[Click], size: int, calls: int) -> list[float]:
    times = []
    for start in range(0, size * calls, size):
        began = time.perf_counter()
        counter.count(clicks[start : start + size])
        times.append(time.perf_counter() - began)
    return times


def _memory(client: redis.Redis, result: Result) -> None:
    """Of the records and remembered ids that the last calls left."""
    for name, pattern in (("user", "cl:u:*"), ("IP", "cl:i:*")):
        sizes = [int(client.memory_usage(key) or 0) for key in client.scan_iter(match=pattern, count=1000)]
        result.figures.append(
            Figure(f"memory of a record, {name}", float(np.mean(sizes)), "bytes", f"{len(sizes):,} records")
        )
        result.keys[f"counting_bytes_{name.lower()}"] = round(float(np.mean(sizes)))
    seen = max(("cl:seen:0", "cl:seen:1"), key=client.hlen)
    each = int(client.memory_usage(seen, samples=0) or 0) / max(1, client.hlen(seen))
    result.figures.append(Figure("memory of a remembered click id", each, "bytes", f"{client.hlen(seen):,} ids"))
    result.keys["counting_bytes_click_id"] = round(each)


def _ablated(client: redis.Redis, clicks: Sequence[Click], name: str, steps: Sequence[str], result: Result) -> None:
    say(f"counting: {name}")
    counter, source = _empty(client), counters.library_source()
    for step in steps:
        if step not in source:
            raise RuntimeError(
                f"expected a step {step.strip()!r} in the library, got none: the ablation is out of date"
            )
        source = source.replace(step, "")
    client.function_load(source, replace=True)
    times = _timed_calls(counter, clicks, ABLATED_CALL, len(clicks) // ABLATED_CALL)
    rate = ABLATED_CALL * len(times) / sum(times)
    note = f"calls of {ABLATED_CALL}, and 3 that need no record; p99 {quantile(times, 0.99) * 1e6:.0f} us a call"
    result.figures.append(Figure(f"clicks counted, features: {name}", rate, "clicks/s", note))
    result.keys[f"counting_clicks_per_s_of_{name.split(maxsplit=1)[0]}"] = round(rate)


def _recomputed(clicks: Sequence[Click], result: Result) -> None:
    say(f"counting: recomputing {len(clicks):,} clicks")
    began = time.perf_counter()
    encoded = feature_spec.encode_clicks(clicks)
    encoding = time.perf_counter() - began
    began = time.perf_counter()
    feature_replay.recompute_encoded(encoded)
    rate = len(clicks) / (time.perf_counter() - began)
    note = f"numpy, {len(clicks):,} clicks; encoding them before, {len(clicks) / encoding:,.0f} clicks/s"
    result.figures.append(Figure("snapshots recomputed", rate, "clicks/s", note))
    result.keys["recompute_clicks_per_s"] = round(rate)


def _audited(url: str, client: redis.Redis, clicks: Sequence[Click], result: Result) -> None:
    """`audit verify --snapshots all`: reading, putting in order, recomputing, comparing."""
    say(f"counting: a ledger of {len(clicks):,} clicks")
    counter, decider = _empty(client), Decider()
    with database.connect(url) as conn:
        models.deploy_usual(conn)
        decider.follow(conn)
        for start in range(0, len(clicks), 256):
            part = clicks[start : start + 256]
            append.append(conn, decider.decide_batch(part, counter.count(part), 1), actor=ACTOR)
        conn.execute("VACUUM (ANALYZE)")
        began = time.perf_counter()
        found = recount.verify(conn)
        taken = time.perf_counter() - began
    if not found.ok or found.exact != len(clicks):
        raise RuntimeError(f"expected {len(clicks)} snapshots as recorded, got {found}")
    note = f"{len(clicks):,} clicks of 6 hours; one process"
    result.figures.append(Figure("audit verify --snapshots", len(clicks) / taken, "clicks/s", note))
    result.keys["audit_snapshots_clicks_per_s"] = round(len(clicks) / taken)
