"""The convex programme divides the budget as well as can be, and no answer of a solver can do harm."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_clicks import SLICES, draw

from clickledger.errors import InvalidInput, Refused
from clickledger.scoring import convex, curves
from clickledger.scoring.convex import Problem

Ints = np.ndarray


def problem(seed: int, rows: int, allowed: int, tied: bool = False) -> Problem:
    clicks = draw(seed, rows, tied, purchase_share=0.5)
    of = [curves.curve(clicks.in_slices({name})) for name in SLICES]
    upper = np.array([min(curve.purchases // 3, 25) for curve in of])
    return Problem(of, np.minimum(upper, np.array([0, 1, 0, 2])), upper, allowed)


def best_by_single_purchases(of: Problem) -> float:
    """The optimum over the hulls, one purchase after the other to whom it gains most: another way to the same sum."""
    values = [_hull_values(*of.points(group)) for group in range(len(of.curves))]
    counts = of.lower.copy()
    while counts.sum() < of.allowed:
        gains = [v[k + 1] - v[k] if k < u else -1.0 for v, k, u in zip(values, counts, of.upper, strict=True)]
        if max(gains) < 0:
            break
        counts[int(np.argmax(gains))] += 1
    return gain(of, counts)


def gain(of: Problem, counts: Ints) -> float:
    return sum(_hull_values(*of.points(group))[k] for group, k in enumerate(counts))


def _hull_values(inputs: np.ndarray, values: np.ndarray) -> np.ndarray:
    at = convex.hull(inputs, values)
    return np.interp(inputs, inputs[at], values[at])


@given(st.integers(0, 2**32 - 1), st.integers(400, 1500), st.integers(3, 60), st.booleans())
@settings(max_examples=20, deadline=None)
def test_whole_purchases_are_worth_the_most_there_is(seed: int, rows: int, allowed: int, tied: bool) -> None:
    given_ = problem(seed, rows, allowed, tied)
    counts = convex.solve(given_, "hull")
    assert counts.sum() <= allowed and (given_.lower <= counts).all() and (counts <= given_.upper).all()
    assert gain(given_, counts) == pytest.approx(best_by_single_purchases(given_), abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(400, 1500), st.booleans())
@settings(max_examples=10, deadline=None)
def test_fitted_quadratics_are_concave_and_rise(seed: int, rows: int, tied: bool) -> None:
    a, b, c = convex.fit_quadratics(problem(seed, rows, 5, tied)).T
    assert (a >= 0).all() and (b >= 0).all() and (c <= 0).all() and (b + 2 * c >= 0).all()


def test_a_quadratic_is_found_again() -> None:
    x = np.arange(26) / 25
    clicks, purchases = 100_000, 100
    invalidated = np.rint(clicks * (0.1 + 0.3 * x - 0.12 * x**2)).astype(np.int64)
    padded = np.concatenate([invalidated, np.full(purchases - 26, invalidated[-1])])
    curve = curves.Curve(clicks, 0, np.zeros(purchases, np.float32), np.arange(purchases), padded, padded * 0)
    one = Problem([curve], np.array([0]), np.array([25]), 10)
    assert convex.fit_quadratics(one)[0] == pytest.approx([0.1, 0.3, -0.12], abs=1e-4)


@pytest.mark.parametrize("form", convex.FORMS)
@given(st.integers(0, 2**32 - 1), st.integers(400, 1200), st.integers(3, 40), st.integers(0, 20))
@settings(max_examples=8, deadline=None)
def test_a_larger_budget_takes_from_nobody(form: convex.Form, seed: int, rows: int, allowed: int, more: int) -> None:
    less = convex.solve(problem(seed, rows, allowed), form)
    assert (convex.solve(problem(seed, rows, allowed + more), form) >= less).all()


@given(st.floats(-1e3, 1e3), st.sampled_from(convex.FORMS))
@settings(max_examples=10, deadline=None)
def test_no_optimum_that_a_solver_claims_leaves_the_bounds(off: float, form: convex.Form) -> None:
    given_ = problem(1, 1000, 20)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cp.Problem, "value", property(lambda self: off))
        try:
            counts = convex.solve(given_, form)
        except Refused:
            return
    assert counts.sum() <= 20 and (given_.lower <= counts).all() and (counts <= given_.upper).all()


def test_no_budget_loses_no_purchase_and_so_never_everything() -> None:
    given_ = problem(1, 1000, 200)
    nothing = Problem(given_.curves, np.zeros(4, np.int64), given_.upper, 0)
    for form in convex.FORMS:
        assert convex.solve(nothing, form).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("claimed", [float("nan"), float("inf"), 0.0, 2.0])
def test_an_optimum_that_is_none_is_refused(claimed: float) -> None:
    with pytest.raises(Refused, match="expected an optimum of"):
        convex.certify(np.array([1]), [np.array([0.4, 0.5])], claimed, "hull")


def test_a_solver_that_gives_up_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cp.Problem, "status", cp.OPTIMAL_INACCURATE)
    with pytest.raises(Refused, match="expected an optimum, got optimal_inaccurate"):
        convex.solve(problem(1, 1000, 20), "hull")


def test_floors_beyond_the_budget_are_no_problem_to_solve() -> None:
    with pytest.raises(InvalidInput, match="expected at most 2 purchases in all, got 3"):
        problem(1, 1000, 2)


def test_a_hull_bends_down_and_lies_above() -> None:
    random = np.random.default_rng(1)
    x, y = np.arange(60) / 60, np.cumsum(random.random(60))
    at = convex.hull(x, y)
    assert (np.diff(np.diff(y[at]) / np.diff(x[at])) < 0).all()
    assert (np.interp(x, x[at], y[at]) >= y - 1e-12).all()
