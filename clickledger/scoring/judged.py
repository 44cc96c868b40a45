"""Clicks with their scores: what thresholds are made from, and what is said of thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput
from clickledger.scoring import decide, feature_spec

Scores = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

# More than k clicks of one session in an hour (SLIDR row 5). Simulated people pass 10 in 0.4% of their sessions.
SESSION_CLICKS_MAX = 10


@dataclass(frozen=True, eq=False)
class Judged:
    """n scored clicks, one array a column, in any order. Raises InvalidInput for columns that do not fit."""

    score: Scores  # (n,) logits, finite
    purchased: Flags  # (n,) led to an outcome: stands for a human
    hot: Flags  # (n,) in a session with too many clicks in an hour: stands for a robot
    slice: npt.NDArray[np.str_]  # (n,)
    event_time_ms: Ints  # (n,)

    def __post_init__(self) -> None:
        if self.score.dtype != np.float32 or not np.isfinite(self.score).all():
            raise InvalidInput(f"scores: expected finite float32, got {self.score.dtype}")
        shapes = {field.name: getattr(self, field.name).shape for field in fields(self)}
        if set(shapes.values()) != {(len(self.score),)}:
            raise InvalidInput(f"judged clicks: expected columns of one length, got {shapes}")

    def __len__(self) -> int:
        return len(self.score)

    @property
    def purchases(self) -> int:
        """How many of the clicks led to an outcome."""
        return int(np.count_nonzero(self.purchased))

    def where(self, rows: Flags) -> Judged:
        """The clicks for which a flag (n,) is set."""
        return Judged(*(getattr(self, field.name)[rows] for field in fields(self)))

    def in_slices(self, names: set[str]) -> Judged:
        """The clicks of some slices."""
        return self.where(np.isin(self.slice, sorted(names)))

    def split(self, later_share: float) -> tuple[Judged, Judged]:
        """Earlier and later clicks, cut at a moment: clicks of one millisecond stay together, whatever their order."""
        place = min(int(len(self) * (1.0 - later_share)), len(self) - 1)
        moment = np.partition(self.event_time_ms, place)[place]
        return self.where(self.event_time_ms < moment), self.where(self.event_time_ms >= moment)

    def invalid(self, thresholds: Mapping[str, float]) -> Flags:
        """Flag of each click (n,): its score reaches the threshold of its slice, as in `decide.decide`."""
        return reaching(self.score, self.slice, thresholds)


def reaching(score: Scores, slices: npt.NDArray[np.str_], thresholds: Mapping[str, float]) -> Flags:
    """Flag of each click (n,): its score (n,) reaches the threshold of its slice (n,), as in `decide.decide`."""
    names, index = np.unique(slices, return_inverse=True)
    limits = np.array([decide.threshold_of(thresholds, str(name)) for name in names], dtype=np.float32)
    reached: Flags = score >= limits[index]
    return reached


def hot(features: npt.NDArray[np.int32], session_clicks_max: int = SESSION_CLICKS_MAX) -> Flags:
    """Flag of each snapshot (n, k): its session had more clicks than that in an hour, this one included.

    Told from the snapshot alone, so the first clicks of a session that becomes hot later are not among them.
    Raises InvalidInput for a number the counters cannot pass: they count at most `feature_spec.USER_EVENTS`.
    """
    if not 1 <= session_clicks_max < feature_spec.USER_EVENTS:
        raise InvalidInput(
            f"session_clicks_max: expected 1 to {feature_spec.USER_EVENTS - 1}, got {session_clicks_max}"
        )
    flags: Flags = features[:, feature_spec.INDEX["user_session_clicks_1h"]] > session_clicks_max
    return flags
