"""Two models with their calibrations on the same recent clicks: on what they differ, and what each does.

Invariants:
- both decide recorded snapshots, none of which either was trained on; every figure is of the same clicks for both;
- nothing is recorded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from clickledger.errors import Refused
from clickledger.ledger import database, deployments
from clickledger.ledger.aliases import Pair
from clickledger.scoring import curves, judged
from clickledger.scoring import model as models_
from clickledger.scoring import recent_clicks as recent
from clickledger.scoring.decide import ANY_SLICE
from clickledger.scoring.findings import DEFAULT_LIMITS, Limits
from clickledger.scoring.judged import Flags
from clickledger.scoring.recent_clicks import RecentClicks


def compare(conn: database.Connection, one: Pair, other: Pair, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """What `one` and `other` say of the newest clicks; JSON values, shares 0..1, None where nothing is there to share.

    `slices` has "*" for all of them. Raises NotFound for a pair that is not registered, Refused without clicks.
    """
    for pair in (one, other):
        deployments.calibration_entry(conn, *pair)  # raises NotFound
    loaded = [models_.from_artefact(deployments.load_artefact(conn, model)) for model, _ in (one, other)]
    trained_to_ms = [int(each.metadata.get("dataset", {}).get("to_ms") or 0) for each in loaded]
    schema = max(each.feature_schema for each in loaded)
    clicks = recent.read(conn, limits, after_ms=max(trained_to_ms), schema=schema)
    if not len(clicks):
        raise Refused(f"models {one[0]} and {other[0]}: expected recent clicks that neither was trained on, got none")
    hot = judged.hot(clicks.features)
    invalid = [
        _invalid(clicks, hot, each, deployments.load_thresholds(conn, pair[1]))
        for each, pair in zip(loaded, (one, other), strict=True)
    ]
    names = sorted({str(name) for name in clicks.slice})
    groups = {ANY_SLICE: np.ones(len(clicks), dtype=np.bool_), **{name: clicks.slice == name for name in names}}
    return {
        "one": {"model": one[0], "calibration": one[1]},
        "other": {"model": other[0], "calibration": other[1]},
        "clicks": clicks.summary(),
        "slices": {name: _figures(clicks, invalid, hot, rows) for name, rows in groups.items()},
        "known_customers": _known(clicks, invalid),
    }


def _invalid(clicks: RecentClicks, hot: Flags, model: models_.Model, thresholds: dict[str, float]) -> Flags:
    scores = model.score(clicks.features)
    return judged.Judged(scores, clicks.purchased, hot, clicks.slice, clicks.event_time_ms).invalid(thresholds)


def _figures(clicks: RecentClicks, invalid: list[Flags], hot: Flags, rows: Flags) -> dict[str, Any]:
    one, other = (flags[rows] for flags in invalid)
    purchased, crowded = clicks.purchased[rows], hot[rows]
    return {
        "clicks": int(rows.sum()),
        "purchases": int(purchased.sum()),
        "crowded": int(crowded.sum()),
        "to_invalid": int((other & ~one).sum()),
        "to_valid": int((one & ~other).sum()),
        "agreement": float((one == other).mean()),
        "ivr": [curves.invalidation_rate(flags) for flags in (one, other)],
        "fpr": [curves.share_of(flags, purchased) for flags in (one, other)],
        "coverage": [curves.share_of(flags, crowded) for flags in (one, other)],
    }


def _known(clicks: RecentClicks, invalid: list[Flags]) -> dict[str, int]:
    """Clicks and accounts of customers known by then, and on how many of them the two differ either way."""
    one, other = invalid
    sides = {"known": clicks.known, "to_invalid": clicks.known & other & ~one, "to_valid": clicks.known & one & ~other}
    return {
        **{f"clicks_{name}": int(flags.sum()) for name, flags in sides.items()},
        **{f"accounts_{name}": len(np.unique(clicks.user[flags])) for name, flags in sides.items()},
    }
