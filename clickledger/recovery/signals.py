"""The series that detection judges: disagreements of live and shadow by slice and tick, from the ticks of the ledger.

A look takes the last day of the deployment in force. A CUSUM may start anywhere, so what lies before only ever takes
evidence away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from clickledger.ledger import database, log
from clickledger.recovery import known_customers, ticks
from clickledger.recovery.detection import Tick
from clickledger.recovery.ticks import Row, Rules

WINDOW_SECONDS = 86_400.0
BEHIND_TICKS = 2  # of the newest clicks that a look reads while older ones wait to be folded
TICKS_MAX = 1_000  # of a series; older deployments are judged in longer ticks

Cell = tuple[str, int]  # slice, number of the tick


@dataclass
class Series:
    """Ticks of one live model by slice; every slice has the same ticks. Positions are those of its clicks."""

    known: dict[str, list[Tick]] = field(default_factory=dict)
    everyone: dict[str, list[Tick]] = field(default_factory=dict)
    hot: dict[str, list[Tick]] = field(default_factory=dict)
    first_position: int = 0
    last_position: int = 0


def look(conn: database.Connection, epochs: Sequence[int], after: int, rules: Rules) -> dict[int, Series]:
    """The series of each live model of some epochs, of clicks after a position. Folds what is over on the way."""
    known_customers.fold(conn)
    folded, behind = ticks.fold(conn, rules)
    head, since = log.head(conn), max(folded, after)
    if behind:  # after hours without detection: what lies between is judged once it is folded, never all at once
        newest_at = head.recorded_at - timedelta(seconds=BEHIND_TICKS * rules.tick_seconds)
        since = max(since, log.position_at(conn, newest_at))
    newest = ticks.between(conn, since + 1, head.position + 1, rules)
    rows = ticks.kept(conn, epochs, after, WINDOW_SECONDS)
    return of_rows([*rows, *(row for row in newest if row.deployment_epoch in epochs)], rules.tick_seconds)


def of_rows(rows: Iterable[Row], tick_seconds: float) -> dict[int, Series]:
    """The series of each live model that the stable one judged beside it."""
    by_model: dict[int, list[Row]] = {}
    for row in rows:
        if row.counts["paired"]:
            by_model.setdefault(row.model_version, []).append(row)
    return {model: _series(found, tick_seconds) for model, found in by_model.items()}


def _series(rows: list[Row], tick_seconds: float) -> Series:
    span = max(row.at for row in rows) - min(row.at for row in rows)
    length = tick_seconds * max(1, math.ceil(span / tick_seconds / TICKS_MAX))

    def summed(count: Callable[[Row], Tick]) -> dict[str, list[Tick]]:
        cells: dict[Cell, Tick] = {}
        for row in rows:
            cell = row.slice, int(row.at // length)
            before = cells.get(cell, Tick(0, 0, 0))
            cells[cell] = Tick(*(a + b for a, b in zip(before, count(row), strict=True)))
        numbers = sorted({number for _, number in cells})
        names = sorted({name for name, _ in cells})
        return {name: [cells.get((name, n), Tick(0, 0, 0)) for n in numbers] for name in names}

    return Series(
        known=summed(lambda row: _tick(row, "known", "known_withheld", "known_released")),
        everyone=summed(lambda row: _tick(row, "paired", "withheld", "released")),
        hot=summed(lambda row: _tick(row, "hot_paired", "hot_withheld", "hot_released")),
        first_position=min(row.first_position for row in rows),
        last_position=max(row.last_position for row in rows),
    )


def _tick(row: Row, users: str, withheld: str, released: str) -> Tick:
    return Tick(row.counts[users], row.counts[withheld], row.counts[released])
