"""Sparse corrections: a run that states decisions for a few clicks anywhere in the log.

Undecided clicks that somebody resolved, a purchase that came late, a dispute that was settled. What is stated is
recorded as it is; everything else of a row is the click's own. From staging on it is a run like any other: compared,
published, reverted and asked as-of in the same way.

Invariants:
- a run's clicks were recorded before it was planned, each is in it once, and there are few of them: publishing writes
  one override a click under the log's lock;
- what was asked for is pinned by the entry that planned the run, what was written by the entry that staged it; both
  entries and the rows are one transaction.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from clickledger import errors
from clickledger.ledger import canonical, database, delayed, departed, log, runs, wire
from clickledger.ledger.authority_map import SPARSE, ClickIds

CLICKS_MAX = 250  # publishing 1,000 over as many other overrides took 90 ms, 185 at worst (benchmarks/RESULTS.md)
REAL_MAX, VERSION_MAX = 3.4e38, (1 << 31) - 1  # what the columns hold
VERDICTS = ("valid", "invalid", "undecided")
MODE = "stated"  # decisions were given, not computed: there is no model to compute them again with
CORRECTION_DOMAIN = b"\x00clickledger:correction:1"
CORRECTION_COLUMNS = (
    "click_id", "model_version", "calibration_version", "score", "threshold", "verdict", "reason",
)  # fmt: skip
COPIED = (
    "click_id", "log_position", "line", "cost_micros", "deployment_epoch", "advertiser_id", "campaign_id", "currency",
    "slice",
)  # fmt: skip
SELECT_DECISIONS = f"""
    SELECT {", ".join(COPIED)} FROM decisions
    WHERE click_id = ANY (%(ids)s) AND click_id BETWEEN %(smallest)s AND %(largest)s
    ORDER BY log_position, line"""
INSERT_RUN = """
    INSERT INTO replay_runs (run_id, positions, mode, model_version, calibration_version, scope, row_count, incident_id,
                             status, kind)
    VALUES (%s, int8range(%s, %s), %s, 0, 0, '{}', %s, %s, 'planned', %s)"""
INSERT_CHUNK = """
    INSERT INTO replay_chunks (run_id, chunk_no, positions, row_count, status, content_digest)
    VALUES (%s, 0, int8range(%s, %s), %s, 'done', %s)"""
INSERT_CLICKS = """
    INSERT INTO sparse_clicks (run_id, click_id, log_position)
    SELECT %s, u.click_id, u.log_position FROM unnest(%s::uuid[], %s::bigint[]) AS u (click_id, log_position)"""


class Correction(NamedTuple):
    """What one click is to be decided as: 16 bytes of click id, 'valid', 'invalid' or 'undecided', and why.

    `score` (logit of "robotic") and `threshold` with their versions where a model had a part in it.
    """

    click_id: bytes
    verdict: str
    reason: str
    score: float = math.nan
    threshold: float = math.nan
    model_version: int = 0
    calibration_version: int = 0


class _Decided(NamedTuple):
    """A run's rows but for its id, as columns in (log_position, line) order; click ids as 16 bytes each."""

    columns: dict[str, list[Any]]
    lo: int
    hi: int
    click_ids: ClickIds

    def __len__(self) -> int:
        return len(self.columns["click_id"])


def plan(
    conn: database.Connection,
    corrections: Sequence[Correction],
    *,
    actor: str,
    reason: str,
    incident_id: int | None = None,
) -> runs.Run:
    """Plan and stage a sparse run; nothing in force changes before it is compared and published.

    Raises InvalidInput when there is no correction, a click is in it twice or a value cannot be used, NotFound for a
    click that was never recorded, Refused for more than `CLICKS_MAX`. Nothing is written then.
    """
    _check(corrections)
    decided = _decide(conn, corrections)
    with log.writing(conn) as writer:
        payload = {
            "kind": SPARSE,
            "positions": [decided.lo, decided.hi],
            "mode": MODE,
            "model_version": 0,
            "calibration_version": 0,
            "scope": {},
            "row_count": len(decided),
            "chunks": 1,
            "incident_id": incident_id,
            "corrections_digest": corrections_digest(corrections).hex(),
        }
        run_id = writer.record("replay_planned", payload, actor, reason).position
        writer.execute(INSERT_RUN, (run_id, decided.lo, decided.hi, MODE, len(decided), incident_id, SPARSE))
        content = _write_rows(conn, writer, run_id, decided)
        runs.freeze(writer, run_id, len(decided), content, decided.click_ids, actor)
    with database.committed(f"run {run_id} is planned and staged"):
        return runs.get(conn, run_id)


def _check(corrections: Sequence[Correction]) -> None:
    if not corrections:
        raise errors.InvalidInput("corrections: expected at least one, got none")
    if len(corrections) > CLICKS_MAX:
        raise errors.Refused(
            f"corrections: expected at most {CLICKS_MAX} clicks, got {len(corrections)}: plan several, or a replay"
        )
    seen: set[bytes] = set()
    for correction in corrections:
        _check_one(correction)
        if correction.click_id in seen:
            raise errors.InvalidInput(f"click {uuid.UUID(bytes=correction.click_id)}: expected once, got it twice")
        seen.add(correction.click_id)


def _check_one(correction: Correction) -> None:
    if len(correction.click_id) != 16:
        raise errors.InvalidInput(f"click id: expected 16 bytes, got {correction.click_id.hex()}")
    click = f"click {uuid.UUID(bytes=correction.click_id)}"
    if correction.verdict not in VERDICTS:
        raise errors.InvalidInput(f"{click}: expected a verdict of {', '.join(VERDICTS)}, got {correction.verdict!r}")
    for name in ("score", "threshold"):
        if abs(value := getattr(correction, name)) > REAL_MAX:
            raise errors.InvalidInput(f"{click}: expected a {name} within {REAL_MAX}, got {value}")
    for name in ("model_version", "calibration_version"):
        if not 0 <= (value := getattr(correction, name)) <= VERSION_MAX:
            raise errors.InvalidInput(f"{click}: expected a {name} from 0 to {VERSION_MAX}, got {value}")
    try:
        correction.reason.encode()
    except UnicodeEncodeError as error:
        raise errors.InvalidInput(f"{click}: expected a reason that is text, got {error}") from error


def _decide(conn: database.Connection, corrections: Sequence[Correction]) -> _Decided:
    """Each click's own row with what is stated laid over it. Raises NotFound."""
    stated = {uuid.UUID(bytes=c.click_id): c for c in corrections}
    bounds = ClickIds(min(stated), max(stated))
    wanted = {"ids": list(stated), "smallest": bounds.smallest, "largest": bounds.largest}
    rows = conn.execute(SELECT_DECISIONS.encode(), wanted).fetchall()
    if missing := stated.keys() - {row[0] for row in rows}:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        first, unknown = min(missing), "expected one that was recorded, got an unknown id"
        raise errors.NotFound(departed.where_is(conn, first) or f"click {first}{others}: {unknown}")
    columns: dict[str, list[Any]] = {name: [row[i] for row in rows] for i, name in enumerate(COPIED)}
    ordered = [stated[click_id] for click_id in columns["click_id"]]
    columns |= {name: [getattr(c, name) for c in ordered] for name in CORRECTION_COLUMNS}
    columns["carried"] = [False] * len(rows)
    positions = columns["log_position"]
    return _Decided(columns, positions[0], positions[-1] + 1, bounds)


def _write_rows(conn: database.Connection, writer: log.Writer, run_id: int, decided: _Decided) -> bytes:
    """The run's decisions, its one chunk, which is done, and its clicks; the run's content digest."""
    rows = delayed.encode(run_id, decided.columns)
    chunk = (decided.lo, decided.hi, len(rows), delayed.digest(rows))
    delayed.copy(conn, rows)
    writer.execute(INSERT_CHUNK, (run_id, *chunk))
    ids = [uuid.UUID(bytes=click_id) for click_id in decided.columns["click_id"]]
    writer.execute(INSERT_CLICKS, (run_id, ids, decided.columns["log_position"]))
    return canonical.run_digest([chunk])


def corrections_digest(corrections: Sequence[Correction]) -> bytes:
    """What planning says was asked for: 32 bytes over every correction, in click id order.

    The bytes of one are PostgreSQL's binary wire form of `CORRECTION_COLUMNS`, each behind its length: the staged
    decisions give them again.
    """
    ordered = sorted(corrections)
    fixed = wire.FixedBlock([
        ("click_id", wire.UUID, wire.opaque([c.click_id for c in ordered], wire.UUID)),
        ("model_version", wire.INT4, [c.model_version for c in ordered]),
        ("calibration_version", wire.INT4, [c.calibration_version for c in ordered]),
        ("score", wire.FLOAT4, [c.score for c in ordered]),
        ("threshold", wire.FLOAT4, [c.threshold for c in ordered]),
    ])  # fmt: skip
    verdicts, reasons = (wire.repeated_text(getattr(c, name) for c in ordered) for name in ("verdict", "reason"))
    rows = (b"".join(parts) for parts in zip(fixed.rows(), verdicts, reasons, strict=True))
    return canonical.content_digest(canonical.leaves(CORRECTION_DOMAIN, rows))
