"""Rules of one counter, which nobody trains: what decides on a new ledger, and what models are compared with."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np

from clickledger.errors import InvalidInput
from clickledger.scoring import feature_spec, transform
from clickledger.scoring.model import Model

PROFILE = {"numpy": np.__version__, "machine": platform.machine()}  # what computed the rule's one number


def velocity_model(clicks_per_hour: int = 20) -> Model:
    """The rule for an empty ledger: a user's clicks in the last hour, in octaves above `clicks_per_hour`."""
    return velocity_rule("user_clicks_1h", clicks_per_hour, {"clicks_per_hour": clicks_per_hour, "profile": PROFILE})


def velocity_rule(counter: str, limit: int = 20, metadata: Mapping[str, Any] | None = None) -> Model:
    """A rule of one counter, in octaves above `limit` clicks.

    Its score reaches 0 at that many clicks and never falls as they grow: threshold 0 makes it the rule of its name.
    Raises InvalidInput for a column that is no count.
    """
    if counter not in transform.COUNTS:
        raise InvalidInput(f"counter: expected one of {', '.join(transform.COUNTS)}, got {counter!r}")
    reached = np.zeros((1, len(feature_spec.FEATURES)), dtype=np.int32)
    reached[0, feature_spec.INDEX[counter]] = limit
    column = transform.COLUMNS.index(counter)
    weight = np.zeros((len(transform.COLUMNS), 1), dtype=np.float32)
    weight[column] = 1.0
    bias = -transform.encode(reached)[0, column : column + 1].astype(np.float32)
    unit = transform.Transform(np.zeros(len(weight), dtype=np.float32), np.ones(len(weight), dtype=np.float32))
    told = {"counter": counter, "limit": limit, "profile": PROFILE} if metadata is None else metadata
    return Model("velocity", unit, ((weight, bias),), told)
