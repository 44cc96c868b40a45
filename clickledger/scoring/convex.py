"""The convex programme of the calibration by slice: how many purchases each group may lose, for the most IVR.

Maximise sum_s (clicks_s / clicks) g_s(f_s), subject to sum_s (purchases_s / purchases) f_s <= budget and
L_s <= f_s <= U_s, with f_s the FPR of group s and g_s its IVR as a concave function of it, in one of two forms:
- `quadratic`: a + b f + c f^2, fitted by least squares with a, b >= 0, c <= 0, rising up to U_s (SLIDR row 14);
- `hull`: the concave hull of the empirical curve; then the programme is linear.

Purchases are the unit throughout: since f_s = k_s / purchases_s, the budget is simply sum_s k_s <= allowed.

Invariants, whatever the solver says:
- the answer is a whole number of purchases for each group, within its bounds, and their sum is within the budget;
- it is worth what the solver's optimum is worth, less at most one purchase of each group, or the problem is refused;
- a larger budget takes from nobody, as long as floors and ceilings stay.

How: the solver's optimum is a bound, not an answer, since its numbers are exact to about 1e-6 of their range only and
are split evenly where slices tie. Whole purchases are given out one by one, each to the group whose g_s rises most by
it, which for concave g_s is optimal among whole numbers (Fox 1966). So no -1e-9 can ever become an index.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cvxpy as cp
import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput, InvariantBroken, Refused
from clickledger.scoring.curves import Curve
from clickledger.scoring.judged import Ints

Floats = npt.NDArray[np.float64]
Form = Literal["quadratic", "hull"]
FORMS: tuple[Form, ...] = get_args(Form)

FIT_POINTS_MAX = 200  # of a curve; more add nothing to three coefficients
_SOLVED = 1e-6  # relative: how far a solver's optimum may lie from the true one


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be divided: one curve a group, bounds and budget in whole purchases."""

    curves: Sequence[Curve]  # (groups,)
    lower: Ints  # (groups,)
    upper: Ints  # (groups,)
    allowed: int

    def __post_init__(self) -> None:
        last = np.array([curve.purchases - 1 for curve in self.curves])
        if not ((self.lower >= 0) & (self.lower <= self.upper) & (self.upper <= last)).all():
            raise InvalidInput(f"bounds: expected 0 <= lower <= upper <= {last}, got {self.lower} and {self.upper}")
        if self.lower.sum() > self.allowed:
            raise InvalidInput(f"floors: expected at most {self.allowed} purchases in all, got {self.lower.sum()}")

    @property
    def unit(self) -> Ints:
        """Purchases that make 1 of the solver's variable (groups,): the range from 0 to the upper bound."""
        return np.maximum(self.upper, 1)

    def points(self, group: int) -> tuple[Floats, Floats]:
        """A group's curve where it is used: purchases / unit, and clicks as a share of all clicks."""
        at = np.arange(int(self.upper[group]) + 1)
        clicks = sum(curve.clicks for curve in self.curves)
        return at / self.unit[group], self.curves[group].invalidated[at] / clicks


def solve(problem: Problem, form: Form) -> Ints:
    """The purchases each group may lose (groups,). Raises Refused when the solver does not reach an optimum."""
    if form == "quadratic":
        coefficients = fit_quadratics(problem)
        values = [_parabola(problem, group, coefficients[group]) for group in range(len(problem.curves))]
        bound = _solve_quadratic(problem, coefficients)
    else:
        values = [_hull_values(*problem.points(group)) for group in range(len(problem.curves))]
        bound = _solve_hull(problem)
    counts = whole(problem, values)
    certify(counts, values, bound, form)
    return counts


def whole(problem: Problem, values: Sequence[Floats]) -> Ints:
    """Whole purchases (groups,) worth most, by the concave values of 0 to `upper` purchases of each group (groups,).

    Each group first gets its floor. Steps worth the same go to the earlier group, whatever the budget.
    """
    steps = [np.minimum.accumulate(np.diff(value)) for value in values]  # concave, roundings aside
    group = np.repeat(np.arange(len(steps)), [len(step) for step in steps])
    place = np.concatenate([np.arange(len(step)) for step in steps])
    worth = np.concatenate(steps)
    free = place >= problem.lower[group]
    best_first = np.lexsort((place[free], group[free], -worth[free]))
    taken = group[free][best_first][: problem.allowed - int(problem.lower.sum())]
    counts = problem.lower + np.bincount(taken, minlength=len(steps))
    if counts.sum() > problem.allowed or (counts > problem.upper).any():
        raise InvariantBroken(f"calibration: expected at most {problem.upper}, {problem.allowed} in all, got {counts}")
    return counts


def certify(counts: Ints, values: Sequence[Floats], bound: float, form: str) -> None:
    """Raise Refused unless whole purchases are worth what the solver's optimum is, less one purchase of each group."""
    worth = sum(float(value[count]) for value, count in zip(values, counts, strict=True))
    one_each = sum(float(np.diff(value).max(initial=0.0)) for value in values)
    slack = _SOLVED * max(worth, _SOLVED)
    if not -slack <= bound - worth <= one_each + slack:
        raise Refused(f"calibration, {form}: expected an optimum of {worth:.8g} or a little more, got {bound:.8g}")


def fit_quadratics(problem: Problem) -> Floats:
    """Coefficients a, b, c of each group's curve (groups, 3), over its purchases / unit; least squares."""
    inputs, values, group = _stacked(problem)
    scale = np.maximum([values[group == s].max() for s in range(len(problem.curves))], 1e-12)
    coefficients = cp.Variable((len(problem.curves), 3))
    fitted = cp.sum(cp.multiply(np.stack([inputs**0, inputs, inputs**2], axis=1), coefficients[group]), axis=1)
    a, b, c = (coefficients[:, i] for i in range(3))
    error = cp.sum_squares(cp.multiply(fitted - values / scale[group], 1.0 / np.sqrt(np.bincount(group)[group])))
    _run(cp.Problem(cp.Minimize(error), [a >= 0, b >= 0, c <= 0, b + 2 * c >= 0]), "quadratic fit")
    found = np.asarray(coefficients.value, dtype=np.float64)
    found[:, :2] = np.maximum(found[:, :2], 0.0)
    found[:, 2] = np.clip(found[:, 2], -found[:, 1] / 2, 0.0)  # the signs hold exactly, not to the solver's tolerance
    return found * scale[:, None]


def hull(inputs: Floats, values: Floats) -> npt.NDArray[np.intp]:
    """Indices of the upper concave hull's corners, given points by rising input (monotone chain, Andrew 1979)."""
    corners: list[int] = []
    for point in range(len(inputs)):
        while len(corners) > 1 and not _bends_down(inputs, values, corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    return np.array(corners, dtype=np.intp)


def _parabola(problem: Problem, group: int, coefficients: Floats) -> Floats:
    inputs, _ = problem.points(group)
    return np.asarray(coefficients @ np.stack([inputs**0, inputs, inputs**2]), dtype=np.float64)


def _hull_values(inputs: Floats, values: Floats) -> Floats:
    at = hull(inputs, values)
    return np.interp(inputs, inputs[at], values[at])


def _solve_quadratic(problem: Problem, coefficients: Floats) -> float:
    share = cp.Variable(len(problem.curves))
    a, b, c = coefficients.T
    scale = _scale(b)
    gain = (b / scale) @ share + (c / scale) @ cp.square(share)
    return float(a.sum()) + scale * _run(cp.Problem(cp.Maximize(gain), _bounds(problem, share)), "quadratic")


def _solve_hull(problem: Problem) -> float:
    """Each group's gain lies below every edge of its hull; the sum of gains is what is maximised."""
    share, gain = cp.Variable(len(problem.curves)), cp.Variable(len(problem.curves))
    edges = [_edges(*problem.points(group)) for group in range(len(problem.curves))]
    group = np.repeat(np.arange(len(edges)), [len(slopes) for slopes, _ in edges])
    slopes, offsets = (np.concatenate([edge[i] for edge in edges]) for i in range(2))
    scale = _scale(slopes)
    below = gain[group] <= cp.multiply(slopes / scale, share[group]) + offsets / scale
    return scale * _run(cp.Problem(cp.Maximize(cp.sum(gain)), [below, *_bounds(problem, share)]), "hull")


def _bounds(problem: Problem, share: cp.Variable) -> list[cp.Constraint]:
    return [
        problem.unit @ share <= problem.allowed,
        share >= problem.lower / problem.unit,
        share <= problem.upper / problem.unit,
    ]


def _edges(inputs: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Slope and offset of each edge of a curve's hull; of a single point, a level line."""
    at = hull(inputs, values)
    if len(at) == 1:
        return np.zeros(1), values[at]
    slopes = np.diff(values[at]) / np.diff(inputs[at])
    return slopes, values[at][:-1] - slopes * inputs[at][:-1]


def _bends_down(inputs: Floats, values: Floats, first: int, middle: int, last: int) -> bool:
    rise = (values[middle] - values[first]) * (inputs[last] - inputs[first])
    return bool(rise > (values[last] - values[first]) * (inputs[middle] - inputs[first]))


def _stacked(problem: Problem) -> tuple[Floats, Floats, npt.NDArray[np.intp]]:
    """The points of all groups' curves, each thinned evenly, and the group of each point."""
    parts = []
    for group in range(len(problem.curves)):
        inputs, values = problem.points(group)
        kept = np.unique(np.linspace(0, len(inputs) - 1, FIT_POINTS_MAX).astype(np.intp))
        parts.append((inputs[kept], values[kept], np.full(len(kept), group)))
    inputs, values, groups = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return inputs, values, groups.astype(np.intp)


def _scale(gains: Floats) -> float:
    """What brings the objective near 1, where a solver's tolerances are meant to be."""
    return float(max(np.abs(gains).max(initial=0.0), 1e-12))


def _run(problem: cp.Problem, name: str) -> float:
    """Solve with Clarabel; the optimum. Raises Refused unless it says "optimal": an inaccurate answer is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # cvxpy warns of what the status says, too
        try:
            problem.solve(solver=cp.CLARABEL)
        except cp.error.SolverError as error:
            raise Refused(f"calibration by slice, {name}: {error}") from error
    status: Any = problem.status
    if status != cp.OPTIMAL:
        raise Refused(f"calibration by slice, {name}: expected an optimum, got {status}")
    return float(problem.value)
