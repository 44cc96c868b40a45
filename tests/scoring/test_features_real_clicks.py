"""The same equality on real clicks: real repeats, real gateways, 22 features of 20,000 clicks."""

from __future__ import annotations

import csv
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import redis
from simple_clicks import click

from clickledger.scoring import counters, feature_replay, feature_spec
from clickledger.scoring.click import Click
from clickledger.scoring.counters import FeatureCounter

CLICKS = 20_000
SHARED_DATA = Path(
    os.environ.get("CLICKLEDGER_SHARED_DATA") or Path(__file__).resolve().parents[2].parent / "shared" / "data"
)


def real_clicks() -> list[Click]:
    """The first clicks of the file by time. Its time has whole seconds: milliseconds come from the row number."""
    path = SHARED_DATA / "talkingdata_20171107_1131.csv"
    if not path.exists():
        pytest.skip(f"no real clicks at {path}; name their folder in CLICKLEDGER_SHARED_DATA")
    with path.open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["click_time"])[:CLICKS]
    users: dict[tuple[str, ...], int] = {}
    return [
        click(
            number,
            int(datetime.fromisoformat(row["click_time"]).replace(tzinfo=UTC).timestamp() * 1000) + number % 1000,
            user=users.setdefault((row["ip"], row["device"], row["os"]), len(users)),
            ip=int(row["ip"]),
            session=users[row["ip"], row["device"], row["os"]],
            campaign=int(row["channel"]),
            device=int(row["device"]) * 1000 + int(row["os"]),
        )
        for number, row in enumerate(rows)
    ]


def test_real_clicks_out_of_order_and_delivered_twice_are_recomputed_to_the_bit(valkey: redis.Redis) -> None:
    clicks = real_clicks()
    random = np.random.default_rng(7)
    arrival = np.argsort(np.arange(len(clicks)) + random.integers(0, 400, len(clicks)))
    arrived = [clicks[i] for i in arrival]
    counters.open_epoch(valkey, 1)
    counter = FeatureCounter(valkey, 1)
    counted = counter.count(arrived)
    again = [int(i) for i in random.integers(0, len(arrived), 2000)]
    repeated = counter.count([arrived[i] for i in again])

    assert counted.reason == [""] * len(clicks)
    assert counted.seq.tolist() == list(range(1, len(clicks) + 1))
    assert (repeated.features == counted.features[again]).all()
    assert (repeated.seq == counted.seq[again]).all()
    assert (feature_replay.recompute(arrived) == counted.features).all()
    by_event_time = feature_replay.recompute(sorted(arrived, key=lambda each: each.event_time_ms))
    assert not (by_event_time == counted.features).all(), "the order of seq must matter for this test to say anything"
    several = {name for name, i in feature_spec.INDEX.items() if len(np.unique(counted.features[:, i])) > 3}
    assert len(several) >= 17, f"only {several} vary"
