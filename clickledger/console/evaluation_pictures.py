"""The pictures of an evaluation, as SVG: for the report's page and for the gallery.

Invariants:
- the same evaluation gives the same bytes: pictures carry neither a date nor random names;
- nothing is told by colour alone: lines differ in their dashes, points in their shape, and all are named;
- every picture has a text in its place, which says what is to be seen on it, with figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from clickledger.console import density_picture, report_page
from clickledger.console.report_page import GRID, INK, LOOK, MUTED, Picture
from clickledger.scoring import curves, examination, label_density
from clickledger.scoring.calibration_trial import EQUAL, GLOBAL, SHIPPED, Trial
from clickledger.scoring.curves import Curve
from clickledger.scoring.examination import Examination

NAMES = {"network": "network", "logistic_regression": "logistic regression", "velocity": "velocity rule"}
PART_NAMES = {"*": "all clicks", "*/in": "all logged in", "*/out": "all logged out", "*/unknown": "login unknown"}
LOOKS = (("#0b5cad", "-", "o"), ("#b4500b", "--", "s"), ("#4b5563", ":", "^"), ("#7a3e9d", "-.", "D"))
SETS = {  # edge, shape, face
    GLOBAL: ("#4b5563", "^", "white"),
    EQUAL: ("#b4500b", "o", "white"),
    SHIPPED: ("#0b5cad", "s", "#0b5cad"),
}
SET_NAMES = {
    GLOBAL: "before: one threshold, at the budget",
    EQUAL: "one threshold, losing as many purchases",
    SHIPPED: "after: by slice",
}
SLICE_PURCHASES_MIN = 10
FPR_LABEL = "FPR: share of purchasing clicks invalidated (square-root scale)"
FPR_TICKS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def of_models(of: Mapping[str, Curve], budgets: Sequence[float]) -> Picture:
    """IVR over FPR of every model over all clicks of the test part, budgets and knees marked."""
    knees = {kind: curves.knee(curve) for kind, curve in of.items()}
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(8.4, 4.4), layout="constrained")
        axes = figure.add_subplot()
        for (kind, curve), (color, dashes, shape) in zip(of.items(), LOOKS, strict=False):
            _line(axes, curve, color, dashes)
            reached = [_ivr_at(curve, budget) for budget in budgets]
            axes.plot(budgets, reached, shape, color=color, markersize=6)
            axes.plot(knees[kind].fpr, knees[kind].ivr, "*", color=color, markersize=13, markeredgecolor="white")
            axes.plot([], [], shape, linestyle=dashes, color=color, markersize=6, label=name_of(kind))
        _fpr_axis(axes)
        axes.set_ylabel("IVR: share of all clicks invalidated")
        axes.plot([], [], "*", color=MUTED, markersize=11, label="knee of the curve")
        axes.legend(frameon=False, loc="lower right", handlelength=3.4)
    told = ", ".join(
        f"{name_of(kind)} {_ivr_at(curve, budgets[0]):.1%} (knee at FPR {knees[kind].fpr:.1%}, IVR "
        f"{knees[kind].ivr:.1%})"
        for kind, curve in of.items()
    )
    caption = (
        f"How many clicks each model invalidates (IVR) for what it costs in purchasing clicks (FPR). At FPR "
        f"{budgets[0]:.0%}: {told}. The higher curve is the better model; stars are the knees, beyond which a lost "
        "purchase buys less than the average one."
    )
    return report_page.picture("curves", "IVR against FPR, all clicks", caption, "Line chart", figure)


def of_slices(trial: Trial) -> Picture:
    """IVR over FPR in each of `drawn_slices`, of which there are some, with its knee and the thresholds."""
    names = drawn_slices(trial)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(8.8, 2.3 * rows + 0.9), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            _slice_panel(axes, name, trial)
        for axes in grid.flat[len(names) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("IVR in the slice")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)
    said = "; ".join(_slice_said(name, trial) for name in names)
    caption = (
        "The curve of each slice on the later clicks, its knee, and where three sets of thresholds lie on it: "
        "one at the "
        "budget, one that loses as many purchases as what ships, and what ships. The same threshold costs slices "
        f"unequally; their FPR, in this order: {said}."
    )
    return report_page.picture("slices", "IVR against FPR, by slice", caption, "A line chart for each slice", figure)


def drawn_slices(trial: Trial) -> list[str]:
    """The slices with purchases enough for a curve: fewer draw a staircase of a few steps, which says nothing."""
    slices = [name for name in trial.curves if not name.startswith("*")]
    return [name for name in slices if trial.curves[name].purchases >= SLICE_PURCHASES_MIN]


def before_and_after(trial: Trial) -> Picture:
    """FPR, IVR and coverage of each part, before and after calibration by slice, with intervals."""
    figures = trial.fields["figures"]
    names = list(figures[SHIPPED])
    panels = (("fpr", "FPR"), ("ivr", "IVR"), ("coverage", "robotic coverage"))
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(8.8, 0.5 * len(names) + 1.5), layout="constrained")
        for axes, (rate, title) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
            for number, (which, look) in enumerate(SETS.items()):
                parts = [figures[which][name] for name in names]
                _whiskers(axes, parts, rate, look, (number - 1) * 0.24, SET_NAMES[which])
            axes.set_title(title)
            axes.set_yticks(range(len(names)), [_part_name(name) for name in names])
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
            _plain(axes, "x")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
    caption = _before_after_said(trial)
    return report_page.picture("calibration", "Before and after calibration by slice", caption, "Dot plot", figure)


def of_labels(seen: Examination) -> Picture:
    """Density of human labels by hour of the week."""
    said = []
    for source, by_login in seen.density.items():
        for login, cells in by_login.items():
            if (low := label_density.thinnest(cells)) is not None:
                said.append(
                    f"{source}, {login}: {low['mean']:.1%} on average, least {low['density']:.1%} at {low['hour']} UTC"
                )
    caption = (
        "The share of clicks labelled human at each hour of the week of the training part, by the label's source "
        "(outcomes: the click led to one; standing: its account has a high RFM score) and login status. "
        f"{'; '.join(said)}."
    )
    alt = f"Heat map with a number in each cell. {caption}"
    svg = density_picture.heat_map(seen.density, alt)
    return Picture("labels", "Density of human labels by hour of the week", caption, alt, svg)


def of_robots(run: Mapping[str, Any], fpr: float) -> Picture:
    """The share of each kind of robot, and of people, that each model invalidates, with intervals where there are."""
    models = run["models"]
    kinds = list(next(iter(models.values()))["recall_by_kind"])
    rows = ["all robots", *(kind.replace("_", " ") for kind in kinds), "people (wrongly)"]
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(8.4, 0.46 * len(rows) + 1.2), layout="constrained")
        axes = figure.add_subplot()
        for number, ((kind, told), (color, _, shape)) in enumerate(zip(models.items(), LOOKS, strict=False)):
            values = [told["recall"], *(told["recall_by_kind"][each] for each in kinds), told["people_invalidated"]]
            shift = (number - (len(models) - 1) / 2) * 0.24
            shown = [
                {"x": value, "x_interval": interval}
                for value, interval in zip(values, _robot_intervals(told, kinds), strict=True)
            ]
            _whiskers(axes, shown, "x", (color, shape, color), shift, name_of(kind))
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.axhline(0.5, color=MUTED, linewidth=0.6)
        axes.axhline(len(rows) - 1.5, color=MUTED, linewidth=0.6)
        axes.set_xlim(-0.01, 1.01)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(f"share of clicks invalidated, at a realised FPR of {fpr:.0%}")
        _plain(axes, "x")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
    caption = _robots_said(models, fpr, run["seed"])
    return report_page.picture("robots", "Robots caught, by kind", caption, "Dot plot", figure)


def _robots_said(models: Mapping[str, Any], fpr: float, seed: int) -> str:
    told = "; ".join(
        f"{name_of(kind)}: recall {each['recall']:.1%}, precision {each['precision']:.1%}, "
        f"people {each['people_invalidated']:.1%}"
        for kind, each in models.items()
        if each["precision"] is not None
    )
    return (
        f"By the truth of simulated clicks (seed {seed}), at FPR {fpr:.0%}. {told}. Adware clicks from the accounts of "
        "real people: hardly any of it is caught. FPR counts people who buy, most of them logged in; others lose more."
    )


def _before_after_said(trial: Trial) -> str:
    worst, figures = trial.fields["worst"], trial.fields["figures"]
    parts = [
        f"One threshold set at the budget of {trial.fields['fpr_max']:.0%} loses {figures[GLOBAL]['*']['fpr']:.2%} of "
        f"the later purchases; what ships loses {figures[SHIPPED]['*']['fpr']:.2%}, and beside it stands one threshold "
        "that loses as many, so that only how the loss is divided differs."
    ]
    for rate, name in (("fpr", "Worst FPR of a slice"), ("coverage", "Least coverage of a slice")):
        if all(worst[which][rate] for which in SETS):
            told = (f"{worst[which][rate]['value']:.1%} ({worst[which][rate]['slice']})" for which in SETS)
            parts.append(f"{name}, in this order: {', '.join(told)}.")
    ivrs = ", ".join(f"{figures[which]['*']['ivr']:.1%}" for which in SETS)
    return f"{' '.join(parts)} IVR: {ivrs}. Whiskers are exact intervals of 95% (Clopper and Pearson)."


def _slice_panel(axes: Axes, name: str, trial: Trial) -> None:
    curve, figures = trial.curves[name], trial.fields["figures"]
    knee = curves.knee(curve)
    _line(axes, curve, INK, "-")
    axes.plot(knee.fpr, knee.ivr, "*", color=MUTED, markersize=11, label="knee", clip_on=False)
    for which, (edge, shape, face) in SETS.items():
        rates = figures[which][name]
        style: Any = {"markersize": 7, "markeredgecolor": edge, "markerfacecolor": face, "markeredgewidth": 1.6}
        axes.plot(rates["fpr"], rates["ivr"], shape, linestyle="", label=SET_NAMES[which], clip_on=False, **style)
    axes.set_title(f"{name}  ({curve.purchases:,} purchases)")
    _fpr_axis(axes, "FPR in the slice", (0.0, 0.01, 0.05, 0.2, 0.5, 1.0))


def _slice_said(name: str, trial: Trial) -> str:
    return f"{name} {', '.join(format(trial.fields['figures'][which][name]['fpr'], '.1%') for which in SETS)}"


def _whiskers(
    axes: Axes, parts: Sequence[Mapping[str, Any]], rate: str, look: tuple[str, str, str], shift: float, label: str
) -> None:
    edge, shape, face = look
    known = [
        (row + shift, part[rate], part[f"{rate}_interval"]) for row, part in enumerate(parts) if part[rate] is not None
    ]
    for height, _, interval in known:
        if interval is not None:
            axes.plot(interval, (height, height), "-", color=edge, linewidth=1.4)
    style: Any = {"markersize": 6, "markeredgecolor": edge, "markerfacecolor": face, "markeredgewidth": 1.5}
    axes.plot(
        [x for _, x, _ in known], [y for y, _, _ in known], shape, linestyle="", label=label, clip_on=False, **style
    )


def _robot_intervals(told: Mapping[str, Any], kinds: Sequence[str]) -> list[Any]:
    drawn = told.get("intervals")
    if drawn is None:
        return [None] * (len(kinds) + 2)
    return [drawn["recall"], *(drawn["recall_by_kind"][kind] for kind in kinds), drawn["people_invalidated"]]


def _line(axes: Axes, curve: Curve, color: str, dashes: str) -> None:
    fpr, ivr = np.array(examination.points(curve)).T
    axes.plot(fpr, ivr, drawstyle="steps-post", color=color, linestyle=dashes, linewidth=1.8)


def _fpr_axis(
    axes: Axes, label: str = "FPR: share of purchasing clicks invalidated", ticks: Sequence[float] = FPR_TICKS
) -> None:
    """Square roots: budgets are small, and knees are not."""
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0.0)), np.square))
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label)
    _plain(axes, "both")


def _plain(axes: Axes, grid: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=3)


def _ivr_at(curve: Curve, fpr: float) -> float:
    within = curve.ivr[curve.fpr <= fpr]
    return float(within.max()) if len(within) else 0.0


def name_of(kind: str) -> str:
    return NAMES.get(kind, kind.replace("_", " "))


def _part_name(name: str) -> str:
    return {"*": "all clicks", "*/in": "all logged in", "*/out": "all logged out", "*/unknown": "all unknown"}.get(
        name, name
    )
