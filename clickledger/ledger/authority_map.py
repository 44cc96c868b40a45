"""Which run decides which part of the log, and which clicks by exception: pure folds of publications.

Runs over ranges make the pieces of a map, sparse runs make overrides of single clicks. Each kind is folded by itself;
an override decides its click when it was published later than the run of the piece that its click lies in.

Invariants:
- the pieces of a map are disjoint, in order, and cover every position from 1 on, without a gap;
- at each position the newest publication over a range that is not reverted decides; below all of them, live (run None);
- a click has at most one override at any moment: that of the newest sparse publication of it that is not reverted.
"""

from __future__ import annotations

import heapq
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from clickledger.errors import InvariantBroken


class ClickIds(NamedTuple):
    """The smallest and largest click id of something, both included; None = not known, so nothing can be pruned."""

    smallest: uuid.UUID | None = None
    largest: uuid.UUID | None = None


UNKNOWN = ClickIds()
RANGE, SPARSE, BACKTEST = "range", "sparse", "backtest"  # kinds of runs; a backtest is never published


class Publication(NamedTuple):
    """A run published over log positions [lo, hi) at `position`; `reverted` is the revert's position or None.

    A sparse run decides its own clicks only, which lie somewhere in [lo, hi).
    """

    position: int
    run_id: int
    lo: int
    hi: int
    reverted: int | None = None
    click_ids: ClickIds = UNKNOWN
    kind: str = RANGE


class Piece(NamedTuple):
    """Positions [lo, hi) are decided by `run_id`; hi None = for ever, run_id None = live.

    `published` is the position of its publication, 0 for live. `click_ids` bound the clicks of the run, of which the
    piece may hold but a part; a live piece has none.
    """

    lo: int
    hi: int | None
    run_id: int | None
    published: int = 0
    click_ids: ClickIds = UNKNOWN


class MapRow(NamedTuple):
    """A piece and the log positions [since, until) at which it was in force; until None = now."""

    piece: Piece
    since: int
    until: int | None


class SparseClick(NamedTuple):
    """A click of a sparse run and the log position of its own entry."""

    click_id: uuid.UUID
    log_position: int


class Override(NamedTuple):
    """`run_id`, published at `published`, speaks for one click."""

    click_id: uuid.UUID
    run_id: int
    log_position: int
    published: int


class OverrideRow(NamedTuple):
    """An override and the log positions [since, until) at which it was in force; until None = now."""

    override: Override
    since: int
    until: int | None


def topmost(publications: Iterable[Publication], as_of: int | None = None) -> list[Piece]:
    """The map in force after the entry at `as_of` (default: now)."""
    layers = [p for p in publications if p.kind == RANGE and _in_force(p, as_of)]
    opening = sorted(layers, key=lambda p: p.lo, reverse=True)
    boundaries = sorted({1, *(p.lo for p in layers), *(p.hi for p in layers)})
    active: list[tuple[int, Publication]] = []  # behind its -position: the newest on top
    pieces: list[Piece] = []
    for lo, hi in zip(boundaries, [*boundaries[1:], None], strict=True):
        while opening and opening[-1].lo <= lo:
            layer = opening.pop()
            heapq.heappush(active, (-layer.position, layer))
        while active and active[0][1].hi <= lo:
            heapq.heappop(active)
        top = active[0][1] if active else None
        _extend(pieces, Piece(lo, hi, top.run_id, top.position, top.click_ids) if top else Piece(lo, hi, None))
    return pieces


def _in_force(publication: Publication, as_of: int | None) -> bool:
    if as_of is None:
        return publication.reverted is None
    return publication.position <= as_of and (publication.reverted is None or publication.reverted > as_of)


def _extend(pieces: list[Piece], piece: Piece) -> None:
    if pieces and pieces[-1].run_id == piece.run_id:
        pieces[-1] = pieces[-1]._replace(hi=piece.hi)
    else:
        pieces.append(piece)


def change(current: Iterable[Piece], wanted: Iterable[Piece]) -> tuple[list[Piece], list[Piece]]:
    """What to close and what to open to come from one map to another."""
    old, new = set(current), set(wanted)
    return sorted(old - new, key=lambda p: p.lo), sorted(new - old, key=lambda p: p.lo)


def rewritten(around: Iterable[Piece], layers: Iterable[Publication], lo: int, hi: int) -> list[Piece]:
    """What a stretch of a map becomes when the publications in force over positions [lo, hi) are `layers`.

    `around` are the pieces of the map that overlap or touch [lo, hi), in order; the result covers what they cover.
    """
    old = list(around)
    before = [p._replace(hi=lo if p.hi is None else min(p.hi, lo)) for p in old if p.lo < lo]
    after = [p._replace(lo=max(p.lo, hi)) for p in old if p.hi is None or p.hi > hi]
    pieces: list[Piece] = []
    for piece in (*before, *overlapping(topmost(layers), lo, hi), *after):
        _extend(pieces, piece)
    return pieces


def history(publications: Sequence[Publication]) -> set[MapRow]:
    """Every row the authority table has ever held, by applying publications and reverts in log order."""
    moments = _moments([p for p in publications if p.kind == RANGE])
    open_since = {Piece(1, None, None): 1}
    rows: set[MapRow] = set()
    for moment in moments:
        closing, opening = change(open_since, topmost(publications, as_of=moment))
        rows |= {MapRow(piece, open_since.pop(piece), moment) for piece in closing}
        open_since |= dict.fromkeys(opening, moment)
    return rows | {MapRow(piece, since, None) for piece, since in open_since.items()}


def _moments(publications: Iterable[Publication]) -> list[int]:
    """The positions at which something was published or reverted, in order."""
    return sorted({at for p in publications for at in (p.position, p.reverted) if at is not None})


def override_history(
    publications: Iterable[Publication], clicks_of: Mapping[int, Iterable[SparseClick]]
) -> set[OverrideRow]:
    """Every row the table of overrides has ever held; `clicks_of` gives the clicks of each sparse run by its id."""
    layers: dict[SparseClick, list[Publication]] = {}
    for publication in sorted(publications):
        if publication.kind == SPARSE:
            for click in clicks_of.get(publication.run_id, ()):
                layers.setdefault(click, []).append(publication)
    return {row for click, over in layers.items() for row in _override_rows(click, over)}


def _override_rows(click: SparseClick, layers: Sequence[Publication]) -> Iterable[OverrideRow]:
    """The overrides of one click, whose sparse publications are given in log order."""
    top: Publication | None = None
    since = 0

    def row(until: int | None) -> Iterable[OverrideRow]:
        if top is not None:
            override = Override(click.click_id, top.run_id, click.log_position, top.position)
            yield OverrideRow(override, since, until)

    for moment in _moments(layers):
        wanted = next((p for p in reversed(layers) if _in_force(p, moment)), None)
        if wanted is not top:
            yield from row(until=moment)
            top, since = wanted, moment
    yield from row(until=None)


def deciding(pieces: Sequence[Piece], overrides: Iterable[Override]) -> list[Override]:
    """Those of the overrides in force that decide their clicks: published later than the run of their piece."""
    return [o for o in overrides if o.published > piece_of(pieces, o.log_position).published]


def piece_of(pieces: Sequence[Piece], position: int) -> Piece:
    """The piece of a whole map that a position lies in."""
    return pieces[bisect_right(pieces, position, key=lambda piece: piece.lo) - 1]


def check(pieces: Sequence[Piece], lo: int = 1, hi: int | None = None) -> None:
    """Raise InvariantBroken unless the pieces cover every position in [lo, hi) exactly once; hi None = for ever."""
    expected: int | None = lo
    for piece in pieces:
        if expected is None or piece.lo != expected or (piece.hi is not None and piece.hi <= piece.lo):
            raise InvariantBroken(f"authority map: expected a piece from position {expected}, got {piece}")
        expected = piece.hi
    if expected != hi:
        raise InvariantBroken(f"authority map: expected pieces from position {lo} to {hi}, got them to {expected}")


def overlapping(pieces: Iterable[Piece], lo: int, hi: int) -> list[Piece]:
    """The parts of a map that lie in [lo, hi), cut to it."""
    parts = [p._replace(lo=max(p.lo, lo), hi=hi if p.hi is None else min(p.hi, hi)) for p in pieces]
    return [p for p in parts if p.hi is not None and p.lo < p.hi]
