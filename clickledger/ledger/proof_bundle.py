"""Proofs for people without the log: of one click's bill down to a checkpoint, and of one checkpoint to the next.

Invariants:
- a bundle is of one moment: the entries that its checkpoint covers, and nothing later;
- whatever it says can be derived from canonical bytes under the checkpoint's root by `clickledger/verify_bundle.py`,
  which shares no code with this module.

A bundle cannot show that something is absent. That no publication over the click was left out, the ledger's key says by
signing the whole bundle (`attestation`): if that is false, everybody who has the log can convict it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import uuid
from typing import Any, NamedTuple

from psycopg.rows import dict_row

from clickledger import errors
from clickledger.ledger import (
    canonical,
    checkpoint_keys,
    checkpoints,
    database,
    departed,
    log,
    merkle,
    merkle_tiles,
    row_proof,
    signed_note,
)

FORMAT = "clickledger:proof-bundle:1"
CONSISTENCY_FORMAT = "clickledger:consistency-proof:1"

Json = dict[str, Any]

_FLOATS = {"score", "threshold"}
SELECT_LINE = "SELECT log_position, line FROM decisions WHERE click_id = %s"
SELECT_LEAVES = "SELECT leaves FROM leaves WHERE position = %s"
SELECT_STAGED = """
    SELECT run_id, staged_position FROM replay_runs JOIN delayed_decisions d USING (run_id)
    WHERE d.click_id = %s AND staged_position <= %s ORDER BY run_id"""
SELECT_CHUNKS = """
    SELECT lower(positions), upper(positions), row_count, content_digest
    FROM replay_chunks WHERE run_id = %s ORDER BY chunk_no"""
# Publications over the click's entry with their reverts, and what the decisions on it name.
SELECT_AUTHORITY = """
    SELECT position, run_id, reverted_position FROM publications
    WHERE positions @> %(at)s::bigint AND position <= %(size)s"""
SELECT_VERSIONS = """
    SELECT from_position FROM deployments WHERE epoch = ANY (%(deployment_epoch)s)
    UNION ALL SELECT revoked_position FROM deployments
    WHERE epoch = ANY (%(deployment_epoch)s) AND revoked_position <= %(size)s
    UNION ALL SELECT registered_position FROM models WHERE model_version = ANY (%(model_version)s)
    UNION ALL SELECT set_position FROM calibrations WHERE calibration_version = ANY (%(calibration_version)s)"""


# What there is to do without a checkpoint.
SIGNED = "where the key is one is signed at once, and the first key is made by clickledger audit key new"


class Bundle(NamedTuple):
    """A bundle and its one spelling, which is what gets written to a file."""

    fields: Json
    text: str


def build(
    conn: database.Connection, click_id: uuid.UUID, key: signed_note.SigningKey | None = None, actor: str = ""
) -> Bundle:
    """The bundle of a click, under a checkpoint that `actor` has signed now if `key` is given, else the newest one.

    Raises NotFound without such a click, Refused when no checkpoint covers it, VerificationFailed when the ledger is
    not what it should be.
    """
    checkpoint = checkpoints.sign(conn, key, actor) if key else checkpoints.newest(conn)
    with departed.snapshot(conn):
        place = conn.execute(SELECT_LINE, (click_id,)).fetchone()
        if place is None:
            raise errors.NotFound(departed.where_is(conn, click_id) or f"no click {click_id}")
        if checkpoint is None or checkpoint.size < place[0]:
            covered = f"the newest covers {checkpoint.size}" if checkpoint else "there is none"
            raise errors.Refused(
                f"click {click_id}: expected a checkpoint that covers entry {place[0]}, {covered}; {SIGNED}"
            )
        fields = _fields(conn, click_id, checkpoint, *place)
    fields["attestation"] = _attestation(fields, checkpoint, key) if key else None
    return Bundle(fields, canonical.canonical_json(fields) + "\n")


def consistency(
    conn: database.Connection, held: str, key: signed_note.SigningKey | None = None, actor: str = ""
) -> Bundle:
    """What shows the holder of a checkpoint that the log still begins with what it covers, without the log itself.

    Up to a checkpoint that `actor` has signed now if `key` is given, else up to the newest one. Raises InvalidInput
    when `held` is no checkpoint of this ledger, Refused when none covers as much, VerificationFailed when the log does
    not continue it.
    """
    old, name = checkpoints.parse(held), checkpoint_keys.origin(conn)
    if old.origin != name:
        raise errors.InvalidInput(f"checkpoint: expected one of {name}, got one of {old.origin}")
    new = checkpoints.sign(conn, key, actor) if key else checkpoints.newest(conn)
    if new is None or new.size < old.size:
        raise errors.Refused(
            f"expected a checkpoint over {old.size} entries or more, got {new.size if new else 'none'}"
        )
    proof = merkle_tiles.Tree(conn).consistency_proof(old.size, new.size)
    if not merkle.verify_consistency(old.size, new.size, proof, old.root, new.root):
        raise errors.VerificationFailed(
            f"the log does not continue the checkpoint over {old.size} entries: run audit verify --checkpoint"
        )
    steps = [step.hex() for step in proof]
    fields = {"format": CONSISTENCY_FORMAT, "origin": name, "old": old.note, "new": new.note, "proof": steps}
    return Bundle(fields, canonical.canonical_json(fields) + "\n")


def _fields(
    conn: database.Connection, click_id: uuid.UUID, checkpoint: checkpoints.Checkpoint, position: int, line: int
) -> Json:
    size = checkpoint.size
    click = _click(conn, click_id, position, line)
    runs = [
        _run(conn, click_id, position, run_id, staged)
        for run_id, staged in conn.execute(SELECT_STAGED, (click_id, size)).fetchall()
    ]
    decisions = [click["decision"]["fields"], *(run["decision"]["fields"] for run in runs)]
    positions = {position, *(run[name] for run in runs for name in ("run_id", "staged"))}
    positions |= _authority(conn, position, size, {run["run_id"] for run in runs})
    versions = {name: [d[name] for d in decisions] for name in ("deployment_epoch", "model_version")}
    versions["calibration_version"] = [d["calibration_version"] for d in decisions]
    positions |= {row[0] for row in conn.execute(SELECT_VERSIONS, {**versions, "size": size})}
    positions |= {entry.position for entry in checkpoint_keys.history(conn) if entry.position <= size}
    entries = _entries(conn, sorted(positions), checkpoint)
    return {
        "format": FORMAT,
        "origin": checkpoint.origin,
        "checkpoint": checkpoint.note,
        "click": click,
        "runs": runs,
        "entries": entries,
        "statement": _statement(click, runs, entries, size),
    }


def _authority(conn: database.Connection, position: int, size: int, run_ids: set[int]) -> set[int]:
    """Positions of the publications over the click and of their reverts.

    A sparse run spans positions between its clicks: without a decision on this one it says nothing of it. A run over a
    range decides every click of it.
    """
    positions = set()
    for at, run_id, reverted in conn.execute(SELECT_AUTHORITY, {"at": position, "size": size}).fetchall():
        if run_id in run_ids:
            positions |= {at} if reverted is None or reverted > size else {at, reverted}
        elif log.entry(conn, at).payload.get("kind") != "sparse":
            raise errors.VerificationFailed(f"run {run_id}, published at {at}, has no decision on entry {position}")
    return positions


def _click(conn: database.Connection, click_id: uuid.UUID, position: int, line: int) -> Json:
    leaves = conn.execute(SELECT_LEAVES, (position,)).fetchone()
    return {
        "position": position,
        "line": line,
        "leaves": bytes(leaves[0]).hex() if leaves else "",
        "click": _row(conn, "clicks", canonical.CLICK_COLUMNS, "click_id = %s", (click_id,)),
        "decision": _row(conn, "decisions", canonical.DECISION_COLUMNS, "click_id = %s", (click_id,)),
    }


def _run(conn: database.Connection, click_id: uuid.UUID, position: int, run_id: int, staged: int) -> Json:
    """The decision of a staged run with what shows that it was staged: its chunk's leaves, all chunks' digests."""
    chunks = conn.execute(SELECT_CHUNKS, (run_id,)).fetchall()
    number = next((n for n, (lo, hi, *_) in enumerate(chunks) if lo <= position < hi), None)
    if number is None:
        raise errors.VerificationFailed(f"run {run_id}: none of its chunks covers entry {position}")
    lo, hi, _, digest = chunks[number]
    leaves = row_proof.leaves_of_chunk(conn, run_id, lo, hi)
    if canonical.content_digest(leaves) != bytes(digest):
        raise errors.VerificationFailed(
            f"run {run_id}, chunk {number}: its decisions are not the ones that were staged"
        )
    where = "click_id = %s AND run_id = %s"
    return {
        "run_id": run_id,
        "staged": staged,
        "chunks": [{"lo": c[0], "hi": c[1], "row_count": c[2], "digest": bytes(c[3]).hex()} for c in chunks],
        "chunk": number,
        "leaves": leaves.hex(),
        "decision": _row(conn, "delayed_decisions", canonical.DELAYED_COLUMNS, where, (click_id, run_id)),
    }


def _entries(conn: database.Connection, positions: list[int], checkpoint: checkpoints.Checkpoint) -> list[Json]:
    """The entries with the hash before each and the path to the checkpoint's root."""
    tree = merkle_tiles.Tree(conn)
    entries = []
    for position in positions:
        entry = log.entry(conn, position)
        previous = log.entry(conn, position - 1).chain_hash if position > 1 else canonical.GENESIS_HASH
        path = tree.inclusion_proof(position, checkpoint.size)
        entries.append(
            {
                "position": position,
                "kind": entry.kind,
                "recorded_at_ms": entry.recorded_at_ms,
                "actor": entry.actor,
                "reason": entry.reason,
                "payload": entry.payload_text,
                "row_count": entry.row_count,
                "content_digest": entry.content_digest.hex(),
                "previous": previous.hex(),
                "path": [part.hex() for part in path],
            }
        )
    return entries


def _statement(click: Json, runs: list[Json], entries: list[Json], size: int) -> Json:
    """What the bundle is there to show: the decision in force for the click after `size` entries."""
    published = {e["position"]: _payload(e) for e in entries if e["kind"] == "replay_published"}
    for entry in entries:
        if entry["kind"] == "replay_reverted":
            published.pop(_payload(entry)["publication"], None)
    publication = max(published, default=None)
    run_id = None if publication is None else published[publication]["run_id"]
    decisions = {run["run_id"]: run["decision"]["fields"] for run in runs} | {None: click["decision"]["fields"]}
    if run_id not in decisions:
        raise errors.VerificationFailed(f"run {run_id} is in force over entry {click['position']} without a decision")
    decision = decisions[run_id]
    at = next(e for e in entries if e["position"] == click["position"])
    return {
        "as_of": size,
        "log_position": click["position"],
        "line": click["line"],
        "recorded_at_ms": at["recorded_at_ms"],
        "event_time_ms": uuid.UUID(decision["click_id"]).int >> 80,
        "run_id": run_id,
        "publication": publication,
        "billed_micros": decision["cost_micros"] if decision["verdict"] == "valid" else 0,
        **{name: decision[name] for name in canonical.DECISION_COLUMNS if name != "deployment_epoch"},
    }


def _payload(entry: Json) -> Json:
    return dict(json.loads(entry["payload"]))


def _attestation(fields: Json, checkpoint: checkpoints.Checkpoint, key: signed_note.SigningKey) -> str:
    """The ledger's signature under the whole bundle; its second line keeps it from passing for a checkpoint."""
    digest = base64.b64encode(hashlib.sha256(canonical.canonical_json(fields).encode()).digest()).decode()
    return signed_note.sign(f"{FORMAT}\n{checkpoint.origin}\n{checkpoint.size}\n{digest}\n", key)


def _row(
    conn: database.Connection, table: str, columns: tuple[str, ...], where: str, parameters: tuple[Any, ...]
) -> Json:
    """A row as its canonical bytes, and as JSON read from the same columns by their values."""
    values = ", ".join(f"{name}::float8" if name in _FLOATS else name for name in columns)
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(f"SELECT {values} FROM {table} WHERE {where}".encode(), parameters).fetchone()
    copied = row_proof.copied(conn, f"SELECT {', '.join(columns)} FROM {table} WHERE {where}", parameters)
    if row is None or len(copied) != 1:
        raise errors.VerificationFailed(f"{table}: expected one row where {where} is {parameters}, got {len(copied)}")
    return {"bytes": copied[0][2:].hex(), "fields": {name: _json_value(value) for name, value in row.items()}}


def _json_value(value: Any) -> Any:
    """Ids as text, bytes in hex, a float that is no number by its name."""
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
