"""The forms that the SQL of a reader of many rows has, made of the caches as they stood at one moment."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from clickledger.ledger import authority, authority_map, literal_ranges


def forms(caches: Mapping[str, Sequence[Any]], lo: int, hi: int, as_of: int | None) -> Iterator[tuple[str, str]]:
    """SQL of the decisions of positions [lo, hi) in each form there is, of the map and the overrides of a moment."""

    def stands(since: int, until: int | None) -> bool:
        return until is None if as_of is None else since <= as_of and (until is None or as_of < until)

    pieces = [
        authority_map.Piece(first, end, run_id, published, _click_ids(bounds))
        for first, end, run_id, since, until, published, *bounds in sorted(caches["authority"], key=_first)
        if stands(since, until)
    ]
    overriding = [
        authority_map.Override(uuid.UUID(click), run_id, position, published)
        for click, run_id, position, published, since, until in caches["authority_overrides"]
        if stands(since, until) and lo <= position < hi
    ]
    sparse = [row[1] for row in caches["publications"] if row[8] == authority_map.SPARSE and stands(row[0], row[5])]
    for name, given in (("overrides as literals", overriding), ("overrides read", None)):
        query = authority.rows_between(pieces, lo, hi, "click_id, verdict::text", overriding=given, as_of=as_of)
        yield name, query
    deciding, span = literal_ranges.Authority(pieces, sparse, as_of), literal_ranges.Span(lo, hi)
    lists = "click_id, verdict::text, NULL::bigint", "click_id, verdict::text, run_id"
    yield "literal ranges", literal_ranges.select(deciding, span, *lists)
    with pytest.MonkeyPatch.context() as few:  # else it takes more pieces than histories have
        few.setattr(literal_ranges, "FEW_PIECES", 0)
        searched = literal_ranges.select(deciding, span, *lists)
    yield "searched ranges", searched


def _first(row: Sequence[Any]) -> int:
    return int(row[0])


def _click_ids(bounds: Iterable[str | None]) -> authority_map.ClickIds:
    return authority_map.ClickIds(*(bound and uuid.UUID(bound) for bound in bounds))
