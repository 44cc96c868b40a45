"""Proof that history is as it was written: chain, digests, rows, authority, money, caches.

Every check names the entry at which it fails. What needs a model (re-scoring) is scoring's; this knows only the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from clickledger import errors
from clickledger.ledger import (
    authority,
    authority_map,
    canonical,
    checkpoints,
    comparison,
    database,
    departed,
    departure,
    log,
    rebuild,
    sparse,
)

Progress = Callable[[int, int], None]
ENTRIES_PER_STEP = 2_000
FAILURES_MAX = 20

_CLICK = ", ".join(f"c.{name}" for name in canonical.CLICK_COLUMNS)
_DECISION = ", ".join(f"d.{name}" for name in canonical.DECISION_COLUMNS)
# Both tables by literal range, joined on line order: a row missing on either side, or moved, changes the leaves.
COPY_DECIDED = f"""
    COPY (SELECT d.log_position, d.line, {_CLICK}, {_DECISION}
          FROM (SELECT * FROM clicks WHERE log_position >= {{lo}} AND log_position < {{hi}}) c
          JOIN (SELECT * FROM decisions WHERE log_position >= {{lo}} AND log_position < {{hi}}) d
            ON d.click_id = c.click_id AND d.log_position = c.log_position
          ORDER BY d.log_position, d.line) TO STDOUT (FORMAT binary)"""
COPY_OUTCOMES = f"""
    COPY (SELECT log_position, line, {", ".join(canonical.OUTCOME_COLUMNS)}
          FROM outcomes WHERE log_position >= {{lo}} AND log_position < {{hi}}
          ORDER BY log_position, line) TO STDOUT (FORMAT binary)"""
COPY_DELAYED = f"""
    COPY (SELECT log_position, line, {", ".join(canonical.DELAYED_COLUMNS)}
          FROM delayed_decisions WHERE run_id = {{run_id}} AND log_position >= {{lo}} AND log_position < {{hi}}
          ORDER BY log_position, line) TO STDOUT (FORMAT binary)"""
COUNTS = {
    "clicks": "SELECT count(*) FROM clicks",
    "decisions": "SELECT count(*) FROM decisions",
    "outcomes": "SELECT count(*) FROM outcomes",
}
COUNT_LOGGED = "SELECT coalesce(sum(row_count), 0)::bigint FROM log WHERE kind = %(kind)s"
SELECT_LEAVES = "SELECT position, leaves FROM leaves WHERE position >= %s AND position < %s ORDER BY position"
STRAY_LEAVES = (
    "SELECT l.position FROM leaves l LEFT JOIN log e USING (position) WHERE e.row_count IS NULL OR e.row_count = 0"
)
SELECT_RUNS = "SELECT run_id, content_digest FROM replay_runs WHERE content_digest IS NOT NULL ORDER BY run_id"
COUNT_OF_RUN = "SELECT count(*) FROM delayed_decisions WHERE run_id = %(run)s"
# By what the log says of a run: the kind in the table is a cache.
SELECT_CORRECTED = """
    SELECT position, payload FROM log WHERE kind = 'replay_planned' AND payload LIKE '%"corrections_digest"%'
    ORDER BY position"""
SELECT_RUN_CHUNKS = """
    SELECT lower(positions), upper(positions), row_count, content_digest
    FROM replay_chunks WHERE run_id = %s ORDER BY chunk_no"""
COUNT_AUTHORITATIVE = "SELECT count(*), count(DISTINCT click_id) FROM authoritative_decisions"
# One statement, so one moment. By campaign: what is moved from one advertiser to another leaves the sum as it was.
SELECT_UNBALANCED = """
    SELECT advertiser_id, campaign_id, currency, coalesce(f.told, 0)::bigint, coalesce(b.billed, 0)::bigint
    FROM (SELECT advertiser_id, campaign_id, currency, sum(told) AS told
          FROM (SELECT advertiser_id, campaign_id, currency, amount_micros + write_off_micros AS told
                FROM billing_entries
                UNION ALL SELECT advertiser_id, campaign_id, currency, told FROM departed_money) lines
          GROUP BY 1, 2, 3) f
    FULL JOIN (SELECT advertiser_id, campaign_id, currency, sum(billed) AS billed
               FROM (SELECT advertiser_id, campaign_id, currency, cost_micros AS billed
                     FROM authoritative_decisions WHERE verdict = 'valid'
                     UNION ALL SELECT advertiser_id, campaign_id, currency, billed FROM departed_money) rows
               GROUP BY 1, 2, 3) b
    USING (advertiser_id, campaign_id, currency)
    WHERE coalesce(f.told, 0) <> coalesce(b.billed, 0) ORDER BY 1, 2, 3 LIMIT %s"""
SELECT_COMPARISONS = "SELECT comparison_id, run_id, adjustment_set, digest, summary FROM comparisons ORDER BY 1"
# Lines summed again must give the totals, which the log pins; amounts apart from write-offs.
SELECT_FALSE_TOTAL = """
    SELECT advertiser_id
    FROM (SELECT * FROM comparison_totals WHERE adjustment_set = %(set)s) t
    FULL JOIN (SELECT advertiser_id, slice, currency, sum(amount_micros) AS amount, sum(write_off_micros) AS write_off,
                      sum(abs(amount_micros)) AS gross, count(*) AS flips
               FROM adjustments WHERE adjustment_set = %(set)s GROUP BY 1, 2, 3) l
    USING (advertiser_id, slice, currency)
    WHERE (t.adjustments_micros, t.write_off_micros, t.gross_micros, t.to_valid + t.to_invalid + t.to_undecided)
          IS DISTINCT FROM (coalesce(l.amount, 0), coalesce(l.write_off, 0), coalesce(l.gross, 0), coalesce(l.flips, 0))
    LIMIT 1"""
# A line must say of its click what the decisions before and after say; each of them has a digest of its own.
SELECT_FALSE_LINE = """
    SELECT a.line FROM adjustments a
    LEFT JOIN delayed_decisions n ON n.run_id = %(run)s AND n.click_id = a.click_id
    LEFT JOIN decisions d ON a.from_run_id IS NULL AND d.click_id = a.click_id
    LEFT JOIN delayed_decisions o ON o.run_id = a.from_run_id AND o.click_id = a.click_id
    WHERE a.adjustment_set = %(set)s
      -- what left with a detached day can be compared no more; its line still counts in the totals
      AND NOT EXISTS (SELECT 1 FROM gone_partitions g WHERE g.day = (click_time(a.click_id) AT TIME ZONE 'UTC')::date)
      AND (a.from_verdict, a.to_verdict, a.advertiser_id, a.campaign_id, a.currency, a.slice, a.original_period,
           a.amount_micros + a.write_off_micros)
          IS DISTINCT FROM
          (coalesce(d.verdict, o.verdict), n.verdict, n.advertiser_id, n.campaign_id, n.currency, n.slice,
           click_period(a.click_id),
           CASE WHEN n.verdict = 'valid' THEN n.cost_micros
                WHEN a.from_verdict = 'valid' THEN -n.cost_micros ELSE 0 END)
    ORDER BY a.line LIMIT 1"""
SELECT_FALSE_ARTEFACTS = """
    SELECT m.model_version FROM models m LEFT JOIN artefacts a USING (digest)
    WHERE a.content IS NULL OR sha256(a.content) <> m.digest ORDER BY 1"""
# Counted clicks in seq order: a number used twice, or one missing below clicks that were appended a minute ago.
SELECT_SEQ_FAULT = """
    SELECT s.seq, s.next FROM (
        SELECT seq, log_position, counter_epoch, lead(seq) OVER w AS next, lead(counter_epoch) OVER w AS next_epoch
        FROM clicks WHERE seq > 0 WINDOW w AS (ORDER BY seq)) s
    JOIN log l ON l.position = s.log_position
    WHERE s.next = s.seq OR (s.next > s.seq + 1 AND s.counter_epoch = s.next_epoch
                             AND l.recorded_at < clock_timestamp() - interval '1 minute'
                             AND NOT int8range(s.seq + 1, s.next) <@ coalesce(
                                 (SELECT range_agg(p.seqs) FROM departures p JOIN gone_partitions g USING (departure)
                                  WHERE g.parent = 'clicks'), '{}'))
    ORDER BY s.seq LIMIT 1"""


@dataclass
class Report:
    """What was verified; a check is ok when it has no failure lines."""

    head: int = 0
    entries: int = 0
    rows: int = 0
    failures: dict[str, list[str]] = field(default_factory=dict)

    def check(self, name: str) -> list[str]:
        """The failure lines of a check, made known by asking."""
        return self.failures.setdefault(name, [])

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return not any(self.failures.values())


class _Group(NamedTuple):
    position: int
    leaves: bytes


def verify(conn: database.Connection, progress: Progress | None = None) -> Report:
    """Verify the whole ledger up to its head, while it may go on growing."""
    with departed.standing_still(conn):
        return _verify_all(conn, progress)


def _verify_all(conn: database.Connection, progress: Progress | None) -> Report:
    report = Report(head=log.head(conn).position)
    report.check("detached days").extend(departure.faults(conn))
    _verify_entries(conn, report, progress or (lambda done, total: None))
    _verify_counts(conn, report)
    _verify_runs(conn, report)
    _verify_corrections(conn, report)
    with _reporting(report.check("one authoritative decision per click")), database.snapshot(conn):
        _verify_authority(conn, report)
    _verify_money(conn, report)
    _verify_comparisons(conn, report)
    for (version,) in conn.execute(SELECT_FALSE_ARTEFACTS):
        report.check("artefacts").append(f"model {version}: its artefact is not the one that was registered")
    with _reporting(report.check("folds")):
        report.check("folds").extend(rebuild.differences(conn)[:FAILURES_MAX])
    with _reporting(report.check("checkpoints")):
        report.check("checkpoints").extend(checkpoints.verify(conn)[:FAILURES_MAX])
    for seq, following in conn.execute(SELECT_SEQ_FAULT):
        report.check("counting order").append(f"seq {seq}: expected {seq + 1} next, got {following}")
    return report


@contextmanager
def _reporting(failures: list[str]) -> Iterator[None]:
    """What stops a check is a finding of it; the other checks go on."""
    try:
        yield
    except errors.InvariantBroken as error:
        failures.append(str(error))


def _verify_entries(conn: database.Connection, report: Report, progress: Progress) -> None:
    """The chain over all entries, and the leaves of each against its rows."""
    chain, digests = report.check("chain"), report.check("digests")
    previous, expected = canonical.GENESIS_HASH, 1
    while expected <= report.head:
        entries = log.read(conn, after=expected - 1, limit=min(ENTRIES_PER_STEP, report.head - expected + 1))
        if not entries:
            chain.append(f"entry {expected}: missing")
            return
        for entry in entries:
            if entry.position != expected and len(chain) < FAILURES_MAX:
                chain.append(f"entry {expected}: missing, found {entry.position}")
            if _hash_of(entry, previous) != entry.chain_hash and len(chain) < FAILURES_MAX:
                chain.append(f"entry {entry.position}: its chain hash does not follow from its content and predecessor")
            previous, expected = entry.chain_hash, entry.position + 1
        _verify_rows(conn, report, entries, digests)
        report.entries += len(entries)
        progress(report.entries, report.head)


def _hash_of(entry: log.Entry, previous: bytes) -> bytes:
    return canonical.entry_hash(
        entry.position,
        entry.kind,
        entry.recorded_at_ms,
        entry.actor,
        entry.reason,
        entry.payload_text,
        entry.row_count,
        entry.content_digest,
        previous,
    )


def _verify_rows(conn: database.Connection, report: Report, entries: list[log.Entry], failures: list[str]) -> None:
    lo, hi = entries[0].position, entries[-1].position + 1
    stored = {position: bytes(leaves) for position, leaves in conn.execute(SELECT_LEAVES, (lo, hi))}
    computed = dict(_grouped(conn, COPY_DECIDED.format(lo=lo, hi=hi), canonical.DECIDED_CLICK_DOMAIN))
    computed |= dict(_grouped(conn, COPY_OUTCOMES.format(lo=lo, hi=hi), canonical.OUTCOME_DOMAIN))
    missing = departed.missing_lines(conn, lo, hi)
    for entry in entries:
        leaves, rows = stored.get(entry.position, b""), computed.pop(entry.position, b"")
        report.rows += len(rows) // canonical.LEAF_BYTES
        problem = _problem(entry, leaves, rows, missing.get(entry.position, set()))
        if problem and len(failures) < FAILURES_MAX:
            failures.append(f"entry {entry.position}: {problem}")
    failures += [f"rows at position {position}, which has no entry" for position in computed]


def _problem(entry: log.Entry, leaves: bytes, rows: bytes, missing: set[int]) -> str | None:
    size = canonical.LEAF_BYTES
    if len(leaves) != entry.row_count * size:
        return f"expected {entry.row_count} leaves, got {len(leaves) / size:g}"
    if canonical.content_digest(leaves) != entry.content_digest:
        return "its leaves do not give its content digest"
    lines = [line for line in range(entry.row_count) if line not in missing] if missing else range(entry.row_count)
    if len(rows) != len(lines) * size:
        return f"expected {len(lines)} rows, got {len(rows) // size}"
    if missing:
        leaves = b"".join(leaves[line * size : line * size + size] for line in lines)
    if rows != leaves:
        pairs = ((rows[i : i + size], leaves[i : i + size]) for i in range(0, len(rows), size))
        line = next(line for line, (row, leaf) in zip(lines, pairs, strict=True) if row != leaf)
        return f"the row at line {line} is not the one that was appended"
    return None


def _grouped(conn: database.Connection, copy: str, domain: bytes) -> Iterator[_Group]:
    """Leaves of the copied rows by log position; rows start with (log_position, line), not part of a leaf."""
    keyed = ((int.from_bytes(row[6:14]), row[22:]) for row in _copied(conn, copy))
    for position, rows in groupby(keyed, key=lambda pair: pair[0]):
        yield _Group(position, canonical.leaves(domain, (row for _, row in rows)))


def _copied(conn: database.Connection, copy: str) -> Iterator[bytes]:
    """Tuples of a binary COPY: int16 field count, then the fields; the 19-byte header and the trailer are left out."""
    with conn.cursor() as cursor, cursor.copy(copy.encode()) as stream:
        for number, data in enumerate(stream):
            row = bytes(data)[19:] if number == 0 else bytes(data)
            if len(row) > 2:
                yield row


def _verify_counts(conn: database.Connection, report: Report) -> None:
    kinds = {"clicks": "clicks_decided", "decisions": "clicks_decided", "outcomes": "outcomes_recorded"}
    failures = report.check("digests")
    for table, query in COUNTS.items():
        with database.snapshot(conn):
            found, logged = _one(conn, query, {}), _one(conn, COUNT_LOGGED, {"kind": kinds[table]})
            logged -= departed.detached_counts(conn).get(table, 0)
        if found != logged:
            failures.append(f"{table}: the log says {logged} rows, got {found}")
    failures += [f"leaves at position {row[0]}, whose entry has no rows" for row in conn.execute(STRAY_LEAVES)]


def _verify_runs(conn: database.Connection, report: Report) -> None:
    """Delayed decisions of every staged run, chunk by chunk, against what staging recorded."""
    failures = report.check("replay runs")
    for run_id, digest in conn.execute(SELECT_RUNS).fetchall():
        chunks = [(lo, hi, rows, bytes(d)) for lo, hi, rows, d in conn.execute(SELECT_RUN_CHUNKS, (run_id,))]
        expected, found = sum(chunk[2] for chunk in chunks), _one(conn, COUNT_OF_RUN, {"run": run_id})
        found += len(departed.missing_delayed(conn, run_id, 0, log.NO_LIMIT))
        if found != expected:
            failures.append(f"run {run_id}: expected {expected} decisions, got {found}")
        if canonical.run_digest(chunks) != bytes(digest):
            failures.append(f"run {run_id}: its chunks do not give the digest recorded when it was staged")
        for number, (lo, hi, row_count, chunk_digest) in enumerate(chunks):
            copy = COPY_DELAYED.format(run_id=run_id, lo=lo, hi=hi)
            gone = departed.missing_delayed(conn, run_id, lo, hi)
            leaves = _delayed_leaves(conn, copy, gone)
            report.rows += len(leaves) // canonical.LEAF_BYTES - len(gone)
            if len(leaves) != row_count * canonical.LEAF_BYTES or canonical.content_digest(leaves) != chunk_digest:
                failures.append(f"run {run_id}, chunk {number}: its decisions are not the ones that were staged")


def _delayed_leaves(conn: database.Connection, copy: str, gone: list[departed.Leaf]) -> bytes:
    """Leaves of a chunk in (log_position, line) order: of the rows there are, and as recorded of those that left."""
    if not gone:
        return b"".join(group.leaves for group in _grouped(conn, copy, canonical.DELAYED_DECISION_DOMAIN))
    there = [
        departed.Leaf(
            int.from_bytes(row[6:14]),
            int.from_bytes(row[18:22]),
            canonical.leaves(canonical.DELAYED_DECISION_DOMAIN, [row[22:]]),
        )
        for row in _copied(conn, copy)
    ]
    return b"".join(leaf.leaf for leaf in sorted(there + gone))


def _verify_corrections(conn: database.Connection, report: Report) -> None:
    """Decisions of every sparse run against what its plan was asked for."""
    failures = report.check("replay runs")
    for run_id, payload in conn.execute(SELECT_CORRECTED).fetchall():
        if departed.missing_delayed(conn, run_id, 0, log.NO_LIMIT):
            continue  # what is left of it is proved by what was staged, leaf by leaf
        copied = _copied(conn, sparse.COPY_STATED.format(run_id=run_id))
        leaves = canonical.leaves(sparse.CORRECTION_DOMAIN, (row[2:] for row in copied))
        if canonical.content_digest(leaves).hex() != json.loads(payload)["corrections_digest"]:
            failures.append(f"run {run_id}: its decisions are not the corrections that were planned")


def _verify_authority(conn: database.Connection, report: Report) -> None:
    failures = report.check("one authoritative decision per click")
    authority_map.check(authority.in_force(conn))
    total, distinct = conn.execute(COUNT_AUTHORITATIVE).fetchone() or (0, 0)
    clicks = _one(conn, COUNTS["clicks"], {})
    if not clicks == total == distinct:
        failures.append(f"expected {clicks} clicks decided once, got {total} decisions of {distinct} clicks")


def _verify_money(conn: database.Connection, report: Report) -> None:
    """What billing was told, campaign by campaign, against what the authoritative decisions bill."""
    failures = report.check("money")
    for advertiser, campaign, currency, told, billed in conn.execute(SELECT_UNBALANCED, (FAILURES_MAX,)):
        failures.append(
            f"advertiser {advertiser}, campaign {campaign}: the feed posts and writes off {told} micros {currency}, "
            f"the decisions bill {billed}"
        )


def _verify_comparisons(conn: database.Connection, report: Report) -> None:
    """Every adjustment line and total, which publications put in the feed, against the digest in the log."""
    failures = report.check("comparisons")
    for number, run_id, adjustment_set, digest, summary in conn.execute(SELECT_COMPARISONS).fetchall():
        lines: dict[str, Any] = {"set": adjustment_set, "run": run_id}
        totals = comparison.totals_of(conn, adjustment_set)
        if comparison.digest_of(summary) != bytes(digest):
            failures.append(f"comparison {number}: its summary does not give the digest recorded in the log")
        elif comparison.totals_digest(totals) != json.loads(summary)["totals_digest"]:
            failures.append(f"comparison {number}: its totals are not the ones that were recorded")
        if row := conn.execute(SELECT_FALSE_TOTAL, lines).fetchone():
            failures.append(f"comparison {number}: its adjustments do not give the totals of advertiser {row[0]}")
        if row := conn.execute(SELECT_FALSE_LINE, lines).fetchone():
            failures.append(f"comparison {number}: line {row[0]} is not what the decisions say of its click")


def _one(conn: database.Connection, query: str, parameters: dict[str, int | str]) -> int:
    row = conn.execute(query.encode(), parameters).fetchone()
    return int(row[0]) if row else 0
