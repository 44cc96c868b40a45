"""What publishing a run would change: flips and money, computed aside and named by a digest.

Invariants:
- per advertiser, slice and currency: billed before + adjustments + write-offs = billed after, where the first and last
  are summed from decisions and the middle from the adjustment lines;
- a comparison describes the authority as of one log position; publishing under another one is refused.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clickledger import errors
from clickledger.ledger import adjustment_lines, authority, canonical, database, departed, log, runs
from clickledger.ledger.authority_map import SPARSE, ClickIds

# A back-charge posts only while its period is open; else it is written off. A credit always posts, unless what it takes
# back was itself written off: nobody is credited for what was never charged.
INSERT_ADJUSTMENTS = """
    INSERT INTO adjustments (adjustment_set, line, click_id, advertiser_id, campaign_id, currency, slice, from_run_id,
                             from_verdict, to_verdict, amount_micros, write_off_micros, original_period, posting_period)
    SELECT {set}, row_number() OVER (ORDER BY n.log_position, n.line) - 1, n.click_id, n.advertiser_id, n.campaign_id,
           n.currency, n.slice, o.from_run_id, o.verdict, n.verdict,
           CASE WHEN f.written_off THEN 0 ELSE m.change END, CASE WHEN f.written_off THEN m.change ELSE 0 END,
           p.period, CASE WHEN b.period IS NULL THEN p.period ELSE {open_period} END
    FROM ({old}) o JOIN delayed_decisions n ON n.run_id = {run} AND n.click_id = o.click_id{within}
    CROSS JOIN LATERAL (SELECT click_period(n.click_id) AS period) p
    CROSS JOIN LATERAL (SELECT CASE WHEN n.verdict = 'valid' THEN n.cost_micros ELSE 0 END
                             - CASE WHEN o.verdict = 'valid' THEN o.cost_micros ELSE 0 END AS change) m
    LEFT JOIN billing_periods b ON b.period = p.period
    LEFT JOIN (SELECT e.click_id FROM billing_entries e WHERE {told}
               GROUP BY e.click_id HAVING sum(e.write_off_micros) > 0) w ON w.click_id = n.click_id
    CROSS JOIN LATERAL (SELECT CASE WHEN m.change > 0 THEN b.period IS NOT NULL
                                    ELSE w.click_id IS NOT NULL END AS written_off) f
    WHERE n.verdict <> o.verdict"""
SELECT_LAYERS = "SELECT run_id FROM publications WHERE positions && int8range(%s, %s)"
INSERT_TOTALS = """
    WITH rows AS (
        SELECT n.advertiser_id, n.slice, n.currency,
               -- a run re-decides a click and says nothing else of it: rows that do are not counted, so they are missed
               count(*) FILTER (WHERE (n.log_position, n.line, n.cost_micros, n.currency)
                                    = (o.log_position, o.line, o.cost_micros, o.currency)
                                  AND (n.advertiser_id, n.campaign_id, n.slice)
                                    = (o.advertiser_id, o.campaign_id, o.slice)) AS clicks,
               count(*) FILTER (WHERE n.verdict <> o.verdict AND n.verdict = 'valid') AS to_valid,
               count(*) FILTER (WHERE n.verdict <> o.verdict AND n.verdict = 'invalid') AS to_invalid,
               count(*) FILTER (WHERE n.verdict <> o.verdict AND n.verdict = 'undecided') AS to_undecided,
               count(*) FILTER (WHERE n.carried) AS carried,
               coalesce(sum(o.cost_micros) FILTER (WHERE o.verdict = 'valid'), 0) AS before,
               coalesce(sum(n.cost_micros) FILTER (WHERE n.verdict = 'valid'), 0) AS after
        FROM ({old}) o JOIN delayed_decisions n ON n.run_id = {run} AND n.click_id = o.click_id{within}
        GROUP BY 1, 2, 3),
    lines AS (
        SELECT advertiser_id, slice, currency, sum(amount_micros) AS amount, sum(write_off_micros) AS write_off,
               sum(abs(amount_micros)) AS gross
        FROM adjustments WHERE adjustment_set = {set} GROUP BY 1, 2, 3)
    INSERT INTO comparison_totals
    SELECT {set}, advertiser_id, slice, currency, clicks, to_valid, to_invalid, to_undecided, carried, before,
           coalesce(amount, 0), coalesce(write_off, 0), after, coalesce(gross, 0)
    FROM rows LEFT JOIN lines USING (advertiser_id, slice, currency)"""
SELECT_TOTALS = """
    SELECT advertiser_id, slice, currency, clicks, to_valid, to_invalid, to_undecided, carried, billed_before_micros,
           adjustments_micros, write_off_micros, billed_after_micros, gross_micros
    FROM comparison_totals WHERE adjustment_set = %s ORDER BY advertiser_id, slice, currency"""
TOTAL_COLUMNS = (
    "advertiser_id", "slice", "currency", "clicks", "to_valid", "to_invalid", "to_undecided", "carried",
    "billed_before_micros", "adjustments_micros", "write_off_micros", "billed_after_micros", "gross_micros",
)  # fmt: skip
SUMMED = TOTAL_COLUMNS[3:]
INSERT_COMPARISON = "INSERT INTO comparisons VALUES (%s, %s, %s, %s, %s, %s)"
SELECT_COMPARISON = """
    SELECT comparison_id, run_id, adjustment_set, compared_at_position, digest, summary
    FROM comparisons WHERE run_id = %s ORDER BY comparison_id DESC LIMIT 1"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run beside the decisions in force at `compared_at_position`; money in micros of each currency.

    `totals` has one row per advertiser, slice and currency; `summary` their sums; `digest` names it all.
    """

    comparison_id: int
    run_id: int
    adjustment_set: uuid.UUID
    compared_at_position: int
    digest: str
    summary: dict[str, Any]
    totals: list[dict[str, Any]]

    def by(self, column: str) -> dict[str, dict[str, int]]:
        """Sums of the totals by 'slice', 'advertiser_id' or 'currency'."""
        sums: dict[str, dict[str, int]] = {}
        for row in self.totals:
            group = sums.setdefault(row[column], dict.fromkeys(SUMMED, 0))
            for name in SUMMED:
                group[name] += row[name]
        return sums


def compare(conn: database.Connection, run_id: int, actor: str) -> Comparison:
    """Compare a staged run with the authority in force and record what publishing it would do.

    Raises Refused before it is staged and once it is given up, be it meanwhile; InvariantBroken when clicks are missing
    or money is not conserved.
    """
    run = runs.get(conn, run_id)
    content_digest = _require_staged(run)
    departed.require_whole_run(conn.rows, run_id, "plan a new one")
    adjustment_set = uuid.uuid4()
    bounds = runs.click_ids(conn, run)
    compared_at, totals, lines_digest = _compute(conn, run, bounds, adjustment_set)
    summary = {name: sum(row[name] for row in totals) for name in SUMMED}
    summary |= {
        "run_id": run_id,
        "kind": run.kind,
        "positions": [run.lo, run.hi],
        "compared_at_position": compared_at,
        "flips": summary["to_valid"] + summary["to_invalid"] + summary["to_undecided"],
        "content_digest": content_digest.hex(),
        "click_ids": [str(click_id) for click_id in bounds],
        "totals_digest": totals_digest(totals),
        "adjustment_set": str(adjustment_set),
        "lines_digest": lines_digest,
    }
    text = canonical.canonical_json(summary)
    digest = digest_of(text)
    with log.writing(conn) as writer:
        _require_staged(runs.Run(*writer.execute(runs.SELECT_RUN, (run_id,))[0]))
        entry = writer.record("replay_compared", summary | {"digest": digest.hex()}, actor)
        writer.execute(INSERT_COMPARISON, (entry.position, run_id, adjustment_set, compared_at, digest, text))
    return Comparison(entry.position, run_id, adjustment_set, compared_at, digest.hex(), summary, totals)


def _require_staged(run: runs.Run) -> bytes:
    """The digest of what a staged run decides. Raises Refused for any other."""
    if run.status != "staged" or run.content_digest is None:
        raise errors.Refused(f"run {run.run_id}: expected status staged, got {run.status}")
    return run.content_digest


def _compute(
    conn: database.Connection, run: runs.Run, click_ids: ClickIds, adjustment_set: uuid.UUID
) -> tuple[int, list[dict[str, Any]], str]:
    """Adjustment lines and totals in one snapshot, outside of the log lock: their time grows with the rows.

    The position they are of, the totals, and the digest of the lines.
    """
    with database.snapshot(conn):
        conn.execute("SET LOCAL work_mem = '64MB'")
        # A run just written has no statistics: taken for one row, it would be joined by nested loops, in n * n steps.
        conn.execute("SET LOCAL enable_nestloop = off")
        head = log.head(conn)
        parts = _of_clicks(conn, run) if run.kind == SPARSE else _of_range(conn, run, click_ids)
        parts |= {
            "set": f"'{adjustment_set}'::uuid",
            "run": f"{run.run_id:d}",
            "within": authority.within(click_ids, "n.click_id"),
            "open_period": f"'{open_period(conn)}'",
        }
        for statement in (INSERT_ADJUSTMENTS, INSERT_TOTALS):
            conn.execute(statement.format(**parts).encode())
        totals = totals_of(conn, adjustment_set)
        if (compared := sum(row["clicks"] for row in totals)) != run.row_count:  # rolls the lines back as well
            raise errors.InvariantBroken(f"run {run.run_id}: expected {run.row_count} clicks compared, got {compared}")
        return head.position, totals, adjustment_lines.digest(conn, adjustment_set)


def _of_range(conn: database.Connection, run: runs.Run, click_ids: ClickIds) -> dict[str, str]:
    """The decisions in force over a run's range, and what billing was told by publications over it."""
    overriding = authority.overrides(conn, run.lo, run.hi)
    old = authority.rows_between(authority.in_force(conn), run.lo, run.hi, click_ids=click_ids, overriding=overriding)
    layers = {row[0] for row in conn.execute(SELECT_LAYERS, (run.lo, run.hi))}
    listed = ",".join(str(run_id) for run_id in sorted(layers))
    return {"old": old, "told": f"e.run_id = ANY ('{{{listed}}}'::bigint[])"}


def _of_clicks(conn: database.Connection, run: runs.Run) -> dict[str, str]:
    """The decisions in force of a sparse run's clicks, and what billing was told of them."""
    clicks, overriding = authority.sparse_clicks(conn, run.run_id), authority.overrides_of(conn, run.run_id)
    told = f"e.click_id = ANY ({authority.literal(click.click_id for click in clicks)})"
    return {"old": authority.rows_of(authority.in_force(conn), overriding, clicks), "told": told}


def digest_of(summary: str) -> bytes:
    """The name of a comparison: 32 bytes over its summary, canonical JSON."""
    return hashlib.sha256(b"clickledger:comparison:1" + summary.encode()).digest()


def totals_digest(totals: list[dict[str, Any]]) -> str:
    """What a summary says of its totals."""
    return hashlib.sha256(canonical.canonical_json(totals).encode()).hexdigest()


def totals_of(conn: database.Connection, adjustment_set: uuid.UUID) -> list[dict[str, Any]]:
    """The totals of an adjustment set, one for each advertiser, slice and currency, in this order."""
    rows = conn.execute(SELECT_TOTALS, (adjustment_set,))
    return [dict(zip(TOTAL_COLUMNS, row, strict=True)) for row in rows]


def open_period(conn: database.Connection) -> str:
    """The period that adjustments to closed periods post to: this month, or the first open one after it."""
    return first_open(datetime.now(UTC), {row[0] for row in conn.execute("SELECT period FROM billing_periods")})


def first_open(moment: datetime, closed: set[str]) -> str:
    """The month of a moment (UTC), YYYY-MM, or the first one after it that is not closed."""
    year, month = moment.year, moment.month
    while f"{year:04d}-{month:02d}" in closed:
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
    return f"{year:04d}-{month:02d}"


def latest(conn: database.Connection, run_id: int) -> Comparison:
    """The newest comparison of a run. Raises NotFound."""
    row = conn.execute(SELECT_COMPARISON, (run_id,)).fetchone()
    if row is None:
        raise errors.NotFound(f"run {run_id} was not compared yet")
    comparison_id, _, adjustment_set, compared_at, digest, text = row
    totals = totals_of(conn, adjustment_set)
    return Comparison(comparison_id, run_id, adjustment_set, compared_at, bytes(digest).hex(), json.loads(text), totals)
