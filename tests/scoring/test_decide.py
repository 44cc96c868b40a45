"""The one rule of deciding, and who is decided by which model."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickledger.errors import InvalidInput, InvariantBroken
from clickledger.scoring import decide


class FirstColumn:
    """Scores a click by the first value of its snapshot."""

    def score(self, features: np.ndarray) -> np.ndarray:
        return features[:, 0].astype(np.float32)


def snapshots(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)[:, None]


def test_a_score_that_reaches_the_threshold_is_invalid() -> None:
    decided = decide.decide(snapshots(1, 2, 3), ["a"] * 3, [""] * 3, FirstColumn(), {"*": 2.0})
    assert decided.verdict == ["valid", "invalid", "invalid"]
    assert decided.reason == ["", "", ""]


def test_each_slice_has_its_own_threshold_and_unknown_ones_the_fallback() -> None:
    decided = decide.decide(
        snapshots(5, 5, 5), ["a", "b", "new"], [""] * 3, FirstColumn(), {"a": 9.0, "b": 5.0, "*": 7.0}
    )
    assert decided.threshold.tolist() == [9.0, 5.0, 7.0]
    assert decided.verdict == ["valid", "invalid", "valid"]


def test_a_click_that_could_not_be_counted_is_undecided_for_that_reason() -> None:
    decided = decide.decide(snapshots(9, 9), ["a", "a"], ["late", ""], FirstColumn(), {"*": 0.0})
    assert decided.verdict == ["undecided", "invalid"] and decided.reason == ["late", ""]
    assert np.isnan([decided.score[0], decided.threshold[0]]).all()


def test_without_a_model_everything_is_undecided_and_no_threshold_is_needed() -> None:
    decided = decide.decide(snapshots(9, 9), ["a", "b"], ["", "future"], None, {})
    assert decided.verdict == ["undecided", "undecided"] and decided.reason == ["model_absent", "future"]
    assert np.isnan(decided.score).all() and np.isnan(decided.threshold).all()


@given(st.lists(st.tuples(st.integers(-5, 5), st.sampled_from("abc"), st.sampled_from(["", "", "late"])), max_size=40))
def test_deciding_together_is_deciding_one_by_one(clicks: list[tuple[int, str, str]]) -> None:
    thresholds = {"a": 1.0, "*": -1.0}
    values, slices, reasons = ([click[i] for click in clicks] for i in range(3))
    together = decide.decide(
        np.array(values, dtype=np.int32).reshape(-1, 1), slices, reasons, FirstColumn(), thresholds
    )
    alone = [decide.decide(snapshots(v), [s], [r], FirstColumn(), thresholds) for v, s, r in clicks]
    assert together.verdict == [one.verdict[0] for one in alone]
    assert together.score.tobytes() == b"".join(one.score.tobytes() for one in alone)


def test_a_slice_without_threshold_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"slice 'a': expected a threshold of its own or for '\*', got None"):
        decide.decide(snapshots(1), ["a"], [""], FirstColumn(), {"b": 1.0})


def test_a_score_that_is_not_a_number_never_becomes_a_verdict() -> None:
    class Broken:
        def score(self, features: np.ndarray) -> np.ndarray:
            return np.full(len(features), np.nan, dtype=np.float32)

    with pytest.raises(InvariantBroken, match="finite scores"):
        decide.decide(snapshots(1), ["a"], [""], Broken(), {"*": 1.0})


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(InvalidInput, match="expected 2 slices and reasons, got 1 and 2"):
        decide.decide(snapshots(1, 2), ["a"], ["", ""], FirstColumn(), {"*": 1.0})


def one(slice_: str, share: float, model: int, calibration: int = 1) -> dict[str, Any]:
    return {"slice": slice_, "share": share, "model": model, "calibration": calibration}


USERS = [uuid.UUID(int=i).bytes for i in range(4_000)]


def models(routing: dict[str, Any], slice_: str = "a") -> list[int]:
    return [model for model, _ in decide.route(routing, [slice_] * len(USERS), USERS)]


def test_one_route_takes_everybody() -> None:
    routing = {"routes": [one("*", 1.0, 3, 8)]}
    assert decide.route(routing, ["a", "b"], USERS[:2]) == [(3, 8), (3, 8)]


def test_a_slice_with_routes_of_its_own_leaves_the_fallback() -> None:
    routing = {"routes": [one("*", 1.0, 1), one("web/out", 1.0, 2)]}
    assert [m for m, _ in decide.route(routing, ["web/out", "app/in"], USERS[:2])] == [2, 1]


def test_a_canary_gets_its_share_of_users() -> None:
    assert models({"routes": [one("*", 0.05, 2), one("*", 0.95, 1)]}).count(2) == pytest.approx(200, abs=60)


def test_a_user_stays_with_a_canary_that_grows() -> None:
    small, large = (models({"routes": [one("*", s, 2), one("*", 1 - s, 1)]}) for s in (0.05, 0.4))
    assert all(after == 2 for before, after in zip(small, large, strict=True) if before == 2)


def test_a_route_without_a_share_gets_nobody() -> None:
    assert set(models({"routes": [one("*", 0.0, 2), one("*", 1.0, 1)]})) == {1}


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ([], r"expected one for slice '\*'"),
        ([one("a", 1.0, 1)], r"expected one for slice '\*', got \['a'\]"),
        ([one("*", 0.5, 1)], r"slice '\*': expected shares that add up to 1, got 0.5"),
        ([one("*", 1.5, 1), one("*", -0.5, 2)], "add up to 1"),
        ([{"slice": "*", "share": 1.0}], "expected slice, share, model and calibration"),
    ],
)
def test_a_routing_that_does_not_add_up_is_refused(routes: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        decide.route({"routes": routes}, ["a"], USERS[:1])
