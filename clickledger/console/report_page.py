"""One HTML file with its pictures inside, which needs no network to be read.

Invariants:
- the same facts give the same bytes: pictures carry neither a date nor random names;
- every text that came from a file or a command line is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from clickledger.errors import InvalidInput

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2rem .8rem;text-align:left;"
    "border-bottom:1px solid #ddd}svg{max-width:100%;height:auto}p{max-width:45rem}"
)
Picture = tuple[str, str]  # caption and SVG
Table = tuple[Sequence[str], Iterable[Sequence[str]]]  # columns and rows


def page(title: str, said: Iterable[str], tables: Iterable[Table], pictures: Iterable[Picture]) -> str:
    """A page: its title, what is said, tables, pictures under their captions."""
    body = [heading(title, 1), *(paragraph(text) for text in said)]
    body += [table(columns, rows) for columns, rows in tables]
    body += [f"{heading(caption)}{picture}" for caption, picture in pictures]
    return of_parts(title, body)


def of_parts(title: str, body: Iterable[str]) -> str:
    """A page of parts that are HTML already."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{html.escape(text)}</p>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""

    def line(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(columns, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def svg(figure: Figure) -> str:
    """A figure as it stands inside a page."""
    out = StringIO()
    with mpl.rc_context({"svg.hashsalt": "clickledger", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def write(path: Path, text: str) -> None:
    """Write a page. Raises InvalidInput where that cannot be done."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"report {path}: expected a file that can be written, got: {error.strerror}") from error
