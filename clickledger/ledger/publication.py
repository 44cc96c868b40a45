"""Publishing and reverting a run of either kind: one short transaction each.

A run over a range is a few rows of the map, whatever the number of its clicks; a sparse run is one override a click,
of which it has few. Neither touches what the other kind wrote: where both speak of a click, the later publication
decides.

Invariants:
- a publication takes effect with its commit, for every click of the run or for none;
- it is refused when the authority of one of its clicks, or the set of closed periods, changed since it was compared;
- a revert takes away the topmost layer only: beneath a later publication of one of its clicks it is refused.
"""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

from clickledger import errors
from clickledger.ledger import authority, database, departed, deployments, four_eyes, layers, log, runs
from clickledger.ledger.authority_map import BACKTEST, RANGE, SPARSE
from clickledger.ledger.caps import NO_CAPS, Caps

SELECT_NEWEST_COMPARISON = """
    SELECT comparison_id, adjustment_set, compared_at_position, digest, summary
    FROM comparisons WHERE run_id = %s ORDER BY comparison_id DESC LIMIT 1"""
SELECT_PERIOD_CLOSED_SINCE = "SELECT period FROM billing_periods WHERE closed_position > %s LIMIT 1"
SELECT_UNBALANCED = """
    SELECT advertiser_id FROM comparison_totals WHERE adjustment_set = %s
    GROUP BY advertiser_id, currency
    HAVING sum(billed_before_micros) + sum(adjustments_micros) + sum(write_off_micros) <> sum(billed_after_micros)"""
SELECT_PUBLISHED = """
    SELECT position FROM publications
    WHERE run_id = %s AND reverted_position IS NULL"""
INSERT_PUBLICATION = """
    INSERT INTO publications (position, run_id, comparison_id, positions, click_id_min, click_id_max, kind)
    VALUES (%s, %s, %s, int8range(%s, %s), %s, %s, %s)"""
NO_CLICK_IDS = [None, None]  # of comparisons made by version 0.1.0


class Published(NamedTuple):
    """A publication or revert: its entry's position and how long its transaction took, from lock to commit."""

    position: int
    seconds: float


def publish(
    conn: database.Connection, run_id: int, digest: str, actor: str, reason: str, caps: Caps = NO_CAPS
) -> Published:
    """Put a staged run in force for its clicks, as the comparison named by `digest` said.

    Raises Refused before it is staged, when it is in force already, and above a cap when nobody else planned or
    compared it; StalePlan when the world changed since, OutdatedRun where only a new plan takes that in, as when a
    model that it was decided by has been rolled back: nobody may put in force what was just found to be wrong.
    """
    prepared = four_eyes.of_publication(conn, run_id, digest)
    with log.writing(conn) as writer:
        started = time.perf_counter()
        run = _staged(writer, run_id)
        comparison_id, summary = _fresh_comparison(writer, run, digest)
        how = f"clickledger replay compare {run_id}"
        second = four_eyes.require(writer, f"run {run_id}", prepared, actor, caps, how)
        bounds = summary.get("click_ids", NO_CLICK_IDS)
        payload = {
            "run_id": run_id,
            "comparison_id": comparison_id,
            "digest": digest,
            "kind": run.kind,
            "positions": [run.lo, run.hi],
            "click_ids": bounds,
            "clicks": summary["clicks"],
            "flips": summary["flips"],
            "adjustments_micros": summary["adjustments_micros"],
            **prepared.fields(second),
        }
        entry = writer.record("replay_published", payload, actor, reason)
        identity = (entry.position, run_id, comparison_id, run.lo, run.hi, *bounds, run.kind)
        writer.execute(INSERT_PUBLICATION, identity)
        if run.kind == SPARSE:
            writer.execute("SELECT open_overrides(%s, %s)", (run_id, entry.position))
        else:
            authority.rewrite(writer, entry.position, run.lo, run.hi)
    return Published(entry.position, time.perf_counter() - started)


def _staged(writer: log.Writer, run_id: int) -> runs.Run:
    if not (found := writer.execute(runs.SELECT_RUN, (run_id,))):
        raise errors.NotFound(f"no replay run {run_id}")
    run = runs.Run(*found[0])
    if run.kind == BACKTEST:
        raise errors.Refused(f"run {run_id} is a backtest: it shows what a model would have decided, and stays aside")
    if run.status != "staged":
        raise errors.Refused(f"run {run_id}: expected status staged, got {run.status}")
    if published := writer.execute(SELECT_PUBLISHED, (run_id,)):
        raise errors.Refused(f"run {run_id} is in force already, since position {published[0][0]}")
    return run


def rolled_back(execute: database.Execute, run: runs.Run) -> tuple[int, int] | None:
    """A model by which a run decided and which was rolled back since it was planned, and at which position.

    Where each click kept its own, any whose batches may stand in the run's range. Stated decisions are nobody's.
    """
    own = not run.models and run.kind != SPARSE
    models = deployments.models_within(execute, run.lo, run.hi) if own else run.models
    return deployments.rolled_back_since(execute, models, run.run_id) if models else None


def _fresh_comparison(writer: log.Writer, run: runs.Run, digest: str) -> tuple[int, dict[str, Any]]:
    if not (found := writer.execute(SELECT_NEWEST_COMPARISON, (run.run_id,))):
        raise errors.Refused(f"run {run.run_id} was not compared yet")
    comparison_id, adjustment_set, since, newest, summary_text = found[0]
    if back := rolled_back(writer.execute, run):
        by_incident = run.incident_id is not None and run.kind == RANGE  # whose replay takes the stable model of now
        how = f"as by clickledger replay retry {run.run_id} --reprocess all" if by_incident else "through another model"
        raise errors.OutdatedRun(
            f"run {run.run_id} was decided by model {back[0]}, which was rolled back since, at position {back[1]}: "
            f"plan again, {how}"
        )
    if bytes(newest).hex() != digest:
        raise errors.StalePlan(f"run {run.run_id}: expected comparison {bytes(newest).hex()}, got {digest}")
    if changed := layers.changed(writer, run, since):
        where = f"the {'clicks' if run.kind == SPARSE else 'range'} at position {changed.position}"
        raise errors.StalePlan(f"run {changed.run_id} changed {where}, after position {since}: compare again")
    if closed := writer.execute(SELECT_PERIOD_CLOSED_SINCE, (since,)):
        raise errors.StalePlan(f"period {closed[0][0]} was closed after position {since}: compare again")
    summary: dict[str, Any] = json.loads(summary_text)
    if summary["carried"] and (other := layers.changed_by_others(writer, run)):
        raise errors.OutdatedRun(f"run {run.run_id} carries decisions that run {other.run_id} has replaced: plan again")
    if unbalanced := writer.execute(SELECT_UNBALANCED, (adjustment_set,)):
        raise errors.InvariantBroken(f"money of advertiser {unbalanced[0][0]} is not conserved by run {run.run_id}")
    return comparison_id, summary


def revert(conn: database.Connection, run_id: int, actor: str, reason: str, caps: Caps = NO_CAPS) -> Published:
    """Take a publication away; what it covered decides again.

    Raises Refused unless it is in force and on top, and above a cap when nobody else proposed it; Conflict when it was
    published meanwhile.
    """
    prepared = four_eyes.of_revert(conn, run_id)
    with log.writing(conn) as writer:
        started = time.perf_counter()
        if not (published := writer.execute(SELECT_PUBLISHED, (run_id,))):
            raise errors.Refused(f"run {run_id} is not in force: nothing to revert")
        [(position,)] = published
        if position != prepared.publication:  # what it moves and who proposed it was read of another, or of none
            raise errors.Conflict(
                f"run {run_id}: expected the publication that was looked at in force, got that of position {position} "
                "since: look again"
            )
        run = runs.Run(*writer.execute(runs.SELECT_RUN, (run_id,))[0])
        if top := layers.above(writer, run, position):
            raise errors.Refused(
                f"run {top.run_id}, published at {top.position}, lies on top of run {run_id}: correct it by a new run"
            )
        departed.require_whole_run(writer.execute, run_id, "it stays in force")
        how = f"clickledger replay propose-revert {run_id}"
        second = four_eyes.require(writer, f"reverting run {run_id}", prepared, actor, caps, how)
        of = {"run_id": run_id, "kind": run.kind, "publication": position, "positions": [run.lo, run.hi]}
        payload = of | prepared.fields(second)
        entry = writer.record("replay_reverted", payload, actor, reason)
        writer.execute("UPDATE publications SET reverted_position = %s WHERE position = %s", (entry.position, position))
        if run.kind == SPARSE:
            writer.execute("SELECT close_overrides(%s, %s, %s)", (run_id, position, entry.position))
        else:
            authority.rewrite(writer, entry.position, run.lo, run.hi)
    return Published(entry.position, time.perf_counter() - started)
