"""SQL of authoritative rows with the authority map in it as literals, which the planner can estimate and prune by.

Invariant: for any map that covers every position once, a click of the asked-for positions and click ids is in exactly
one branch, and at most once in it.

A map of few pieces becomes comparisons of positions, which block-range indexes answer. One of many would become as many
scans of every day, or as many comparisons for every row: there, the piece of a row is found by a binary search in an
array of the pieces' first positions (`width_bucket`), and a second array names the run that decides it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from clickledger.ledger.authority_map import Piece

FEW_PIECES = 8  # of one kind, told apart by comparisons; of more, by a binary search
LIVE = 0  # stands for "no run" in the array of pieces; runs are log positions, so from 1 on


@dataclass(frozen=True, slots=True)
class Span:
    """Which clicks: positions [lo, hi) and click ids [first, last), None for no bound."""

    lo: int = 1
    hi: int | None = None
    first: uuid.UUID | None = None
    last: uuid.UUID | None = None


def select(pieces: Sequence[Piece], span: Span, live: str, delayed: str, also: str = "") -> str:
    """The authoritative rows of a span: `live` and `delayed` are the select lists of the two branches, alike in types.

    `pieces` is a map in force; `also` is a further condition on both branches. Empty when nothing can match.
    """
    inside = [piece for piece in pieces if _overlaps(piece, span)]
    replayed = [piece for piece in inside if piece.run_id is not None and _may_hold(piece, span)]
    bounds = of_click_ids(span) + also
    branches = []
    if any(piece.run_id is None for piece in inside):
        condition = _position_is_live(inside, span)
        branches.append(f"SELECT {live} FROM decisions WHERE {condition}{bounds}")
    if replayed:
        condition = _position_is_of_its_run(inside, replayed, span)
        branches.append(f"SELECT {delayed} FROM delayed_decisions WHERE {condition}{bounds}")
    return " UNION ALL ".join(branches)


def _overlaps(piece: Piece, span: Span) -> bool:
    return (span.hi is None or piece.lo < span.hi) and (piece.hi is None or span.lo < piece.hi)


def _may_hold(piece: Piece, span: Span) -> bool:
    """Whether a run's known click ids reach into the span; unknown ones may."""
    after = span.last is not None and piece.click_ids.smallest is not None and piece.click_ids.smallest >= span.last
    before = span.first is not None and piece.click_ids.largest is not None and piece.click_ids.largest < span.first
    return not (after or before)


def of_click_ids(span: Span) -> str:
    """A condition on click_id, led by AND; empty for a span without such bounds."""
    first = "" if span.first is None else f" AND click_id >= '{span.first}'"
    return first + ("" if span.last is None else f" AND click_id < '{span.last}'")


def _position_is_live(inside: Sequence[Piece], span: Span) -> str:
    live = [piece for piece in inside if piece.run_id is None]
    if len(live) <= FEW_PIECES:
        return _any_of([_between(piece, span) for piece in live])
    return f"{_between(span, span)} AND {_decider_of_position(inside)} = {LIVE}"


def _position_is_of_its_run(inside: Sequence[Piece], replayed: Sequence[Piece], span: Span) -> str:
    if len(replayed) <= FEW_PIECES:
        return _any_of([f"(run_id = {piece.run_id:d} AND {_between(piece, span)})" for piece in replayed])
    runs = ",".join(str(run) for run in sorted({piece.run_id for piece in replayed if piece.run_id is not None}))
    among = f"run_id = ANY ('{{{runs}}}'::bigint[])"  # lets the planner see when few of the table's runs are in force
    return f"{among} AND {_between(span, span)} AND {_decider_of_position(inside)} = run_id"


def _between(range_: Piece | Span, span: Span) -> str:
    """A condition on log_position: within the range and the span."""
    lo = max(range_.lo, span.lo)
    ends = [hi for hi in (range_.hi, span.hi) if hi is not None]
    below = f" AND log_position < {min(ends):d}" if ends else ""
    return f"(log_position >= {lo:d}{below})"


def _any_of(conditions: Sequence[str]) -> str:
    return f"({' OR '.join(conditions)})"


def _decider_of_position(inside: Sequence[Piece]) -> str:
    """The run that decides a row's position, LIVE for none; the row lies within the pieces."""
    starts = ",".join(str(piece.lo) for piece in inside)
    runs = ",".join(str(piece.run_id or LIVE) for piece in inside)
    return f"('{{{runs}}}'::bigint[])[width_bucket(log_position, '{{{starts}}}'::bigint[])]"
