"""Snapshot + model + thresholds -> verdict: the one rule, called by the live worker and by every replay.

Pure: what it returns depends on its arguments only. A replay means something because of that.

A click is `invalid` iff its score reaches the threshold of its slice, else `valid`. It is `undecided`, with score and
threshold NaN, when the caller names a reason (counted too late, ...) or no model is there. Undecided is never valid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput, InvariantBroken

VALID, INVALID, UNDECIDED = "valid", "invalid", "undecided"
MODEL_ABSENT = "model_absent"
ANY_SLICE = "*"
_SHARE_DOMAIN = b"clickledger/route/1\0"  # own hash of the user: no other use of the pseudonym may correlate with it
_SHARE_SLACK = 1e-9


class Scorer(Protocol):
    """What `decide` needs of a model."""

    def score(self, features: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True)
class Decided:
    """Decisions of n clicks, in their order; `reason` is '' unless undecided."""

    score: npt.NDArray[np.float32]  # (n,)
    threshold: npt.NDArray[np.float32]  # (n,)
    verdict: list[str]
    reason: list[str]


def decide(
    features: npt.NDArray[np.int32],
    slices: Sequence[str],
    undecided_reasons: Sequence[str],
    model: Scorer | None,
    thresholds: Mapping[str, float],
) -> Decided:
    """Decide n clicks: snapshots int32 (n, k), their slices, and why each cannot be decided ('' when it can).

    `thresholds` maps a slice to a logit, "*" to that of all others; it is not read without a model.
    Raises InvalidInput when lengths differ or a slice has no threshold.
    """
    n = len(features)
    if len(slices) != n or len(undecided_reasons) != n:
        raise InvalidInput(f"expected {n} slices and reasons, got {len(slices)} and {len(undecided_reasons)}")
    reasons = [reason or ("" if model else MODEL_ABSENT) for reason in undecided_reasons]
    score, threshold = np.full(n, np.nan, dtype=np.float32), np.full(n, np.nan, dtype=np.float32)
    able = np.array([i for i, reason in enumerate(reasons) if not reason], dtype=np.intp)
    if model is not None and len(able):
        score[able] = _finite(model.score(features[able]))
        threshold[able] = [threshold_of(thresholds, slices[i]) for i in able]
    invalid = score >= threshold  # NaN compares false, but those rows have a reason
    verdict = [UNDECIDED if r else INVALID if i else VALID for r, i in zip(reasons, invalid.tolist(), strict=True)]
    return Decided(score, threshold, verdict, reasons)


def threshold_of(thresholds: Mapping[str, float], slice_: str) -> float:
    """The threshold in force for a slice, a float32 value. Raises InvalidInput when there is none, or it is NaN."""
    threshold = thresholds.get(slice_, thresholds.get(ANY_SLICE))
    if threshold is None or np.isnan(threshold):
        raise InvalidInput(f"slice {slice_!r}: expected a threshold of its own or for '*', got {threshold}")
    return threshold


def _finite(score: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not np.isfinite(score).all():  # a NaN would silently compare as valid
        raise InvariantBroken(f"expected finite scores, got {score[~np.isfinite(score)][0]}")
    return score


@dataclass(frozen=True)
class _Route:
    share: float
    versions: tuple[int, int]


def route(routing: Mapping[str, Any], slices: Sequence[str], user_keys: Sequence[bytes]) -> list[tuple[int, int]]:
    """(model version, calibration version) for each click, by slice and by hash of its user.

    The routes of a slice, or those of "*", divide the users between them in their listed order: a user stays with the
    first route while its share grows. Raises InvalidInput naming the slice and field when the routing does not add up.
    """
    if len(slices) != len(user_keys):
        raise InvalidInput(f"expected as many user keys as slices ({len(slices)}), got {len(user_keys)}")
    routes = check_routing(routing)
    pairs = zip(slices, user_keys, strict=True)
    return [_pick(routes.get(slice_) or routes[ANY_SLICE], user_key) for slice_, user_key in pairs]


def check_routing(routing: Mapping[str, Any]) -> dict[str, list[_Route]]:
    """The routes of each slice; raises InvalidInput unless "*" is routed and each slice's shares add up to 1."""
    routes: dict[str, list[_Route]] = {}
    for entry in routing.get("routes", ()):
        try:
            made = _Route(float(entry["share"]), (int(entry["model"]), int(entry["calibration"])))
            routes.setdefault(str(entry["slice"]), []).append(made)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"route: expected slice, share, model and calibration, got {entry!r}") from error
    if ANY_SLICE not in routes:
        raise InvalidInput(f"routes: expected one for slice '*', got {sorted(routes)}")
    for slice_, shared in routes.items():
        total = sum(one.share for one in shared)
        if any(one.share < 0 for one in shared) or abs(total - 1) > _SHARE_SLACK:
            raise InvalidInput(f"routes of slice {slice_!r}: expected shares that add up to 1, got {total:g}")
    return routes


def _pick(routes: Sequence[_Route], user_key: bytes) -> tuple[int, int]:
    if len(routes) == 1:
        return routes[0].versions
    at = user_share(user_key)
    below = 0.0
    for one in routes[:-1]:
        below += one.share
        if at < below:
            return one.versions
    return routes[-1].versions


def user_share(user_key: bytes) -> float:
    """Where a user lies between 0 (included) and 1: the same in every deployment."""
    return int.from_bytes(hashlib.sha256(_SHARE_DOMAIN + user_key).digest()[:6], "big") / 2.0**48
