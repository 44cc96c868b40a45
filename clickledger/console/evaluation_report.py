"""The report of `model evaluate`: one HTML file with its pictures inside, which needs no network to be read.

Invariants:
- the same evaluation gives the same bytes: pictures carry neither a date nor random names;
- every text that came from a file or a command line is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from clickledger.errors import InvalidInput
from clickledger.scoring.model_comparison import Curve

FPR_SHOWN_MAX = 0.10  # beyond lies no budget that anybody would grant
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2rem .8rem;text-align:left;"
    "border-bottom:1px solid #ddd}svg{max-width:100%;height:auto}p{max-width:45rem}"
)


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
    return _page("Models compared", [said, how], [(columns, rows)], curves)


def of_simulation(
    fields: Mapping[str, Any], tables: Iterable[tuple[Sequence[str], Iterable[Sequence[str]]]], bars: Sequence[Picture]
) -> str:
    """The page of an evaluation on simulated traffic."""
    said = (
        f"{fields['clicks']:,} simulated clicks of {fields['days']:g} days, {len(fields['runs'])} seeds, at a realised "
        f"FPR of {fields['fpr']:.0%}: the share of each kind of robot that is invalidated. People is the share of all "
        "human clicks lost, which FPR, being that of buyers, understates."
    )
    return _page("Models compared on simulated traffic", [said], tables, bars)


Picture = tuple[str, str]  # caption and SVG


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
    return caption, _svg(figure)


def bar_picture(caption: str, groups: Sequence[str], series: Mapping[str, Sequence[float]]) -> Picture:
    """A bar from 0 to 1 for each series in each group."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(ylabel="share invalidated", ylim=(0, 1))
    width = 0.8 / max(len(series), 1)
    for number, (name, values) in enumerate(series.items()):
        axes.bar([place + number * width for place in range(len(groups))], values, width, label=name)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(groups))], groups)
    axes.legend(frameon=False)
    return caption, _svg(figure)


def write(path: Path, page: str) -> None:
    """Write a page. Raises InvalidInput where that cannot be done."""
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"report {path}: expected a file that can be written, got: {error.strerror}") from error


def _svg(figure: Figure) -> str:
    out = StringIO()
    with mpl.rc_context({"svg.hashsalt": "clickledger", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _page(
    title: str,
    said: Iterable[str],
    tables: Iterable[tuple[Sequence[str], Iterable[Sequence[str]]]],
    pictures: Iterable[Picture],
) -> str:
    body = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{html.escape(text)}</p>" for text in said)]
    body += [_table(columns, rows) for columns, rows in tables]
    body += [f"<h2>{html.escape(caption)}</h2>{svg}" for caption, svg in pictures]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(columns, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
