"""Replays for the ledger's tests: chunk rows as a replay worker leaves them, with verdicts of our choice."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from clickledger import errors
from clickledger.ledger import comparison, database, deployments, publication, runs

# Every click of a chunk keeps its live decision, except for what is laid over it by click id.
WRITE_CHUNK = """
    INSERT INTO delayed_decisions
    SELECT d.click_id, d.log_position, d.line, d.advertiser_id, d.campaign_id, d.cost_micros, d.currency, d.slice,
           d.deployment_epoch, r.model_version, r.calibration_version, d.score, d.threshold,
           coalesce(u.verdict::verdict, d.verdict), 'replayed', coalesce(u.carried, false), r.run_id
    FROM replay_runs r
    JOIN replay_chunks c USING (run_id)
    JOIN decisions d ON d.log_position <@ c.positions
    LEFT JOIN unnest(%(ids)s::uuid[], %(verdicts)s::text[], %(carried)s::boolean[]) AS u (click_id, verdict, carried)
           ON u.click_id = d.click_id
    WHERE r.run_id = %(run)s AND c.chunk_no = %(chunk)s"""
# The digest of a chunk, encoded a second time by the server: PostgreSQL's send functions are the canonical form.
FINISH_CHUNK = """
    UPDATE replay_chunks c SET status = 'done', lease_until = NULL, content_digest = (
        SELECT sha256(coalesce(string_agg(leaf, ''::bytea ORDER BY log_position, line), '')) FROM (
            SELECT d.log_position, d.line, sha256(
                '\\x00'::bytea || 'clickledger:delayed-decision:1'::bytea
                || length_prefixed(int8send(run_id)) || length_prefixed(int8send(d.log_position))
                || length_prefixed(int4send(d.line)) || length_prefixed(uuid_send(d.click_id))
                || length_prefixed(int8send(d.cost_micros)) || length_prefixed(int4send(d.deployment_epoch))
                || length_prefixed(int4send(d.model_version)) || length_prefixed(int4send(d.calibration_version))
                || length_prefixed(float4send(d.score)) || length_prefixed(float4send(d.threshold))
                || length_prefixed(boolsend(d.carried)) || length_prefixed(textsend(d.advertiser_id))
                || length_prefixed(textsend(d.campaign_id)) || length_prefixed(textsend(d.currency))
                || length_prefixed(textsend(d.slice)) || length_prefixed(textsend(d.verdict::text))
                || length_prefixed(textsend(d.reason))) AS leaf
            FROM delayed_decisions d WHERE d.run_id = c.run_id AND d.log_position <@ c.positions) leaves)
    WHERE c.run_id = %s AND c.chunk_no = %s"""
# For a recompute run, snapshots as if counted again: those of the clicks with another end; their digest by the server.
WRITE_FEATURES = """
    INSERT INTO run_features
    SELECT c.run_id, k.click_id, k.log_position, d.line, k.features || '\\x01'
    FROM replay_runs r JOIN replay_chunks c USING (run_id) JOIN clicks k ON k.log_position <@ c.positions
    JOIN decisions d USING (click_id)
    WHERE r.mode = 'recompute' AND c.run_id = %s AND c.chunk_no = %s"""
FINISH_FEATURES = """
    UPDATE replay_chunks c SET features_digest = (
        SELECT sha256(coalesce(string_agg(sha256(
            '\\x00'::bytea || 'clickledger:run_features:1'::bytea
            || length_prefixed(int8send(run_id)) || length_prefixed(int8send(f.log_position))
            || length_prefixed(int4send(f.line)) || length_prefixed(uuid_send(f.click_id))
            || length_prefixed(f.features)), ''::bytea ORDER BY log_position, line), ''))
        FROM run_features f WHERE f.run_id = c.run_id AND f.log_position <@ c.positions)
    FROM replay_runs r WHERE r.run_id = c.run_id AND r.mode = 'recompute' AND c.run_id = %s AND c.chunk_no = %s"""
TODO = "SELECT chunk_no FROM replay_chunks WHERE run_id = %s AND status <> 'done' ORDER BY chunk_no"


class Replayed(NamedTuple):
    """What a chunk's row says of a click."""

    verdict: str
    carried: bool = False


def work_chunk(conn: database.Connection, run_id: int, chunk_no: int, found: Mapping[bytes, Replayed]) -> None:
    """Write the rows of one chunk and mark it done, in one transaction."""
    parameters: dict[str, Any] = {
        "run": run_id,
        "chunk": chunk_no,
        "ids": [uuid.UUID(bytes=click) for click in found],
        "verdicts": [row.verdict for row in found.values()],
        "carried": [row.carried for row in found.values()],
    }
    with conn.transaction():
        conn.execute(WRITE_CHUNK, parameters)
        conn.execute(WRITE_FEATURES, (run_id, chunk_no))
        conn.execute(FINISH_CHUNK, (run_id, chunk_no))
        conn.execute(FINISH_FEATURES, (run_id, chunk_no))


def work(conn: database.Connection, run_id: int, verdicts: Mapping[bytes, str]) -> None:
    """Work every chunk of a run that is not done; clicks that are not named keep their live verdict."""
    found = {click: Replayed(verdict) for click, verdict in verdicts.items()}
    for (chunk_no,) in conn.execute(TODO, (run_id,)).fetchall():
        work_chunk(conn, run_id, chunk_no, found)


def model(conn: database.Connection, content: bytes = b"weights") -> tuple[int, int]:
    """A registered model and a calibration of it, by version."""
    version = deployments.register_model(conn, content, "velocity", {}, "tests")
    return version, deployments.set_calibration(conn, version, {"*": 1.0}, {}, "tests")


def routing(model_version: int, calibration_version: int) -> dict[str, Any]:
    """All traffic to one model."""
    return {"routes": [{"slice": "*", "share": 1.0, "model": model_version, "calibration": calibration_version}]}


def staged(conn: database.Connection, lo: int, hi: int, verdicts: Mapping[bytes, str], **options: Any) -> int:
    """A staged run over positions [lo, hi) with the given verdicts; its id."""
    version, calibration = model(conn)
    run = runs.plan(
        conn, lo, hi, model_version=version, calibration_version=calibration, actor="tests", reason="", **options
    )
    work(conn, run.run_id, verdicts)
    return runs.stage(conn, run.run_id, "tests").run_id


def published(conn: database.Connection, lo: int, hi: int, verdicts: Mapping[bytes, str]) -> int:
    """A run over positions [lo, hi), staged, compared and published; its id."""
    run_id = staged(conn, lo, hi, verdicts)
    publish(conn, run_id)
    return run_id


def publish(conn: database.Connection, run_id: int) -> int:
    """Compare a staged run and publish it; the publication's position."""
    digest = comparison.compare(conn, run_id, "tests").digest
    return publication.publish(conn, run_id, digest, "tests", "test").position


def publish_at_once(connections: Sequence[database.Connection], plans: Sequence[tuple[int, str]]) -> list[str]:
    """Publish plans (run, digest) at the same moment, a connection each; how they ended, 'published' or the error."""
    ready = threading.Barrier(len(plans))

    def go(conn: database.Connection, plan: tuple[int, str]) -> str:
        ready.wait()
        try:
            publication.publish(conn, *plan, "tests", "")
        except errors.ClickledgerError as error:
            return type(error).__name__
        return "published"

    with ThreadPoolExecutor(len(plans)) as pool:
        return sorted(pool.map(go, connections, plans))
