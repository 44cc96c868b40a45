"""The map in force and the overrides over it: read by everybody, rewritten by publications, turned into SQL.

SQL of authoritative rows holds the map as literals, which the planner can estimate and prune partitions by. The
overrides are literals too where they are given, and else read by the statement itself.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clickledger.ledger import authority_map, database
from clickledger.ledger.authority_map import (
    UNKNOWN,
    ClickIds,
    Override,
    Piece,
    Publication,
    SparseClick,
    change,
    check,
    overlapping,
    rewritten,
)
from clickledger.ledger.log import Writer

DECISION_FIELDS = (
    "click_id, log_position, line, advertiser_id, campaign_id, cost_micros, currency, slice, deployment_epoch, "
    "model_version, calibration_version, score, threshold, verdict, reason, carried"
)
LITERAL_OVERRIDES_MAX = 2_000  # more of them are read by the statement: 40 bytes each, parsed and planned every time
SELECT_PIECES = """
    SELECT lower(positions), upper(positions), run_id, published, click_id_min, click_id_max FROM authority
    WHERE {moment} ORDER BY lower(positions)"""
SELECT_OVERRIDES = """
    SELECT click_id, run_id, log_position, published FROM authority_overrides
    WHERE log_position >= {lo:d} AND log_position < {hi:d} AND {moment} ORDER BY click_id LIMIT {limit:d}"""
SELECT_OVERRIDES_OF = """
    SELECT click_id, run_id, log_position, published FROM authority_overrides
    WHERE click_id = ANY (ARRAY(SELECT c.click_id FROM sparse_clicks c WHERE c.run_id = %s))
      AND upper(in_force) IS NULL"""
SELECT_CLICKS = "SELECT click_id, log_position FROM sparse_clicks WHERE run_id = %s ORDER BY click_id"
SELECT_PUBLICATIONS = """
    SELECT position, run_id, lower(positions), upper(positions), reverted_position, click_id_min, click_id_max, kind
    FROM publications ORDER BY position"""
SELECT_LAYERS = """
    SELECT position, run_id, lower(positions), upper(positions), reverted_position, click_id_min, click_id_max, kind
    FROM publications WHERE kind = 'range' AND reverted_position IS NULL AND positions && int8range(%s, %s)"""
TOUCHING = "upper_inf(in_force) AND positions && int8range(%s, %s)"
CLOSE_ROW = """
    UPDATE authority SET in_force = int8range(lower(in_force), %s)
    WHERE upper_inf(in_force) AND positions = int8range(%s, %s) AND run_id IS NOT DISTINCT FROM %s"""
OPEN_ROW = """
    INSERT INTO authority (positions, run_id, in_force, published, click_id_min, click_id_max)
    VALUES (int8range(%s, %s), %s, int8range(%s, NULL), %s, %s, %s)"""


def in_force(conn: database.Connection, as_of: int | None = None) -> list[Piece]:
    """The map in force now, or as of a log position, in order. Raises InvariantBroken when it has a gap."""
    moment = "upper_inf(in_force)" if as_of is None else f"in_force @> {as_of:d}::bigint"
    pieces = [_piece(*row) for row in conn.execute(SELECT_PIECES.format(moment=moment).encode())]
    check(pieces)
    return pieces


def _piece(lo: int, hi: int | None, run_id: int | None, published: int, *click_ids: uuid.UUID | None) -> Piece:
    return Piece(lo, hi, run_id, published, ClickIds(*click_ids))


def overrides(conn: database.Connection, lo: int, hi: int, as_of: int | None = None) -> list[Override] | None:
    """The overrides in force of clicks logged at [lo, hi), by click id; None when there are too many for literals.

    Give them to `rows_between` with a map of the same moment: read both in one snapshot.
    """
    query = SELECT_OVERRIDES.format(lo=lo, hi=hi, moment=_moment(as_of), limit=LITERAL_OVERRIDES_MAX + 1)
    found = [Override(*row) for row in conn.execute(query.encode())]
    return found if len(found) <= LITERAL_OVERRIDES_MAX else None


def _moment(as_of: int | None) -> str:
    """SQL that says an override is in force, in the form that its indexes serve."""
    return "upper(in_force) IS NULL" if as_of is None else f"in_force @> {as_of:d}::bigint"


def overrides_of(conn: database.Connection, run_id: int) -> list[Override]:
    """The overrides in force, of any run, of the clicks of a sparse run."""
    return [Override(*row) for row in conn.execute(SELECT_OVERRIDES_OF, (run_id,))]


def sparse_clicks(conn: database.Connection, run_id: int) -> list[SparseClick]:
    """The clicks of a sparse run, by click id; none for a run over a range."""
    return [SparseClick(*row) for row in conn.execute(SELECT_CLICKS, (run_id,))]


def publications(conn: database.Connection) -> list[Publication]:
    """Every publication ever, of both kinds, reverted or not, in log order."""
    return [_publication(row) for row in conn.execute(SELECT_PUBLICATIONS)]


def _publication(row: tuple[Any, ...]) -> Publication:
    position, run_id, lo, hi, reverted, smallest, largest, kind = row
    return Publication(position, run_id, lo, hi, reverted, ClickIds(smallest, largest), kind)


def rewrite(writer: Writer, position: int, lo: int, hi: int) -> None:
    """Bring positions [lo, hi) of the map to what the publications give, as of the entry at `position`.

    Only what overlaps or touches the range is read and written, however many publications there are elsewhere.
    Overrides are not looked at: of the two, whichever was published later decides.
    """
    layers = [_publication(row) for row in writer.execute(SELECT_LAYERS, (lo, hi))]
    current = [_piece(*row) for row in writer.execute(SELECT_PIECES.format(moment=TOUCHING), (lo - 1, hi + 1))]
    wanted = rewritten(current, layers, lo, hi)
    check(wanted, *((current[0].lo, current[-1].hi) if current else (1, None)))
    closing, opening = change(current, wanted)
    for piece in closing:
        writer.execute(CLOSE_ROW, (position, piece.lo, piece.hi, piece.run_id))
    for piece in opening:
        writer.execute(OPEN_ROW, (*piece[:3], position, piece.published, *piece.click_ids))


def rows_between(
    pieces: Sequence[Piece],
    lo: int,
    hi: int,
    fields: str = DECISION_FIELDS,
    click_ids: ClickIds = UNKNOWN,
    overriding: Sequence[Override] | None = None,
    as_of: int | None = None,
) -> str:
    """SQL of the authoritative rows of positions [lo, hi): `fields` and `from_run_id` (NULL = live).

    `pieces` is a whole map, in force now or as of a position. `overriding` are the overrides in force at that moment of
    clicks in [lo, hi), which become literals; None has the statement read them, for which `as_of` says the moment (None
    = now). `click_ids`, which must hold every click asked for, keeps day partitions outside of it from being opened,
    and so from being locked.
    """
    parts = overlapping(pieces, lo, hi)
    found = None if overriding is None else authority_map.deciding(pieces, overriding)
    selects = []
    for piece in parts:
        unless = _unless_read(piece, as_of) if found is None else _unless_given(piece, found)
        selects.append(
            f"{_select(piece.run_id, fields)} AND log_position >= {piece.lo:d} AND log_position < {piece.hi:d}"
            f"{within(piece.click_ids)}{within(click_ids)}{unless}"
        )
    if found is None:
        selects.append(_read_overrides(parts, fields, as_of) + within(click_ids))
    else:
        inside = {o.click_id: o.run_id for o in found if lo <= o.log_position < hi}
        selects += [select + within(click_ids) for select in _given(inside, fields)]
    return " UNION ALL ".join(selects)


def rows_of(
    pieces: Sequence[Piece],
    overriding: Iterable[Override],
    clicks: Iterable[SparseClick],
    fields: str = DECISION_FIELDS,
) -> str:
    """SQL of the authoritative rows of single clicks, as `rows_between`; `overriding` are those of these clicks."""
    by_click: dict[uuid.UUID, int | None] = {
        click.click_id: authority_map.piece_of(pieces, click.log_position).run_id for click in clicks
    }
    by_click |= {o.click_id: o.run_id for o in authority_map.deciding(pieces, overriding)}
    return " UNION ALL ".join(_given(by_click, fields))


def _select(run_id: int | None, fields: str) -> str:
    """The rows of one decider; more conditions can follow."""
    if run_id is None:
        return f"SELECT {fields}, NULL::bigint AS from_run_id FROM decisions WHERE true"
    return f"SELECT {fields}, {run_id:d}::bigint AS from_run_id FROM delayed_decisions WHERE run_id = {run_id:d}"


def _given(run_of: Mapping[uuid.UUID, int | None], fields: str) -> list[str]:
    """The rows of single clicks, a statement for each decider."""
    by_run: dict[int | None, list[uuid.UUID]] = {}
    for click_id, run_id in run_of.items():
        by_run.setdefault(run_id, []).append(click_id)
    return [
        f"{_select(run_id, fields)}{within(ClickIds(min(ids), max(ids)))} AND click_id = ANY ({literal(ids)})"
        for run_id, ids in by_run.items()
    ]


def _unless_given(piece: Piece, found: Iterable[Override]) -> str:
    ids = [o.click_id for o in found if piece.lo <= o.log_position and (piece.hi is None or o.log_position < piece.hi)]
    return f" AND click_id <> ALL ({literal(ids)})" if ids else ""


def _unless_read(piece: Piece, as_of: int | None) -> str:
    table = "decisions" if piece.run_id is None else "delayed_decisions"
    return (
        f" AND NOT EXISTS (SELECT FROM authority_overrides o WHERE o.click_id = {table}.click_id AND {_moment(as_of)}"
        f" AND o.published > {piece.published:d} AND o.log_position >= {piece.lo:d} AND o.log_position < {piece.hi:d})"
    )


def _read_overrides(parts: Sequence[Piece], fields: str, as_of: int | None) -> str:
    """The decisions of overrides published later than the run of the piece that their click lies in."""
    later = ", ".join(f"({piece.lo:d}::bigint, {piece.hi:d}::bigint, {piece.published:d}::bigint)" for piece in parts)
    return (
        f"SELECT {fields}, run_id AS from_run_id FROM delayed_decisions WHERE (click_id, run_id) IN ("
        f"SELECT o.click_id, o.run_id FROM authority_overrides o JOIN (VALUES {later}) piece (lo, hi, published) "
        f"ON o.log_position >= piece.lo AND o.log_position < piece.hi AND o.published > piece.published "
        f"WHERE {_moment(as_of)})"
    )


def literal(click_ids: Iterable[uuid.UUID]) -> str:
    """Click ids as an array literal."""
    return "'{" + ",".join(map(str, click_ids)) + "}'::uuid[]"


def within(click_ids: ClickIds, column: str = "click_id") -> str:
    """SQL that keeps a column within bounds as literals, which prune partitions when planned; begins with AND."""
    smallest, largest = click_ids
    above = f" AND {column} >= '{smallest}'" if smallest else ""
    return above + (f" AND {column} <= '{largest}'" if largest else "")
