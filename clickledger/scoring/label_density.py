"""How dense human labels are at each hour of the week, by where they come from and by login status (SLIDR row 19).

A model learns from labels that it lacks at some hours that people do not click then. What a guardrail refuses by, this
shows: a feed that was down is a dark stretch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from clickledger.scoring import feature_spec, labels
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.guards_of_labels import LOGIN_STATUSES, OUTCOMES, STANDING, WEEK_HOURS

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_THURSDAY = 3  # 1970-01-01


def by_hour_of_week(built: Dataset) -> dict[str, dict[str, dict[str, list[int]]]]:
    """By source and login status the `clicks` and human `labels` of each hour of the week from Monday 00:00 UTC (168,).

    A click that led to an outcome is counted there and not to its account's standing. Statuses without clicks are left
    out. JSON values.
    """
    status = built.features[:, feature_spec.INDEX["logged_in"]] + 1
    hour = (built.event_time_ms // labels.HOUR_MS + _THURSDAY * 24) % WEEK_HOURS
    sources = {OUTCOMES: built.purchased & built.human, STANDING: built.human & ~built.purchased}
    return {
        source: {
            LOGIN_STATUSES[each]: {
                "clicks": _counts(hour[status == each]),
                "labels": _counts(hour[flags & (status == each)]),
            }
            for each in np.unique(status).tolist()
        }
        for source, flags in sources.items()
    }


def thinnest(cells: dict[str, list[int]]) -> dict[str, Any] | None:
    """The hour of the week with the lowest density among those that had clicks, and how many hours had none."""
    seen = [hour for hour, clicks in enumerate(cells["clicks"]) if clicks]
    if not seen:
        return None
    lowest = min(seen, key=lambda hour: cells["labels"][hour] / cells["clicks"][hour])
    return {
        "hour": f"{WEEKDAYS[lowest // 24]} {lowest % 24:02d}:00",
        "density": cells["labels"][lowest] / cells["clicks"][lowest],
        "mean": sum(cells["labels"]) / sum(cells["clicks"]),
        "hours_without_clicks": WEEK_HOURS - len(seen),
    }


def _counts(hours: Any) -> list[int]:
    return [int(count) for count in np.bincount(hours, minlength=WEEK_HOURS)]
