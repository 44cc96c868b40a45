"""Challengers as a daily training makes them from simulated weeks: the recipe that ships, on the days it would see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import simulated_evidence as simulated

from clickledger.scoring import allocation, learn, training
from clickledger.scoring.deciding import Judge
from clickledger.scoring.labels import Stretch
from clickledger.scoring.second_training import Parts
from clickledger.scoring.training import TrainingConfig


class Challenger(NamedTuple):
    """A model with its thresholds, and the parts of the set it is made from."""

    judge: Judge
    parts: Parts


def trained(
    source: simulated.World,
    cutoff_ms: int,
    *,
    days: int = 28,
    seed: int = 0,
    withheld: Sequence[Stretch] = (),
    config: TrainingConfig = training.DEFAULT_CONFIG,
    beside: Challenger | None = None,
) -> Challenger:
    """What a training with this label cut-off makes of the last mature days, beside what is in force by then."""
    built = simulated.evidence(source, cutoff_ms, days=days, withheld=withheld).assembled.dataset
    parts = Parts(*learn.split(built))
    model = training.train_network(parts.train, config, seed)
    in_force = beside and learn.Beside((0, 0), beside.judge.model, beside.judge.thresholds)
    _, found = learn.calibrated(model, parts.later, learn.FPR_MAX, allocation.DEFAULT_CONFIG, in_force)
    return Challenger(Judge(model, found.thresholds), parts)
