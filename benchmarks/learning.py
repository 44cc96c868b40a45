"""The model: a forward pass by batch, and what training on a million clicks takes.

A forward pass is `Model.score` of the network, snapshots in and logits out, on one thread, as a worker scores. Training
is `train_network` with its defaults, early stopping included, on simulated clicks, counted and labelled before.
"""

from __future__ import annotations

import time

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import models
from benchmarks.ground import Figure, Ground, Result, quantile, say
from clickledger.scoring import feature_spec, offline_dataset, simulated_comparison, simulation, training
from clickledger.scoring.model import Model

BATCHES = (1, 16, 64, 256, 4096, 65_536)
ROWS = {False: 400_000, True: 4_000}  # scored in all for each batch, within the limits for calls
CALLS_MIN, CALLS_MAX = 3, 2_000
TRAINED = {False: 1_000_000, True: 2_000}


def run(ground: Ground) -> Result:
    """Times of calls by batch, and seconds of training."""
    result = Result()
    network = models.network()
    with threadpool_limits(1):
        for batch in BATCHES:
            _forward(network, batch, ROWS[ground.quick], result)
    _train(TRAINED[ground.quick], result)
    return result


def _forward(network: Model, batch: int, rows: int, result: Result) -> None:
    random = np.random.default_rng(batch)
    features = random.integers(0, 200, (batch, len(feature_spec.FEATURES)), dtype=np.int32)
    times = []
    for _ in range(min(CALLS_MAX, max(CALLS_MIN, rows // batch))):
        began = time.perf_counter()
        network.score(features)
        times.append(time.perf_counter() - began)
    rate, p50_us = batch / quantile(times, 0.5), quantile(times, 0.5) * 1e6
    note = f"p99 {quantile(times, 0.99) * 1e6:,.0f} us, {rate:,.0f} clicks/s; {len(times):,} calls"
    result.figures.append(Figure(f"forward pass of {batch:,}, p50", p50_us, "us", note))
    result.keys[f"forward_p50_us_{batch}"] = round(p50_us, 1)


def _train(clicks: int, result: Result) -> None:
    say(f"learning: simulating and counting {clicks:,} clicks")
    traffic, _ = simulation.simulate(simulated_comparison.config_of(clicks))
    made = traffic.to_clicks(simulated_comparison.PSEUDONYMS)
    dataset = offline_dataset.recount(made, traffic.to_outcomes(made)).part(slice(None))
    say(f"learning: training on {len(dataset):,} clicks")
    began = time.perf_counter()
    trained = training.train_network(dataset)
    taken = time.perf_counter() - began
    note = f"one thread, {trained.metadata['training']['epochs']} epochs"
    result.figures.append(Figure(f"training on {len(dataset):,} clicks", taken, "s", note))
    result.keys["training_s_per_million_clicks"] = round(taken * 1e6 / len(dataset), 1)
