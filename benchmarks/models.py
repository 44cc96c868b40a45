"""Models to measure with: the shapes of real ones, so the same arithmetic, without the time to train them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from clickledger.ledger import database, deployments
from clickledger.scoring import feature_spec, transform, velocity
from clickledger.scoring import model as models_
from clickledger.scoring.model import Layer, Model

ACTOR = "benchmark"
FITTED_ROWS = 4096


@dataclass(frozen=True)
class Versions:
    """A registered model and its calibration."""

    model: int
    calibration: int


def network(seed: int = 7) -> Model:
    """The network of the default training configuration with weights by chance; its cost does not depend on them."""
    from clickledger.scoring import training  # noqa: PLC0415 - loads torch, which processes that only append need not

    rng = np.random.default_rng(seed)
    fitted = transform.fit(rng.integers(0, 200, (FITTED_ROWS, len(feature_spec.FEATURES)), dtype=np.int32))
    widths = (len(transform.COLUMNS), *training.DEFAULT_CONFIG.hidden, 1)
    return Model("network", fitted, tuple(_layer(rng, *pair) for pair in pairwise(widths)))


def _layer(rng: np.random.Generator, inputs: int, outputs: int) -> Layer:
    weight = rng.normal(0, inputs**-0.5, (inputs, outputs))
    return models_.on_grid(weight), np.zeros(outputs, np.float32)


def register(conn: database.Connection, model: Model, threshold: float) -> Versions:
    """A model under one threshold (logits) for all slices."""
    version = deployments.register_model(conn, models_.to_artefact(model), model.kind, dict(model.metadata), ACTOR)
    return Versions(version, deployments.set_calibration(conn, version, {"*": threshold}, {}, ACTOR))


def deploy(conn: database.Connection, live: Versions, shadow: Versions | None = None) -> int:
    """All traffic to `live`, `shadow` beside it; the epoch."""
    route = {"slice": "*", "share": 1.0, "model": live.model, "calibration": live.calibration}
    beside = shadow and {"model": shadow.model, "calibration": shadow.calibration}
    routing: dict[str, Any] = {"routes": [route], "shadow": beside, "feature_schema": 1, "facts_version": 0}
    return deployments.deploy(conn, routing, ACTOR)


def deploy_usual(conn: database.Connection) -> None:
    """A network live and the velocity rule in shadow: what a worker has to do on an ordinary day."""
    stable = register(conn, velocity.velocity_model(20), 0.0)
    deploy(conn, register(conn, network(), 1.0), stable)
