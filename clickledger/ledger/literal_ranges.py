"""SQL of authoritative rows with the authority map in it as literals, which the planner can estimate and prune by.

Invariant: for any map that covers every position once, a click of the asked-for positions and click ids is in exactly
one branch, and at most once in it.

A map of few pieces becomes comparisons of positions, which block-range indexes answer. One of many would become as many
scans of every day, or as many comparisons for every row: there, the piece of a row is found by a binary search in an
array of the pieces' first positions (`width_bucket`), and a second array names the run that decides it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
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


@dataclass(frozen=True, slots=True)
class Authority:
    """What decides at one moment: a map over all positions, and which sparse runs speak for single clicks.

    `as_of` is the moment, a log position; None is now.
    """

    pieces: Sequence[Piece]
    sparse_runs: Sequence[int] = ()
    as_of: int | None = None


def select(authority: Authority, span: Span, live: str, delayed: str) -> str:
    """The authoritative rows of a span: `live` and `delayed` are the select lists of the tables, alike in types.

    Empty when nothing can match.
    """
    inside = [piece for piece in authority.pieces if _overlaps(piece, span)]
    replayed = [piece for piece in inside if piece.run_id is not None and _may_hold(piece, span)]
    bounds = of_click_ids(span)
    branches = []
    if any(piece.run_id is None for piece in inside):
        unless = _unless_overridden(authority, "decisions", inside)
        branches.append(f"SELECT {live} FROM decisions WHERE {_position_is_live(inside, span)}{bounds}{unless}")
    if replayed:
        condition = _position_is_of_its_run(inside, replayed, span)
        unless = _unless_overridden(authority, "delayed_decisions", inside)
        branches.append(f"SELECT {delayed} FROM delayed_decisions WHERE {condition}{bounds}{unless}")
    if inside and authority.sparse_runs:
        condition = f"{_among(authority.sparse_runs)} AND {_between(span, span)}{bounds}"
        branches.append(f"SELECT {delayed} FROM delayed_decisions WHERE {condition}{_if_overriding(authority, inside)}")
    return " UNION ALL ".join(branches)


def _unless_overridden(authority: Authority, table: str, inside: Sequence[Piece]) -> str:
    """Leaves out clicks for which a sparse run speaks that was published later than the run of their position."""
    if not authority.sparse_runs:
        return ""
    return f" AND NOT EXISTS ({_override(authority, table, inside)})"


def _if_overriding(authority: Authority, inside: Sequence[Piece]) -> str:
    table = "delayed_decisions"
    return f" AND EXISTS ({_override(authority, table, inside)} AND o.run_id = {table}.run_id)"


def _override(authority: Authority, table: str, inside: Sequence[Piece]) -> str:
    now = "upper(o.in_force) IS NULL" if authority.as_of is None else f"o.in_force @> {authority.as_of:d}::bigint"
    published = _of_position([piece.published for piece in inside], inside, f"{table}.log_position")
    return (
        f"SELECT FROM authority_overrides o WHERE o.click_id = {table}.click_id AND {now} AND o.published > {published}"
    )


def _overlaps(piece: Piece, span: Span) -> bool:
    return (span.hi is None or piece.lo < span.hi) and (piece.hi is None or span.lo < piece.hi)


def _may_hold(piece: Piece, span: Span) -> bool:
    """Whether a run's known click ids reach into the span; unknown ones may."""
    after = span.last is not None and piece.click_ids.smallest is not None and piece.click_ids.smallest >= span.last
    before = span.first is not None and piece.click_ids.largest is not None and piece.click_ids.largest < span.first
    return not (after or before)


def of_click_ids(span: Span, column: str = "click_id") -> str:
    """A condition on a column of click ids, led by AND; empty for a span without such bounds."""
    first = "" if span.first is None else f" AND {column} >= '{span.first}'"
    return first + ("" if span.last is None else f" AND {column} < '{span.last}'")


def _position_is_live(inside: Sequence[Piece], span: Span) -> str:
    live = [piece for piece in inside if piece.run_id is None]
    if len(live) <= FEW_PIECES:
        return _any_of([_between(piece, span) for piece in live])
    return f"{_between(span, span)} AND {_decider_of_position(inside)} = {LIVE}"


def _position_is_of_its_run(inside: Sequence[Piece], replayed: Sequence[Piece], span: Span) -> str:
    if len(replayed) <= FEW_PIECES:
        return _any_of([f"(run_id = {piece.run_id:d} AND {_between(piece, span)})" for piece in replayed])
    # naming the runs lets the planner see when few of the table's are in force
    among = _among({piece.run_id for piece in replayed if piece.run_id is not None})
    return f"{among} AND {_between(span, span)} AND {_decider_of_position(inside)} = run_id"


def _among(runs: Iterable[int]) -> str:
    return f"run_id = ANY ('{{{_listed(sorted(runs))}}}'::bigint[])"


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
    return _of_position([piece.run_id or LIVE for piece in inside], inside, "log_position")


def _of_position(values: Sequence[int], inside: Sequence[Piece], position: str) -> str:
    """The value of the piece in which a row's position lies, one value for each piece."""
    starts = _listed([piece.lo for piece in inside])
    return f"('{{{_listed(values)}}}'::bigint[])[width_bucket({position}, '{{{starts}}}'::bigint[])]"


def _listed(numbers: Iterable[int]) -> str:
    return ",".join(f"{number:d}" for number in numbers)
