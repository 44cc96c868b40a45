"""The report of `model evaluate`: what it says, its tables and curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from clickledger.console import report_page
from clickledger.console.report_page import Picture
from clickledger.scoring.model_comparison import Curve

FPR_SHOWN_MAX = 0.10  # beyond lies no budget that anybody would grant


def of_files(
    fields: Mapping[str, Any], columns: Sequence[str], rows: Iterable[Sequence[str]], curves: Sequence[Picture]
) -> str:
    """The page of an evaluation on clicks of files."""
    train, test, bootstrap = fields["train"], fields["test"], fields["bootstrap"]
    sources = ", ".join(f"{Path(source['file']).name} ({source['clicks']:,} clicks)" for source in fields["files"])
    said = (
        f"{sources}. Trained on {train['rows']:,} clicks, {train['purchased']} with an outcome; tested on "
        f"{test['rows']:,} later ones, {test['purchased']} with an outcome."
    )
    how = (
        f"Intervals hold {bootstrap['confidence']:.0%} of {bootstrap['draws']:,} draws of whole users. IVR is the "
        "share of all clicks that is invalidated, FPR that of the clicks with an outcome. Thresholds, marked by dots, "
        "are read off the test part for all models alike."
    )
    return report_page.page("Models compared", [said, how], [(columns, rows)], curves)


def of_simulation(
    fields: Mapping[str, Any], tables: Iterable[tuple[Sequence[str], Iterable[Sequence[str]]]], bars: Sequence[Picture]
) -> str:
    """The page of an evaluation on simulated traffic."""
    said = (
        f"{fields['clicks']:,} simulated clicks of {fields['days']:g} days, {len(fields['runs'])} seeds, at a realised "
        f"FPR of {fields['fpr']:.0%}: the share of each kind of robot that is invalidated. People is the share of all "
        "human clicks lost, which FPR, being that of buyers, understates."
    )
    return report_page.page("Models compared on simulated traffic", [said], tables, bars)


def curve_picture(caption: str, curves: Mapping[str, Curve], marks: Sequence[float]) -> Picture:
    """IVR over FPR of several models or slices, a dot where each budget in `marks` leads."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="FPR: share of purchasing clicks invalidated", ylabel="IVR: share of all clicks")
    for name, (fpr, ivr) in curves.items():
        (line,) = axes.plot(fpr, ivr, drawstyle="steps-post", label=name)
        reached = [float(ivr[fpr <= mark].max()) for mark in marks]
        axes.plot(marks, reached, "o", color=line.get_color(), markersize=5)
    seen = [float(ivr[fpr <= FPR_SHOWN_MAX].max()) for fpr, ivr in curves.values()]
    axes.set_xlim(0, FPR_SHOWN_MAX)
    axes.set_ylim(0, max(seen, default=1.0) * 1.1 or 1.0)
    axes.legend(frameon=False, loc="upper left")
    return caption, report_page.svg(figure)


def bar_picture(caption: str, groups: Sequence[str], series: Mapping[str, Sequence[float]]) -> Picture:
    """A bar from 0 to 1 for each series in each group."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(ylabel="share invalidated", ylim=(0, 1))
    width = 0.8 / max(len(series), 1)
    for number, (name, values) in enumerate(series.items()):
        axes.bar([place + number * width for place in range(len(groups))], values, width, label=name)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(groups))], groups)
    axes.legend(frameon=False)
    return caption, report_page.svg(figure)
