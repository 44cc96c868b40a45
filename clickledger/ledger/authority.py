"""The authority table: the map in force, read and rewritten by publications."""

from __future__ import annotations

import uuid
from typing import Any

from clickledger.ledger import database
from clickledger.ledger.authority_map import UNKNOWN, ClickIds, Piece, Publication, change, check, overlapping, topmost
from clickledger.ledger.log import Writer

DECISION_FIELDS = (
    "click_id, log_position, line, advertiser_id, campaign_id, cost_micros, currency, slice, deployment_epoch, "
    "model_version, calibration_version, score, threshold, verdict, reason, carried"
)
SELECT_IN_FORCE = """
    SELECT lower(positions), upper(positions), run_id, click_id_min, click_id_max FROM authority
    WHERE upper_inf(in_force) ORDER BY lower(positions)"""
SELECT_PUBLICATIONS = """
    SELECT position, run_id, lower(positions), upper(positions), reverted_position, click_id_min, click_id_max
    FROM publications ORDER BY position"""
CLOSE_ROW = """
    UPDATE authority SET in_force = int8range(lower(in_force), %s)
    WHERE upper_inf(in_force) AND positions = int8range(%s, %s) AND run_id IS NOT DISTINCT FROM %s"""
OPEN_ROW = """
    INSERT INTO authority (positions, run_id, in_force, click_id_min, click_id_max)
    VALUES (int8range(%s, %s), %s, int8range(%s, NULL), %s, %s)"""


def in_force(conn: database.Connection) -> list[Piece]:
    """The map in force now, in order. Raises InvariantBroken when it has a gap."""
    pieces = [_piece(*row) for row in conn.execute(SELECT_IN_FORCE)]
    check(pieces)
    return pieces


def _piece(lo: int, hi: int | None, run_id: int | None, smallest: uuid.UUID | None, largest: uuid.UUID | None) -> Piece:
    return Piece(lo, hi, run_id, ClickIds(smallest, largest))


def publications(conn: database.Connection) -> list[Publication]:
    """Every publication ever, reverted or not, in log order."""
    return [_publication(row) for row in conn.execute(SELECT_PUBLICATIONS)]


def _publication(row: tuple[Any, ...]) -> Publication:
    position, run_id, lo, hi, reverted, *bounds = row
    return Publication(position, run_id, lo, hi, reverted, ClickIds(*bounds))


def rewrite(writer: Writer, position: int) -> list[Piece]:
    """Bring the table to the map that the publications give, as of the entry at `position`; the map."""
    layers = [_publication(row) for row in writer.execute(SELECT_PUBLICATIONS)]
    current = [_piece(*row) for row in writer.execute(SELECT_IN_FORCE)]
    wanted = topmost(layers)
    check(wanted)
    closing, opening = change(current, wanted)
    for piece in closing:
        writer.execute(CLOSE_ROW, (position, piece.lo, piece.hi, piece.run_id))
    for piece in opening:
        writer.execute(OPEN_ROW, (piece.lo, piece.hi, piece.run_id, position, *piece.click_ids))
    return wanted


def rows_between(
    pieces: list[Piece], lo: int, hi: int, fields: str = DECISION_FIELDS, click_ids: ClickIds = UNKNOWN
) -> str:
    """SQL of the authoritative rows of positions [lo, hi) with the ranges as literals, which the planner can estimate.

    `pieces` is a map in force; each row has `from_run_id` (NULL = live) after `fields`. `click_ids`, which must hold
    every click asked for, keeps day partitions outside of it from being opened, and so from being locked.
    """
    parts = []
    for piece in overlapping(pieces, lo, hi):
        table = "decisions" if piece.run_id is None else "delayed_decisions"
        only = "" if piece.run_id is None else f"run_id = {piece.run_id:d} AND "
        run = "NULL::bigint" if piece.run_id is None else f"{piece.run_id:d}::bigint"
        parts.append(
            f"SELECT {fields}, {run} AS from_run_id FROM {table} "
            f"WHERE {only}log_position >= {piece.lo:d} AND log_position < {piece.hi:d}"
            f"{within(piece.click_ids)}{within(click_ids)}"
        )
    return " UNION ALL ".join(parts)


def within(click_ids: ClickIds, column: str = "click_id") -> str:
    """SQL that keeps a column within bounds as literals, which prune partitions when planned; begins with AND."""
    smallest, largest = click_ids
    above = f" AND {column} >= '{smallest}'" if smallest else ""
    return above + (f" AND {column} <= '{largest}'" if largest else "")
