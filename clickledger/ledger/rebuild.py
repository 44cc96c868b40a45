"""Caches against the log: every cached fold read back and compared with the fold of the control entries."""

from __future__ import annotations

from collections import Counter
from typing import Any

from clickledger.ledger import database, departed, log
from clickledger.ledger.authority_map import SparseClick
from clickledger.ledger.fold import KINDS, fold

QUERIES = {
    "models": "SELECT model_version, kind, encode(digest, 'hex'), registered_position FROM models",
    "calibrations": "SELECT calibration_version, model_version, thresholds, set_position FROM calibrations",
    "deployments": "SELECT epoch, routing, from_position, to_position, revoked_position FROM deployments",
    "counter_epochs": "SELECT counter_epoch, from_position FROM counter_epochs",
    "conflicts": "SELECT click_id::text, encode(intake_digest, 'hex'), log_position FROM conflicts",
    "incidents": """
        SELECT incident_id, status, deployment_epoch, model_version, run_id, updated_position FROM incidents""",
    "billing_periods": "SELECT period, closed_position FROM billing_periods",
    "replay_runs": """
        SELECT run_id, lower(positions), upper(positions), mode, model_version, calibration_version, scope, row_count,
               incident_id, status, staged_position, encode(content_digest, 'hex'), click_id_min, click_id_max,
               kind, paused_position
        FROM replay_runs""",
    "comparisons": "SELECT comparison_id, run_id, compared_at_position, encode(digest, 'hex') FROM comparisons",
    "publications": """
        SELECT position, run_id, comparison_id, lower(positions), upper(positions), reverted_position, click_id_min,
               click_id_max, kind
        FROM publications""",
    "legal_holds": "SELECT hold_id, first_day::text, last_day::text, released_position FROM legal_holds",
    "detached_days": """
        SELECT day::text, position, departure::text, encode(digest, 'hex'), clicks, delayed, first_position,
               last_position, settled_position, dropped_position FROM detached_days""",
    "authority": """
        SELECT lower(positions), upper(positions), run_id, lower(in_force), upper(in_force), published, click_id_min,
               click_id_max
        FROM authority""",
    "authority_overrides": """
        SELECT click_id, run_id, log_position, published, lower(in_force), upper(in_force) FROM authority_overrides""",
    "sparse_clicks": "SELECT run_id, click_id, log_position FROM sparse_clicks",
}
SELECT_DECIDED = "SELECT run_id, click_id, log_position FROM delayed_decisions WHERE run_id = ANY (%s)"


def differences(conn: database.Connection) -> list[str]:
    """What the caches hold beyond or short of the fold of the log, one line per row; empty when they agree."""
    with departed.snapshot(conn):
        entries = log.read(conn, kinds=KINDS, limit=log.NO_LIMIT)
        folds = fold((e.position, e.kind, e.payload_text) for e in entries)
        expected = folds.tables(_clicks_of(conn, folds.sparse_runs()))
        cached = {table: Counter(tuple(row) for row in conn.execute(query)) for table, query in QUERIES.items()}
    found = []
    for table, rows in expected.items():
        once, held = Counter(rows), cached[table]
        found += [f"{table}: the log gives {row}, the cache lacks it" for row in _sorted(once - held)]
        found += [f"{table}: the cache holds {row}, the log does not give it" for row in _sorted(held - once)]
    return found


def _clicks_of(conn: database.Connection, run_ids: list[int]) -> dict[int, list[SparseClick]]:
    """The clicks of sparse runs, from their decisions, which staging pinned, or as their gone day's entry pins them."""
    found: dict[int, list[SparseClick]] = {}
    there = conn.execute(SELECT_DECIDED, (run_ids,)).fetchall()
    for run_id, click_id, position in [*there, *departed.sparse_clicks(conn, run_ids)]:
        found.setdefault(run_id, []).append(SparseClick(click_id, position))
    return found


def _sorted(rows: Counter[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)
