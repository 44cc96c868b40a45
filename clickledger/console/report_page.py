"""A report as one HTML file: headings, cards, tables and pictures, which needs no network to be read.

Invariants:
- the same facts give the same bytes: pictures carry neither a date nor random names;
- every text that came from a file or a command line is escaped;
- every picture has a text in its place, which says what is to be seen on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from clickledger.errors import InvalidInput

INK, MUTED, GRID = "#1c2733", "#5b6776", "#e3e7ec"
LOOK: Any = {  # of figures: draw them within a context of it
    "svg.hashsalt": "clickledger",
    "svg.fonttype": "none",
    "text.parse_math": False,  # labels are names that others gave: a dollar sign begins no formula
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
}

STYLE = """
:root{--ink:#1c2733;--muted:#5b6776;--line:#dde3ea;--soft:#f5f7fa;--blue:#0b5cad}
*{box-sizing:border-box}
body{margin:0;font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;color:var(--ink);
background:#fff}
header{background:#10243b;color:#fff;padding:2.2rem 0 1.8rem}
header>*,main,footer{max-width:68rem;margin-left:auto;margin-right:auto;padding-left:1.5rem;padding-right:1.5rem}
header p{margin:.3rem auto 0;color:#cfdbe8}
.brand{font-size:.85rem;letter-spacing:.04em;color:#9db4cc}
h1{font-size:1.9rem;line-height:1.2;margin:.2rem auto .4rem}
main{padding-bottom:3rem}
nav{display:flex;flex-wrap:wrap;gap:.4rem 1.2rem;padding:.9rem 0;border-bottom:1px solid var(--line);font-size:.92rem}
nav a{color:var(--blue)}
a:focus-visible{outline:3px solid #f0a500;outline-offset:2px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(12.5rem,1fr));gap:.9rem;
margin:1.6rem 0 .6rem;padding:0}
.cards li{list-style:none;border:1px solid var(--line);border-radius:.6rem;padding:.9rem 1rem;background:var(--soft)}
.cards b{display:block;font-size:1.5rem;line-height:1.2;font-variant-numeric:tabular-nums}
.cards span{color:var(--muted);font-size:.9rem}
section{padding-top:1.2rem}
h2{font-size:1.35rem;margin:1.4rem 0 .4rem}
section>p{max-width:48rem}
figure{margin:1.2rem 0;border:1px solid var(--line);border-radius:.6rem;padding:1rem 1rem .8rem}
figure svg{display:block;width:100%;height:auto}
figcaption{margin-top:.7rem;color:var(--muted);font-size:.92rem;max-width:56rem}
.scroll{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem;min-width:40%}
caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{padding:.34rem .7rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap;vertical-align:top}
th:first-child,td:first-child{text-align:left;padding-left:0}
thead th{color:var(--muted);font-weight:600;border-bottom:2px solid var(--line);white-space:normal;
vertical-align:bottom;max-width:12rem}
tbody th{font-weight:600;white-space:normal;min-width:7rem}
dl{max-width:52rem}dt{font-weight:600;margin-top:.7rem}dd{margin:0;color:var(--muted)}
footer{padding-top:1rem;padding-bottom:2.5rem;color:var(--muted);font-size:.88rem}
@media print{header{color:#000;background:#fff}header p,.brand{color:#333}figure,section{break-inside:avoid}}
"""


class Picture(NamedTuple):
    """One picture: its name as a file, its heading, what one sees on it, the text in its place, and the SVG."""

    name: str
    title: str
    caption: str
    alt: str
    svg: str


class Card(NamedTuple):
    """One figure that answers a question, and what it is."""

    figure: str
    what: str


class Rows(NamedTuple):
    """A table: what it shows, its columns, and rows of as many cells, the first of which names the row."""

    caption: str
    columns: Sequence[str]
    rows: Iterable[Sequence[str]]


class Section(NamedTuple):
    """A part of the page: its anchor, heading, paragraphs, then tables and pictures in their order."""

    anchor: str
    title: str
    said: Sequence[str]
    shown: Sequence[Rows | Picture]


class Term(NamedTuple):
    """A word of the page and what it means."""

    word: str
    meaning: str


def page(
    title: str,
    lead: Sequence[str],
    cards: Sequence[Card],
    sections: Sequence[Section],
    terms: Sequence[Term],
    made_by: str,
) -> str:
    """The whole file; `made_by` is the command that made it."""
    links = [(section.anchor, section.title) for section in sections] + [("terms", "What the words mean")]
    nav = "".join(f'<a href="#{escape(anchor)}">{escape(text)}</a>' for anchor, text in links)
    body = [
        f'<header><p class="brand">clickledger</p><h1>{escape(title)}</h1>',
        *(f"<p>{escape(text)}</p>" for text in lead),
        f'</header><main><nav aria-label="Parts of this page">{nav}</nav>',
        '<ul class="cards">',
        *(f"<li><b>{escape(card.figure)}</b><span>{escape(card.what)}</span></li>" for card in cards),
        "</ul>",
        *(_section(section) for section in sections),
        '<section id="terms"><h2>What the words mean</h2><dl>',
        *(f"<dt>{escape(term.word)}</dt><dd>{escape(term.meaning)}</dd>" for term in terms),
        f"</dl></section></main><footer>Made by {escape(made_by)}. One file, nothing is loaded from elsewhere; "
        "the same facts give the same bytes.</footer>",
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light"><title>{escape(title)}</title><style>{STYLE}</style>'
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def picture(name: str, title: str, caption: str, kind: str, figure: Figure) -> Picture:
    """A figure as it stands inside a page; `kind` of picture, say a line chart."""
    out = StringIO()
    with mpl.rc_context(LOOK):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    alt = f"{kind}. {caption}"
    return Picture(name, title, caption, alt, re.sub(r"\n\s*", "\n", text).replace("<svg ", f"<svg {_named(alt)} ", 1))


def _named(alt: str) -> str:
    return f'role="img" aria-label="{escape(alt)}"'


def write(path: Path, text: str) -> None:
    """Write a page. Raises InvalidInput where that cannot be done."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"report {path}: expected a file that can be written, got: {error.strerror}") from error


def _section(section: Section) -> str:
    parts = [f'<section id="{escape(section.anchor)}"><h2>{escape(section.title)}</h2>']
    parts += [f"<p>{escape(text)}</p>" for text in section.said]
    parts += [_figure(each) if isinstance(each, Picture) else _table(each) for each in section.shown]
    return "".join(parts) + "</section>"


def _figure(picture: Picture) -> str:
    """The caption says what the text in place of the picture says: screens readers get it once, there."""
    return f"<figure>{picture.svg}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _table(table: Rows) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for first, *cells in table.rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.caption)}"><table>'
        f"<caption>{escape(table.caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
