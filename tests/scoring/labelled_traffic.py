"""Labelled snapshots drawn from two kinds of clickers, without any counting: what learning is tested on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clickledger.scoring import feature_spec
from clickledger.scoring.dataset import Dataset, Stretch

MONDAY_MS = 1_767_571_200_000  # 2026-01-05 00:00 UTC
WEEK_MS = 7 * 24 * feature_spec.HOUR_MS


@dataclass(frozen=True)
class Traffic:
    """A dataset as a trainer sees it, and what it must not see."""

    dataset: Dataset
    robotic: npt.NDArray[np.bool_]  # the truth, (n,)


def draw(rows: int, seed: int = 0, withheld: tuple[Stretch, ...] = ()) -> Traffic:
    """A week of clicks: 30% robots, quick and with even gaps; of the people, 1 in 4 is labelled and 1 in 20 buys."""
    random = np.random.default_rng(seed)
    robotic = random.random(rows) < 0.3
    time_ms = MONDAY_MS + np.sort(random.integers(0, WEEK_MS, rows))
    features = _snapshots(random, robotic, time_ms)
    purchased = ~robotic & (random.random(rows) < 0.05)
    human = purchased | (~robotic & (random.random(rows) < 0.2))
    for start, end in withheld:
        gone = (time_ms >= start) & (time_ms < end)
        purchased, human = purchased & ~gone, human & ~gone
    slices = np.where(features[:, feature_spec.INDEX["logged_in"]] == 1, "app/in", "web/out")
    return Traffic(Dataset(features, human, purchased, random.integers(0, rows, rows), slices, time_ms), robotic)


def _snapshots(
    random: np.random.Generator, robotic: npt.NDArray[np.bool_], time_ms: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32]:
    rows = len(robotic)
    per_hour = np.where(robotic, random.lognormal(2.8, 0.6, rows), random.lognormal(0.5, 0.7, rows))
    columns = {name: random.poisson(per_hour) for name in feature_spec.FEATURES}
    first = random.random(rows) < 0.2  # a first click has no gaps
    gap_ms = random.lognormal(np.where(robotic, 7.0, 11.0), 1.0)
    for name in ("user_last_gap_ms", "user_gap_min_ms", "user_gap_max_ms"):
        columns[name] = np.where(first, feature_spec.NO_VALUE, gap_ms * random.lognormal(0, 0.3, rows))
    columns["minute_of_week"] = (time_ms - MONDAY_MS) // feature_spec.MINUTE_MS
    columns["logged_in"] = random.integers(0, 2, rows)
    columns["device_kind"] = random.integers(1, 3, rows)
    return np.stack([columns[name] for name in feature_spec.FEATURES], axis=1).astype(np.int32)
