"""Corrections that nobody has to ask for: undecided clicks resolved, purchases that came late; proposed, not published.

Every look goes on where the last one ended, which its entry `corrections_proposed` says. What it finds becomes sparse
runs, compared and waiting for somebody to publish or cancel them.

- An undecided click is decided by the model that its slice and user are routed to now: on its recorded snapshot, or,
  where it came too late or early to be counted, on one counted as if it had come in time. It is looked at an hour after
  it was recorded, when all that belongs before it is there.
- A purchase after which its click is invalid in force is evidence of a person: the click is proposed as valid. It is
  looked at when the purchase or its click was recorded, and when a replay over the click was published or reverted.

Invariants:
- a click is proposed once for each of these, whatever becomes of the proposal; again for its purchase only where the
  correction was published, was not reverted, and a later replay decided otherwise;
- more undecided clicks than a few corrections can hold (a model was absent for long, history was imported) are named by
  their positions instead, for a replay; those that were not counted, which a replay leaves, wait for the next look.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from clickledger.ledger import database, deployments, log, sparse
from clickledger.ledger.caps import AUTOMATIC
from clickledger.ledger.sparse import Correction
from clickledger.recovery import publishing, recounting, redecide
from clickledger.scoring import decide, feature_spec
from clickledger.scoring.dataset import OUTCOME_KINDS
from clickledger.scoring.rescore import COUNTING_REASONS

RUNS_MAX = 20  # of one sort, one look
CLICKS_MAX = RUNS_MAX * sparse.CLICKS_MAX
LOOK_BACK = timedelta(hours=24)  # of the first look: what was left undecided before is for a replay
SETTLED_AFTER = timedelta(hours=1)  # clicks may come an hour ahead of their time
RESOLVED, BOUGHT = "undecided clicks resolved", "purchases of invalidated clicks"
LAST_LOOK = "SELECT payload FROM log WHERE kind = 'corrections_proposed' ORDER BY position DESC LIMIT 1"
# Ranges are literals: the planner cannot estimate a block-range index otherwise.
SELECT_UNDECIDED = """
    SELECT uuid_send(d.click_id), d.log_position, d.slice, d.reason, uuid_send(c.user_key), c.features,
           c.feature_schema,
           (SELECT min(o.log_position) FROM outcomes o WHERE o.click_id = d.click_id AND o.kind = ANY (%(kinds)s))
    FROM decisions d JOIN clicks c ON c.click_id = d.click_id AND c.log_position >= {lo} AND c.log_position < {hi}
    WHERE d.log_position >= {lo} AND d.log_position < {hi} AND d.verdict = 'undecided'{of}
      AND NOT EXISTS (SELECT FROM delayed_decisions x JOIN replay_runs r USING (run_id)
                      WHERE x.click_id = d.click_id AND r.kind = 'sparse')
      AND (SELECT x.verdict FROM decision_of(d.click_id) x) = 'undecided'
    ORDER BY d.log_position, d.line LIMIT {limit}"""
# Whichever of a purchase and its click is recorded later brings the pair.
SELECT_BOUGHT_BETWEEN = """
    SELECT o.click_id, o.log_position AS found_at, o.log_position AS bought_at FROM outcomes o
    WHERE o.log_position >= {lo} AND o.log_position < {hi} AND o.kind = ANY (%(kinds)s)
    UNION ALL
    SELECT d.click_id, early.log_position, early.log_position FROM decisions d CROSS JOIN LATERAL (
        SELECT o.log_position FROM outcomes o
        WHERE o.click_id = d.click_id AND o.log_position < {lo} AND o.kind = ANY (%(kinds)s) OFFSET 0) early
    WHERE d.log_position >= {lo} AND d.log_position < {hi} AND d.verdict = 'invalid'"""
# A publication is looked at for what it made invalid, its revert for what it had kept from being so.
SELECT_BOUGHT_OF_RUN = """
    SELECT o.click_id, {found_at}, o.log_position FROM outcomes o
    JOIN delayed_decisions d ON d.click_id = o.click_id AND d.run_id = {run_id}
    WHERE d.log_position >= {lo} AND d.log_position < {hi} AND (d.verdict = 'invalid') = {invalid}
      AND o.kind = ANY (%(kinds)s)"""
# A proposal that was published and not reverted was followed by another decision, or its click would not be invalid: by
# a replay's, which knew nothing of the purchase, or by another correction, which somebody stated for that very click.
SELECT_BOUGHT = """
    SELECT bought.click_id, min(found_at), min(bought_at), max(now.run_id)
    FROM ({bought}) bought CROSS JOIN LATERAL decision_of(bought.click_id) now
    LEFT JOIN replay_runs deciding ON deciding.run_id = now.run_id
    WHERE now.verdict = 'invalid'
      AND NOT EXISTS (SELECT FROM delayed_decisions x JOIN replay_runs r USING (run_id)
                      WHERE x.click_id = bought.click_id AND r.kind = 'sparse' AND x.verdict = 'valid'
                        AND (deciding.kind = 'sparse' OR NOT EXISTS (
                            SELECT FROM publications p WHERE p.run_id = r.run_id AND p.reverted_position IS NULL)))
    GROUP BY 1 ORDER BY 2, 1 LIMIT {limit}"""
# Of sparse runs those that resolved undecided clicks: of a purchase that came before they did nobody had taken note.
SELECT_REPLACED = """
    SELECT p.run_id, lower(p.positions), upper(p.positions), coalesce(p.reverted_position, p.position),
           p.reverted_position IS NULL
    FROM publications p JOIN log planned ON planned.position = p.run_id
    WHERE (p.kind = 'range' OR (planned.actor = %s AND planned.reason = %s))
      AND coalesce(p.reverted_position, p.position) >= %s AND coalesce(p.reverted_position, p.position) < %s"""
SELECT_TRAFFIC = """
    SELECT 1 FROM log WHERE position >= %s AND position < %s AND kind IN ('clicks_decided', 'outcomes_recorded')
    LIMIT 1"""
SELECT_OPEN = """
    SELECT r.run_id, r.row_count, l.recorded_at, l.reason, c.digest, c.summary
    FROM replay_runs r JOIN log l ON l.position = r.run_id
    JOIN LATERAL (SELECT encode(digest, 'hex') AS digest, summary FROM comparisons x WHERE x.run_id = r.run_id
                  ORDER BY comparison_id DESC LIMIT 1) c ON true
    WHERE r.kind = 'sparse' AND r.status = 'staged' AND l.actor = %s
      AND NOT EXISTS (SELECT FROM publications p WHERE p.run_id = r.run_id)
    ORDER BY r.run_id"""


class Undecided(NamedTuple):
    """A click that is undecided in force, with the snapshot it was recorded with."""

    click_id: bytes
    log_position: int
    slice: str
    reason: str
    user_key: bytes
    features: bytes
    feature_schema: int
    bought_at: int | None = None  # position of the first purchase it led to


@dataclass
class Look:
    """What one look found: log positions below which it has seen everything, and the runs it proposed."""

    undecided_upto: int
    bought_upto: int
    undecided: int = 0
    uncountable: int = 0  # undecided clicks that days gone keep from being counted again; they stay undecided
    bought: int = 0
    runs: list[int] = field(default_factory=list)
    too_many: list[int] | None = None  # positions [lo, hi) with more undecided clicks than corrections are for


class Replaced(NamedTuple):
    """A replay over log positions [lo, hi) that came into force, or was reverted, at position `found_at`."""

    run_id: int
    lo: int
    hi: int
    found_at: int
    invalid: bool  # it came into force: what it made invalid is in question


class Proposal(NamedTuple):
    """A proposed run that nobody has published or cancelled yet."""

    run_id: int
    clicks: int
    proposed_at: datetime
    what: str
    digest: str  # of its newest comparison
    summary: dict[str, Any]


def look(conn: database.Connection, actor: str) -> Look | None:
    """Propose what is to be corrected since the last look.

    None when no click or outcome was recorded since, and no replay published or reverted. While no model is deployed,
    undecided clicks wait.
    """
    [(now,)] = conn.execute("SELECT clock_timestamp()").fetchall()
    since, end = _last_look(conn, now), log.head(conn).position + 1
    settled = max(log.first_at(conn, now - SETTLED_AFTER), since.undecided_upto)
    able = bool(deployments.current(conn).routing["routes"])
    resolvable = able and _has_traffic(conn, since.undecided_upto, settled)
    replaced = [Replaced(*row) for row in conn.execute(SELECT_REPLACED, (actor, RESOLVED, since.bought_upto, end))]
    if not resolvable and not replaced and not _has_traffic(conn, since.bought_upto, end):
        return None
    found = Look(settled if able else since.undecided_upto, end)
    if resolvable:
        _resolve(conn, since.undecided_upto, settled, actor, found)
    found.runs += _propose(conn, _bought(conn, since.bought_upto, end, replaced, found), actor, BOUGHT)
    log.record(conn, "corrections_proposed", asdict(found), actor)
    return found


def _last_look(conn: database.Connection, now: datetime) -> Look:
    row = conn.execute(LAST_LOOK).fetchone()
    if row is None:
        first = log.first_at(conn, now - LOOK_BACK)
        return Look(first, first)
    payload = json.loads(row[0])
    return Look(payload["undecided_upto"], payload["bought_upto"])


def _has_traffic(conn: database.Connection, lo: int, hi: int) -> bool:
    return conn.execute(SELECT_TRAFFIC, (lo, hi)).fetchone() is not None


def _resolve(conn: database.Connection, lo: int, hi: int, actor: str, found: Look) -> None:
    """Propose decisions for the undecided clicks of log positions [lo, hi)."""
    clicks = _undecided(conn, lo, hi)
    if len(clicks) > CLICKS_MAX:
        # A replay carries what was not counted, so those are proposed here, part after part; the others are for one.
        for_replay = any(click.reason not in COUNTING_REASONS for click in clicks)
        clicks = _undecided(conn, lo, hi, " AND d.reason = ANY (%(reasons)s)")
        if len(clicks) > CLICKS_MAX:
            clicks = clicks[:CLICKS_MAX]
            found.undecided_upto = clicks[-1].log_position  # what of that entry was proposed is not found again
        found.too_many = [lo, found.undecided_upto] if for_replay else None
    corrections = decided(conn, clicks)
    if found.undecided_upto == lo < hi and not corrections:  # one entry of so many that none of can be counted again
        found.undecided_upto = lo + 1
    found.undecided, found.uncountable = len(corrections), len(clicks) - len(corrections)
    found.runs += _propose(conn, corrections, actor, RESOLVED)


def _undecided(conn: database.Connection, lo: int, hi: int, of: str = "") -> list[Undecided]:
    """Undecided clicks of log positions [lo, hi) that nobody was proposed to resolve, one more than a look proposes."""
    query = SELECT_UNDECIDED.format(lo=int(lo), hi=int(hi), limit=CLICKS_MAX + 1, of=of).encode()
    given = {"kinds": list(OUTCOME_KINDS), "reasons": list(COUNTING_REASONS)}
    with conn.cursor(binary=True) as cursor:
        return [Undecided(*row) for row in cursor.execute(query, given, prepare=False)]


def decided(conn: database.Connection, clicks: Sequence[Undecided]) -> list[Correction]:
    """What undecided clicks are to be decided as, those that can be: by a purchase, or by the models in force now."""
    bought = [c for c in clicks if c.bought_at is not None]
    clicks = [c for c in clicks if c.bought_at is None]
    uncounted = {c.click_id for c in clicks if c.reason in COUNTING_REASONS}
    again = recounting.count_in_time(conn, [uuid.UUID(bytes=click_id) for click_id in uncounted])
    without = uncounted - again.keys()
    able = [c for c in clicks if c.feature_schema in feature_spec.SCHEMAS and c.click_id not in without]
    routing = deployments.current(conn).routing
    versions = decide.route(routing, [c.slice for c in able], [c.user_key for c in able])
    judges = redecide.Judges(conn)
    corrections = [
        Correction(c.click_id, decide.VALID, f"was undecided: {c.reason}; {_why_bought(int(c.bought_at or 0), None)}")
        for c in bought
    ]
    for pair in sorted(set(versions)):
        judge = judges.of(pair)
        routed = [
            c
            for c, chosen in zip(able, versions, strict=True)
            if chosen == pair and feature_spec.feeds(c.feature_schema, judge.model.feature_schema)
        ]
        corrections += _judged(routed, again, pair, judge)
    return corrections


def _judged(
    clicks: Sequence[Undecided], again: Mapping[bytes, bytes], versions: redecide.Versions, judge: redecide.Judge
) -> Iterator[Correction]:
    schema, snapshots = judge.model.feature_schema, [_snapshot(c, again) for c in clicks]
    cut = [feature_spec.cut_snapshot(s, c.feature_schema, schema) for s, c in zip(snapshots, clicks, strict=True)]
    features = feature_spec.unpack_snapshots(cut, schema)
    made = decide.decide(features, [c.slice for c in clicks], [""] * len(clicks), judge.model, judge.thresholds)
    for i, click in enumerate(clicks):
        how = ", counted as if it had come in time" if click.click_id in again else ""
        numbers = (float(made.score[i]), float(made.threshold[i]))
        yield Correction(click.click_id, made.verdict[i], f"was undecided: {click.reason}{how}", *numbers, *versions)


def _snapshot(click: Undecided, again: Mapping[bytes, bytes]) -> bytes:
    counted = again.get(click.click_id)
    return click.features if counted is None else feature_spec.with_facts_of(counted, click.features)


def _bought(conn: database.Connection, lo: int, hi: int, replaced: Sequence[Replaced], found: Look) -> list[Correction]:
    """Clicks invalid in force that led to a purchase.

    Those of which the purchase or the click was recorded within log positions [lo, hi), and those that the replays
    re-decided. Where there are more than one look proposes, the next one goes on where it ended.
    """
    parts = [SELECT_BOUGHT_BETWEEN.format(lo=int(lo), hi=int(hi))]
    parts += [SELECT_BOUGHT_OF_RUN.format(**run._asdict()) for run in replaced]
    query = SELECT_BOUGHT.format(bought=" UNION ALL ".join(parts), limit=CLICKS_MAX).encode()
    rows = conn.execute(query, {"kinds": list(OUTCOME_KINDS)}, prepare=False).fetchall()
    found.bought = len(rows)
    if len(rows) == CLICKS_MAX:
        found.bought_upto = max(lo, rows[-1][1])
    return [
        Correction(click_id.bytes, decide.VALID, _why_bought(bought_at, run_id))
        for click_id, _, bought_at, run_id in rows
    ]


def _why_bought(bought_at: int, run_id: int | None) -> str:
    replaced = "" if run_id is None else f"; run {run_id} decided otherwise"
    return f"led to a purchase, recorded at position {bought_at}{replaced}"


def _propose(conn: database.Connection, corrections: Sequence[Correction], actor: str, what: str) -> list[int]:
    """Runs of so few clicks each as may be published at once, compared."""
    made = []
    for start in range(0, len(corrections), sparse.CLICKS_MAX):
        part = corrections[start : start + sparse.CLICKS_MAX]
        run = sparse.plan(conn, part, actor=actor, reason=what)
        publishing.compare(conn, run.run_id, actor)
        made.append(run.run_id)
    return made


def listed(conn: database.Connection) -> list[Proposal]:
    """The proposals that wait for somebody, oldest first."""
    rows = conn.execute(SELECT_OPEN, (AUTOMATIC,)).fetchall()
    found = [(*row[:-1], json.loads(row[-1])) for row in rows]
    return [Proposal(*fields) for fields in found]
