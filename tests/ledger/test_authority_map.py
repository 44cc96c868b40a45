"""The authority map beside a brute force that asks, position by position, which layer lies on top."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickledger.errors import InvariantBroken
from clickledger.ledger.authority_map import (
    MapRow,
    Piece,
    Publication,
    change,
    check,
    history,
    overlapping,
    rewritten,
    topmost,
)

LAST = 24  # positions looked at one by one; ranges end before it


@st.composite
def publications(draw: st.DrawFn) -> list[Publication]:
    """Any publications with any reverts, in log order, each event at a position of its own."""
    ranges = draw(st.lists(st.tuples(st.integers(1, LAST - 2), st.integers(1, 8), st.booleans()), max_size=7))
    moments = draw(st.permutations(range(100, 100 + 2 * len(ranges))))
    layers = []
    for run_id, (lo, width, reverted) in enumerate(ranges, 1):
        first, second = sorted(moments[2 * run_id - 2 : 2 * run_id])
        layers.append(Publication(first, run_id, lo, min(lo + width, LAST), second if reverted else None))
    return sorted(layers)


def on_top(layers: list[Publication], position: int, as_of: int) -> int | None:
    """The run that decides a position as of another, by looking at every layer."""
    found = None
    for layer in layers:
        stands = layer.position <= as_of and (layer.reverted is None or as_of < layer.reverted)
        if stands and layer.lo <= position < layer.hi:
            found = layer.run_id
    return found


def decider(pieces: list[Piece], position: int) -> int | None:
    [piece] = [p for p in pieces if p.lo <= position and (p.hi is None or position < p.hi)]
    return piece.run_id


@given(publications())
def test_topmost_layer_decides_at_every_position(layers: list[Publication]) -> None:
    pieces = topmost(layers)
    check(pieces)
    assert [decider(pieces, p) for p in range(1, LAST + 2)] == [on_top(layers, p, 10_000) for p in range(1, LAST + 2)]


@given(publications(), st.integers(99, 120))
def test_map_as_of_a_position_knows_nothing_later(layers: list[Publication], as_of: int) -> None:
    pieces = topmost(layers, as_of=as_of)
    check(pieces)
    assert [decider(pieces, p) for p in range(1, LAST + 2)] == [on_top(layers, p, as_of) for p in range(1, LAST + 2)]


@given(publications())
def test_neighbouring_pieces_have_different_deciders(layers: list[Publication]) -> None:
    pieces = topmost(layers)
    assert all(left.run_id != right.run_id for left, right in itertools.pairwise(pieces))


@given(publications(), publications())
def test_change_turns_one_map_into_the_other(before: list[Publication], after: list[Publication]) -> None:
    current, wanted = topmost(before), topmost(after)
    closing, opening = change(current, wanted)
    assert sorted((set(current) - set(closing)) | set(opening)) == sorted(wanted)
    assert set(closing) <= set(current)
    assert not set(closing) & set(opening)


@given(publications())
def test_rewriting_the_stretch_around_each_event_gives_the_whole_map(layers: list[Publication]) -> None:
    events = sorted((at, p) for p in layers for at in (p.position, p.reverted) if at is not None)
    pieces = [Piece(1, None, None)]
    for moment, changed in events:
        lo, hi = changed.lo, changed.hi
        around = [p for p in pieces if p.lo <= hi and (p.hi is None or p.hi >= lo)]
        standing = [p for p in layers if p.position <= moment and (p.reverted is None or p.reverted > moment)]
        over = [p._replace(reverted=None) for p in standing if p.lo < hi and lo < p.hi]
        pieces = sorted({*pieces} - {*around} | {*rewritten(around, over, lo, hi)})
        assert pieces == topmost(layers, as_of=moment)


@given(publications())
def test_history_answers_every_moment_like_the_map_of_that_moment(layers: list[Publication]) -> None:
    rows = history(layers)
    for as_of in range(99, 116):
        in_force = [row.piece for row in rows if row.since <= as_of and (row.until is None or as_of < row.until)]
        assert sorted(in_force) == topmost(layers, as_of=as_of)


@given(publications())
def test_history_never_holds_two_deciders_of_a_position_at_once(layers: list[Publication]) -> None:
    rows = sorted(history(layers), key=lambda row: (row.since, row.piece.lo))
    assert all(row.until is None or row.since < row.until for row in rows)
    for i, row in enumerate(rows):
        assert not [other for other in rows[i + 1 :] if meet(row, other)]


def meet(one: MapRow, other: MapRow) -> bool:
    far = 10_000
    return (
        max(one.since, other.since) < min(one.until or far, other.until or far)
        and max(one.piece.lo, other.piece.lo) < min(one.piece.hi or far, other.piece.hi or far)
    )  # fmt: skip


@given(publications(), st.integers(1, LAST), st.integers(1, LAST))
def test_overlapping_parts_cover_exactly_the_range_asked_for(layers: list[Publication], lo: int, width: int) -> None:
    pieces = topmost(layers)
    parts = overlapping(pieces, lo, lo + width)
    covered = [(p, part.run_id) for part in parts for p in range(part.lo, part.hi or 0)]
    assert covered == [(p, decider(pieces, p)) for p in range(lo, lo + width)]


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [Piece(2, None, None)],
        [Piece(1, 5, None)],
        [Piece(1, 5, None), Piece(6, None, 1)],
        [Piece(1, 5, None), Piece(4, None, 1)],
        [Piece(1, None, None), Piece(5, None, 1)],
        [Piece(1, 1, 1), Piece(1, None, None)],
    ],
    ids=["nothing", "late start", "an end", "a gap", "an overlap", "two ends", "an empty piece"],
)
def test_map_that_does_not_cover_the_log_once_is_refused(pieces: list[Piece]) -> None:
    with pytest.raises(InvariantBroken, match="authority map"):
        check(pieces)
