"""Replay runs: planned over a closed range of positions, staged invisibly, then frozen. Sparse ones: `sparse.py`.

Invariants:
- a run's range lies below the head when it is planned, so its manifest can never change;
- a staged run holds exactly one decision for each click of its manifest, and takes no more;
- a paused run gives out no chunk and is not staged; a backtest is like any other run, and never published.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from clickledger import errors
from clickledger.ledger import canonical, database, departed, log
from clickledger.ledger.authority_map import BACKTEST, RANGE, ClickIds

CHUNK_ROWS = 10_000
RECOUNTED_CHUNK_ROWS = 50_000  # each reads the clicks of the longest window before it: fewer and larger ones
RESCORE, RECOMPUTE = "rescore", "recompute"  # on recorded snapshots; on snapshots counted again from the log
# Model and calibration of a run that names none for all clicks: it decides each by those of its routes, or has none and
# decides each by those its live decision names (recompute only).
OWN = 0
ANY_SLICE = "*"
Routes = Mapping[str, tuple[int, int]]  # slice, or "*" for all others -> model and calibration
SELECT_BATCHES = """
    SELECT position, row_count FROM log
    WHERE position >= %s AND position < %s AND kind = 'clicks_decided' ORDER BY position"""
SELECT_RUN = """
    SELECT run_id, lower(positions), upper(positions), mode, model_version, calibration_version, scope, row_count,
           incident_id, status, content_digest, click_id_min, click_id_max, kind, paused_position,
           CASE WHEN model_version = 0
                THEN (SELECT l.payload::json ->> 'routes' FROM log l WHERE l.position = run_id) END
    FROM replay_runs WHERE run_id = %s"""
INSERT_RUN = """
    INSERT INTO replay_runs (run_id, positions, mode, model_version, calibration_version, scope, row_count, incident_id,
                             status, kind)
    VALUES (%s, int8range(%s, %s), %s, %s, %s, %s, %s, %s, 'planned', %s)"""
INSERT_CHUNKS = """
    INSERT INTO replay_chunks (run_id, chunk_no, positions, row_count)
    SELECT %s, u.chunk_no, int8range(u.lo, u.hi), u.row_count
    FROM unnest(%s::integer[], %s::bigint[], %s::bigint[], %s::integer[]) AS u (chunk_no, lo, hi, row_count)"""
SELECT_CHUNKS = """
    SELECT lower(positions), upper(positions), row_count, content_digest, features_digest, status
    FROM replay_chunks WHERE run_id = %s ORDER BY chunk_no"""
# As text in the C collation, since there is no min(uuid): its order is that of the bytes.
COUNT_STAGED = """
    SELECT count(*), count(*) FILTER (WHERE log_position >= %(lo)s AND log_position < %(hi)s),
           min(click_id::text COLLATE "C")::uuid, max(click_id::text COLLATE "C")::uuid
    FROM delayed_decisions WHERE run_id = %(run)s"""
FREEZE = """
    UPDATE replay_runs SET status = 'staged', staged_position = %s, content_digest = %s, click_id_min = %s,
                           click_id_max = %s
    WHERE run_id = %s"""
SET_PAUSED = "UPDATE replay_runs SET paused_position = %s WHERE run_id = %s"


@dataclass(frozen=True, slots=True)
class Run:
    """One replay run over log positions [lo, hi); `row_count` is its manifest."""

    run_id: int
    lo: int
    hi: int
    mode: str
    model_version: int
    calibration_version: int
    scope: str
    row_count: int
    incident_id: int | None
    status: str
    content_digest: bytes | None
    click_id_min: uuid.UUID | None = None  # of its clicks; known once it is staged
    click_id_max: uuid.UUID | None = None
    kind: str = RANGE  # or BACKTEST; or SPARSE: some clicks logged in the range, by stated decisions
    paused_position: int | None = None
    routes_text: str | None = None  # JSON, as its entry says

    @property
    def routes(self) -> Routes | None:
        """By which model and calibration each slice is decided, where they are several; None for other runs."""
        if self.routes_text is None:
            return None
        return {name: (pair[0], pair[1]) for name, pair in json.loads(self.routes_text).items()}

    @property
    def models(self) -> set[int]:
        """The models that it names to decide; none for a sparse run, nor where each click keeps its own."""
        return named_models(self.model_version, self.routes)

    @property
    def click_ids(self) -> ClickIds:
        """The smallest and largest click id, unknown before staging and for runs staged by version 0.1.0."""
        return ClickIds(self.click_id_min, self.click_id_max)

    @property
    def scope_filter(self) -> dict[str, list[str]]:
        """The slices and advertisers the run re-decides; an absent key means all."""
        return dict(json.loads(self.scope))


def named_models(model_version: int, routes: Mapping[str, Sequence[int]] | None) -> set[int]:
    """The models of a run or plan: the one that decides all, or those of its routes, by slice."""
    return {model_version, *(pair[0] for pair in (routes or {}).values())} - {OWN}


class Chunk(NamedTuple):
    """Log positions [lo, hi) of a run with their number of clicks."""

    lo: int
    hi: int
    row_count: int


def plan(
    conn: database.Connection,
    lo: int,
    hi: int,
    *,
    model_version: int,
    calibration_version: int,
    actor: str,
    reason: str,
    mode: str = RESCORE,
    kind: str = RANGE,
    scope: dict[str, list[str]] | None = None,
    routes: Routes | None = None,
    incident_id: int | None = None,
    chunk_rows: int = CHUNK_ROWS,
    plan_digest: str | None = None,
    also: Callable[[log.Writer, int], None] | None = None,
) -> Run:
    """Plan a run over positions [lo, hi): its manifest and chunks, one log entry.

    `routes` decide by slice, with model and calibration `OWN`; they are in the entry only.
    `also` is called with the run's id in the same transaction: what it refuses leaves no run behind. Raises
    InvalidInput when the range is not below the head or a model is named beside routes, NotFound without such a
    calibration, Refused when the range holds no click, or clicks of a day that is detached in part.
    """
    _check_kind(mode, kind)
    _check_routes(routes, model_version)
    head = log.head(conn)
    if not 1 <= lo < hi <= head.position + 1:
        raise errors.InvalidInput(f"positions: expected a range within [1, {head.position + 1}), got [{lo}, {hi})")
    chunks = cut(batches(conn, lo, hi), lo, hi, chunk_rows)
    if not chunks:
        raise errors.Refused(f"positions [{lo}, {hi}) hold no click: nothing to replay")
    last = log.entry(conn, hi - 1)
    departed.require_none_halfway(conn, lo, hi)
    with log.writing(conn) as writer:
        for pair in _pairs(mode, model_version, calibration_version, routes):
            _check_calibration(writer, *pair)
        if gone := writer.execute("SELECT day FROM detached_days WHERE position > %s", (head.position,)):
            raise errors.Conflict(f"{gone[0][0]} was detached while the run was planned: plan again")
        rows = sum(chunk.row_count for chunk in chunks)
        payload = {
            "positions": [lo, hi],
            "mode": mode,
            "model_version": model_version,
            "calibration_version": calibration_version,
            "scope": scope or {},
            "row_count": rows,
            "chunks": len(chunks),
            "incident_id": incident_id,
            "last_chain_hash": last.chain_hash.hex(),  # pins the content of the whole range
            "kind": kind,
            "plan": plan_digest,
        }
        if routes:
            payload["routes"] = {name: list(pair) for name, pair in routes.items()}
        run_id = writer.record("replay_planned", payload, actor, reason).position
        scope_text = canonical.canonical_json(scope or {})
        identity = (run_id, lo, hi, mode, model_version, calibration_version, scope_text, rows, incident_id, kind)
        writer.execute(INSERT_RUN, identity)
        numbers = list(range(len(chunks)))
        writer.execute(INSERT_CHUNKS, (run_id, numbers, *[list(column) for column in zip(*chunks, strict=True)]))
        if also is not None:
            also(writer, run_id)
    with database.committed(f"run {run_id} is planned"):
        return get(conn, run_id)


def batches(conn: database.Connection, lo: int, hi: int) -> list[tuple[int, int]]:
    """(position, clicks) of each batch entry of positions [lo, hi), without the clicks of detached days."""
    return departed.without(conn, conn.execute(SELECT_BATCHES, (lo, hi)), lo, hi)


def cut(batches: Iterable[tuple[int, int]], lo: int, hi: int, chunk_rows: int) -> list[Chunk]:
    """Chunks of about `chunk_rows` clicks that together cover [lo, hi); none when there is no click."""
    chunks: list[Chunk] = []
    rows = 0
    for position, row_count in batches:
        rows += row_count
        if rows >= chunk_rows:
            chunks.append(Chunk(chunks[-1].hi if chunks else lo, position + 1, rows))
            rows = 0
    if rows:
        chunks.append(Chunk(chunks[-1].hi if chunks else lo, hi, rows))
    elif chunks:
        chunks[-1] = chunks[-1]._replace(hi=hi)
    return chunks


def _check_kind(mode: str, kind: str) -> None:
    if mode not in (RESCORE, RECOMPUTE):
        raise errors.InvalidInput(f"mode: expected {RESCORE} or {RECOMPUTE}, got {mode!r}")
    if kind not in (RANGE, BACKTEST):
        raise errors.InvalidInput(f"kind: expected {RANGE} or {BACKTEST}, got {kind!r}")


def _check_routes(routes: Routes | None, model_version: int) -> None:
    if routes is not None and (ANY_SLICE not in routes or model_version != OWN):
        raise errors.InvalidInput(
            f'routes: expected one of slice "*" and no model beside, got {sorted(routes)} and model {model_version}'
        )


def _pairs(mode: str, model_version: int, calibration_version: int, routes: Routes | None) -> set[tuple[int, int]]:
    """The models and calibrations that a run names."""
    if routes is not None:
        return set(routes.values())
    return {(model_version, calibration_version)} if mode == RESCORE or model_version != OWN else set()


def _check_calibration(writer: log.Writer, model_version: int, calibration_version: int) -> None:
    query = "SELECT 1 FROM calibrations WHERE calibration_version = %s AND model_version = %s"
    if not writer.execute(query, (calibration_version, model_version)):
        raise errors.NotFound(f"no calibration {calibration_version} of model {model_version}")


def get(conn: database.Connection, run_id: int) -> Run:
    """A run by its id. Raises NotFound."""
    row = conn.execute(SELECT_RUN, (run_id,)).fetchone()
    if row is None:
        raise errors.NotFound(f"no replay run {run_id}")
    return Run(*row)


def stage(conn: database.Connection, run_id: int, actor: str) -> Run:
    """Freeze a run whose chunks are all done: its rows must be exactly its manifest. A staged run stays as it is.

    Raises Refused while chunks are missing, InvariantBroken when rows and manifest differ.
    """
    planned = get(conn, run_id)
    # Chunks first, then their rows: what is done stays done, and its rows were committed with it. The count takes as
    # long as the run is large, so it is made before the lock.
    chunks = conn.execute(SELECT_CHUNKS, (run_id,)).fetchall()
    counted = _count(conn, planned)
    with log.writing(conn) as writer:
        run = Run(*writer.execute(SELECT_RUN, (run_id,))[0])
        if run.status == "staged":
            writer.confirm_earlier()
            return run
        if run.status != "planned" or run.paused_position:
            stands = "paused" if run.paused_position else run.status
            raise errors.Refused(f"run {run_id}: expected status planned, got {stands}")
        if missing := sum(status != "done" for *_, status in chunks):
            raise errors.Refused(f"run {run_id}: expected all {len(chunks)} chunks done, {missing} are not")
        done = sum(chunk[2] for chunk in chunks)
        if not counted.rows == counted.inside == done == run.row_count:
            raise errors.InvariantBroken(
                f"run {run_id}: expected {run.row_count} decisions within [{run.lo}, {run.hi}), got {counted.inside} "
                f"there and {counted.rows - counted.inside} elsewhere, in chunks of {done}"
            )
        digest = canonical.run_digest([(lo, hi, rows, bytes(content)) for lo, hi, rows, content, *_ in chunks])
        freeze(writer, run_id, done, digest, counted.click_ids, actor, _features_digest(run, chunks))
    with database.committed(f"run {run_id} is staged"):
        return get(conn, run_id)


def _features_digest(run: Run, chunks: list[tuple[Any, ...]]) -> bytes | None:
    """What staging says of the snapshots that a recompute run decided on; None for other runs."""
    if run.mode != RECOMPUTE:
        return None
    return canonical.run_digest([(lo, hi, rows, bytes(features)) for lo, hi, rows, _, features, _ in chunks])


def freeze(
    writer: log.Writer,
    run_id: int,
    row_count: int,
    digest: bytes,
    click_ids: ClickIds,
    actor: str,
    features_digest: bytes | None = None,
) -> None:
    """Make a planned run a staged one, whose decisions are those of `digest` (see `canonical.run_digest`)."""
    payload = {
        "run_id": run_id,
        "row_count": row_count,
        "content_digest": digest.hex(),
        "click_ids": [str(click_id) for click_id in click_ids],
    }
    if features_digest is not None:
        payload["features_digest"] = features_digest.hex()
    entry = writer.record("replay_staged", payload, actor)
    writer.execute(FREEZE, (entry.position, digest, *click_ids, run_id))


class _Count(NamedTuple):
    """Decisions of a run: all of them, those within its positions, and the bounds of their click ids."""

    rows: int
    inside: int
    click_ids: ClickIds


def _count(conn: database.Connection, run: Run) -> _Count:
    wanted = {"run": run.run_id, "lo": run.lo, "hi": run.hi}
    [(rows, inside, *bounds)] = conn.execute(COUNT_STAGED, wanted).fetchall()
    return _Count(rows, inside, ClickIds(*bounds))


def click_ids(conn: database.Connection, run: Run) -> ClickIds:
    """The bounds of a run's click ids, counted where staging did not note them (version 0.1.0)."""
    return run.click_ids if run.click_id_min else _count(conn, run).click_ids


def pause(conn: database.Connection, run_id: int, actor: str, reason: str) -> None:
    """Give out no chunk of a run any more; those under way are finished. Raises Refused unless it is going on."""
    with log.writing(conn) as writer:
        run = _planned(writer, run_id)
        if run.paused_position:
            raise errors.Refused(f"run {run_id} is paused already, since position {run.paused_position}")
        entry = writer.record("replay_paused", {"run_id": run_id}, actor, reason)
        writer.execute(SET_PAUSED, (entry.position, run_id))


def resume(conn: database.Connection, run_id: int, actor: str, reason: str) -> None:
    """Go on with a paused run where it stood. Raises Refused unless it is paused."""
    with log.writing(conn) as writer:
        if not _planned(writer, run_id).paused_position:
            raise errors.Refused(f"run {run_id} is not paused: nothing to resume")
        writer.record("replay_resumed", {"run_id": run_id}, actor, reason)
        writer.execute(SET_PAUSED, (None, run_id))


def _planned(writer: log.Writer, run_id: int) -> Run:
    if not (found := writer.execute(SELECT_RUN, (run_id,))):
        raise errors.NotFound(f"no replay run {run_id}")
    run = Run(*found[0])
    if run.status != "planned":
        raise errors.Refused(f"run {run_id} is {run.status}: nothing of it is left to do")
    return run


def abandon(conn: database.Connection, run_id: int, actor: str, reason: str) -> None:
    """Give a planned or staged run up; its rows stay as evidence.

    Raises Refused while it is published, or when it was given up already.
    """
    with log.writing(conn) as writer:
        published = "SELECT position FROM publications WHERE run_id = %s AND reverted_position IS NULL"
        if found := writer.execute(published, (run_id,)):
            raise errors.Refused(f"run {run_id} is published at position {found[0][0]}: revert it first")
        if not (found := writer.execute(SELECT_RUN, (run_id,))):
            raise errors.NotFound(f"no replay run {run_id}")
        if Run(*found[0]).status == "abandoned":
            raise errors.Refused(f"run {run_id} was abandoned already")
        writer.execute("UPDATE replay_runs SET status = 'abandoned' WHERE run_id = %s", (run_id,))
        writer.record("replay_abandoned", {"run_id": run_id}, actor, reason)
