"""Which publications touch the clicks of a run: what makes its comparison stale, and what lies on top of it.

A publication touches a run when the two decide a click in common: ranges that overlap, a sparse run's click logged in
the other's range, a click that two sparse runs share. Every question costs a look at the publications, and index
lookups for the clicks of one sparse run, of which there are at most `sparse.CLICKS_MAX`.
"""

from __future__ import annotations

from typing import NamedTuple

from clickledger.ledger.authority_map import SPARSE
from clickledger.ledger.log import Writer
from clickledger.ledger.runs import Run

# A publication over a range, or a sparse one of which a click was logged in [lo, hi).
_TOUCHES_RANGE = """
    positions && int8range(%(lo)s, %(hi)s)
    AND (kind = 'range'
         OR EXISTS (SELECT FROM sparse_clicks c WHERE c.run_id = publications.run_id
                                                  AND c.log_position >= %(lo)s AND c.log_position < %(hi)s))"""
# A publication over a range in which a click of the sparse run was logged.
_HOLDS_CLICK = """
    kind = 'range' AND positions && int8range(%(lo)s, %(hi)s)
    AND EXISTS (SELECT FROM sparse_clicks c WHERE c.run_id = %(run)s AND c.log_position >= lower(publications.positions)
                                              AND c.log_position < upper(publications.positions))"""
_ITS_CLICKS = "o.click_id = ANY (ARRAY(SELECT c.click_id FROM sparse_clicks c WHERE c.run_id = %(run)s))"
_CHANGED = "(position > %(since)s OR reverted_position > %(since)s)"
_NEWEST_CHANGE = "ORDER BY 2 DESC LIMIT 1"
SELECT_CHANGE_OF_RANGE = f"""
    SELECT run_id, greatest(position, reverted_position) FROM publications
    WHERE {_CHANGED} AND run_id <> %(without)s AND {_TOUCHES_RANGE} {_NEWEST_CHANGE}"""
# Between sparse runs the overrides tell: publication and revert open or close one for each click of their run.
SELECT_CHANGE_OF_CLICKS = f"""
    SELECT run_id, at FROM (
        SELECT run_id, greatest(position, reverted_position) AS at FROM publications WHERE {_CHANGED} AND {_HOLDS_CLICK}
        UNION ALL
        SELECT p.run_id, s.at FROM (
            SELECT max(greatest(lower(o.in_force), upper(o.in_force))) AS at
            FROM authority_overrides o
            WHERE {_ITS_CLICKS}
              AND (upper(o.in_force) > %(since)s OR (upper(o.in_force) IS NULL AND lower(o.in_force) > %(since)s))) s
        JOIN publications p ON p.position = s.at OR p.reverted_position = s.at) changes {_NEWEST_CHANGE}"""
SELECT_ABOVE_RANGE = f"""
    SELECT run_id, position FROM publications
    WHERE position > %(since)s AND reverted_position IS NULL AND {_TOUCHES_RANGE} LIMIT 1"""
SELECT_ABOVE_CLICKS = f"""
    SELECT run_id, position FROM publications
    WHERE position > %(since)s AND reverted_position IS NULL AND {_HOLDS_CLICK}
    UNION ALL
    SELECT o.run_id, o.published FROM authority_overrides o
    WHERE {_ITS_CLICKS} AND upper(o.in_force) IS NULL AND o.published > %(since)s LIMIT 1"""


class Layer(NamedTuple):
    """A run and the position at which it was published or reverted."""

    run_id: int
    position: int


def changed(writer: Writer, run: Run, since: int) -> Layer | None:
    """The newest publication or revert, of this run or another, that touched the clicks of a run after `since`."""
    query = SELECT_CHANGE_OF_CLICKS if run.kind == SPARSE else SELECT_CHANGE_OF_RANGE
    return _first(writer, query, run, since)


def changed_by_others(writer: Writer, run: Run) -> Layer | None:
    """The newest publication or revert of another run that touched the range of a run since that was planned."""
    return _first(writer, SELECT_CHANGE_OF_RANGE, run, run.run_id, without=run.run_id)


def above(writer: Writer, run: Run, published: int) -> Layer | None:
    """A publication in force that touches the clicks of a run and came after it was published."""
    query = SELECT_ABOVE_CLICKS if run.kind == SPARSE else SELECT_ABOVE_RANGE
    return _first(writer, query, run, published)


def _first(writer: Writer, query: str, run: Run, since: int, without: int = 0) -> Layer | None:
    wanted = {"run": run.run_id, "lo": run.lo, "hi": run.hi, "since": since, "without": without}
    found = writer.execute(query, wanted)
    return Layer(*found[0]) if found else None
