"""The density of human labels at each hour of the week as a heat map: hand-made SVG, numbers in the cells.

Shades say nothing that the numbers do not, so the picture can be read in grey and printed; an hour without clicks has
no number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from clickledger.scoring.label_density import WEEKDAYS

Cells = Mapping[str, Sequence[int]]  # `clicks` and `labels` of each hour of the week (168,)
SHADES = ("#f4f7fa", "#dbe7f3", "#b9d2e8", "#8db6da", "#5b93c4", "#3372a8", "#1b5385", "#0d3861")
DARK_FROM = 5  # shades on which numbers are white
INK, MUTED = "#1c2733", "#5b6776"
CELL, ROW, LEFT, TOP, GAP = 21, 18, 38, 46, 24


def heat_map(density: Mapping[str, Mapping[str, Cells]], alt: str) -> str:
    """A panel for each login status (across) of each source of labels (down)."""
    wide = max(2, *(len(by_login) for by_login in density.values()))  # one alone would be drawn too large
    panel_w, panel_h = LEFT + 24 * CELL + GAP, TOP + 7 * ROW + GAP
    body = []
    for down, (source, by_login) in enumerate(density.items()):
        highest = max((_share(cells, hour) or 0.0 for cells in by_login.values() for hour in range(168)), default=0.0)
        for across, (login, cells) in enumerate(by_login.items()):
            body.append(
                f'<g transform="translate({across * panel_w} {down * panel_h})">'
                f"{_panel(f'{source}, {login}', cells, highest)}</g>"
            )
    width, height = wide * panel_w, len(density) * panel_h
    style = f"font-family:system-ui,'DejaVu Sans',sans-serif;font-size:10.5px;fill:{INK}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(alt)}" style="{style}">{"".join(body)}</svg>'
    )


def _panel(title: str, cells: Cells, highest: float) -> str:
    labels, clicks = sum(cells["labels"]), sum(cells["clicks"])
    head = (
        f'<text x="0" y="14" font-size="13" font-weight="600">{escape(title)}</text>'
        f'<text x="0" y="29" font-size="11" fill="{MUTED}">{labels:,} labels of {clicks:,} clicks; in % of the '
        f"clicks of each hour (UTC)</text>"
    )
    hours = "".join(f'<text x="{LEFT + h * CELL + CELL // 2}" y="{TOP - 5}">{h}</text>' for h in range(24))
    days = "".join(f'<text x="0" y="{TOP + d * ROW + 13}">{name}</text>' for d, name in enumerate(WEEKDAYS))
    return (
        f'{head}<g text-anchor="middle" fill="{MUTED}">{hours}</g><g fill="{MUTED}">{days}</g>{_body(cells, highest)}'
    )


def _body(cells: Cells, highest: float) -> str:
    """All cells of one shade as one path, then the numbers, dark ones before white ones."""
    squares: dict[int, list[str]] = {}
    numbers: dict[bool, list[str]] = {False: [], True: []}
    for hour in range(168):
        share = _share(cells, hour)
        if share is None:
            continue
        shade = min(int(share / highest * len(SHADES)), len(SHADES) - 1) if highest else 0
        x, y = LEFT + hour % 24 * CELL, TOP + hour // 24 * ROW
        squares.setdefault(shade, []).append(f"M{x} {y}h{CELL - 1}v{ROW - 1}h{1 - CELL}z")
        numbers[shade >= DARK_FROM].append(f'<text x="{x + CELL // 2}" y="{y + 13}">{_percent(share)}</text>')
    paths = "".join(f'<path fill="{SHADES[shade]}" d="{"".join(own)}"/>' for shade, own in sorted(squares.items()))
    texts = "".join(
        f'<g text-anchor="middle" fill="{"#fff" if on_dark else INK}">{"".join(own)}</g>'
        for on_dark, own in numbers.items()
    )
    return paths + texts


def _share(cells: Cells, hour: int) -> float | None:
    clicks = cells["clicks"][hour]
    return cells["labels"][hour] / clicks if clicks else None


def _percent(share: float) -> str:
    """Two characters: `12`, `.4`, and `0` for none at all."""
    if share == 0.0:
        return "0"
    return f"{share:.0%}"[:-1] if share >= 0.0095 else f".{max(1, round(share * 1000))}"
