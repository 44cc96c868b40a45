"""The money: what billing was told against what is billed, and every adjustment line against what pins it.

A comparison's number is the position of its entry. Since `lines_digest` is in that entry its lines are pinned by it;
lines of earlier comparisons are computed again, as of the position they were compared at, from rows that have digests
of their own: decisions, delayed decisions, and the folds of publications and closed periods.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from clickledger.ledger import (
    adjustment_lines,
    authority,
    authority_map,
    canonical,
    comparison,
    database,
    departed,
    reading,
)

FAILURES_MAX = 20
# By campaign: what is moved from one advertiser to another leaves the sum as it was.
BY = ("advertiser_id", "campaign_id", "currency")
SELECT_TOLD = f"""
    SELECT {", ".join(BY)}, sum(amount_micros + write_off_micros)::bigint
    FROM billing_entries GROUP BY {", ".join(BY)}"""
SELECT_COMPARISONS = """
    SELECT c.comparison_id, c.run_id, c.adjustment_set, c.compared_at_position, c.digest, c.summary, l.payload
    FROM comparisons c LEFT JOIN log l ON l.position = c.comparison_id AND l.kind = 'replay_compared' ORDER BY 1"""
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
_LINE = (
    "line, click_id, advertiser_id, campaign_id, currency, slice, from_run_id, from_verdict, to_verdict, "
    "amount_micros, write_off_micros, original_period"
)
# The rules of `comparison`, written a second time, as of {at}: closed periods, earlier layers and their write-offs too.
SELECT_FALSE_LINE = f"""
    WITH expected AS (
        SELECT row_number() OVER (ORDER BY n.log_position, n.line) - 1 AS line, n.click_id, n.advertiser_id,
               n.campaign_id, n.currency, n.slice, o.from_run_id, o.verdict AS from_verdict, n.verdict AS to_verdict,
               CASE WHEN f.written_off THEN 0 ELSE m.change END AS amount_micros,
               CASE WHEN f.written_off THEN m.change ELSE 0 END AS write_off_micros,
               p.period AS original_period, b.period IS NOT NULL AS late
        FROM ({{old}}) o JOIN delayed_decisions n ON n.run_id = {{run}} AND n.click_id = o.click_id
        CROSS JOIN LATERAL (SELECT click_period(n.click_id) AS period) p
        CROSS JOIN LATERAL (SELECT CASE WHEN n.verdict = 'valid' THEN n.cost_micros ELSE 0 END
                                 - CASE WHEN o.verdict = 'valid' THEN o.cost_micros ELSE 0 END AS change) m
        LEFT JOIN billing_periods b ON b.period = p.period AND b.closed_position <= {{at}}
        LEFT JOIN (SELECT e.click_id FROM billing_entries e
                   WHERE e.run_id IN (SELECT l.run_id FROM publications l
                                      WHERE l.positions && int8range({{lo}}, {{hi}}) AND l.position <= {{at}})
                     AND e.position <= {{at}}
                   GROUP BY e.click_id HAVING sum(e.write_off_micros) > 0) w ON w.click_id = n.click_id
        CROSS JOIN LATERAL (SELECT CASE WHEN m.change > 0 THEN b.period IS NOT NULL
                                        ELSE w.click_id IS NOT NULL END AS written_off) f
        WHERE n.verdict <> o.verdict),
    stored AS (SELECT * FROM adjustments WHERE adjustment_set = '{{set}}')
    SELECT coalesce(s.line, e.line) FROM (SELECT {_LINE}, late FROM expected) e
    FULL JOIN (SELECT {_LINE}, posting_period FROM stored) s USING ({_LINE.replace(", from_run_id", "")})
    WHERE e.late IS NULL OR s.posting_period IS NULL OR e.from_run_id IS DISTINCT FROM s.from_run_id
       OR NOT s.posting_period = ANY (CASE WHEN e.late THEN '{{open}}'::text[] ELSE ARRAY[e.original_period] END)
       OR e.late AND s.posting_period <> (SELECT max(i.posting_period) FROM stored i
                                          WHERE i.posting_period <> i.original_period)
    ORDER BY 1 LIMIT 1"""
SELECT_RECORDED = "SELECT recorded_at FROM log WHERE position = ANY (%s) ORDER BY position"
SELECT_CLOSED = "SELECT period FROM billing_periods WHERE closed_position <= %s"
COUNT_UNUSED = """
    SELECT 'adjustment lines', adjustment_set, count(*) FROM adjustments a
    WHERE NOT EXISTS (SELECT FROM comparisons c WHERE c.adjustment_set = a.adjustment_set) GROUP BY 2
    UNION ALL
    SELECT 'totals', adjustment_set, count(*) FROM comparison_totals a
    WHERE NOT EXISTS (SELECT FROM comparisons c WHERE c.adjustment_set = a.adjustment_set) GROUP BY 2
    ORDER BY 2, 1 LIMIT 20"""


def verify(conn: database.Connection) -> list[str]:
    """What billing was told, campaign by campaign, against what the authoritative decisions bill.

    The first is summed from the feed as billing reads it; the second from decisions by the map and the overrides, which
    takes nothing from comparisons, their lines and totals, or the views. What left with detached days is added to both.
    """
    with departed.snapshot(conn):
        told = {tuple(row[:3]): row[3] for row in conn.execute(SELECT_TOLD)}
        billed = reading.billed_by(conn, BY)
        for *campaign, told_of_gone, billed_of_gone in departed.detached_money(conn):
            told[tuple(campaign)] = told.get(tuple(campaign), 0) + told_of_gone
            billed[tuple(campaign)] = billed.get(tuple(campaign), 0) + billed_of_gone
    differing = [key for key in told.keys() | billed.keys() if told.get(key, 0) != billed.get(key, 0)]
    return [
        f"advertiser {key[0]}, campaign {key[1]}: the feed posts and writes off {told.get(key, 0)} micros {key[2]}, "
        f"the decisions bill {billed.get(key, 0)}"
        for key in sorted(differing, key=repr)[:FAILURES_MAX]
    ]


def verify_comparisons(conn: database.Connection) -> list[str]:
    """Every adjustment line and total, which publications put in the feed, against the entry of its comparison."""
    conn.execute("SET LOCAL work_mem = '64MB'")
    conn.execute("SET LOCAL enable_nestloop = off")  # see comparison: a run without statistics would take n * n steps
    failures = []
    for compared in [_Compared(*row) for row in conn.execute(SELECT_COMPARISONS)]:
        failures += [f"comparison {compared.number}: {problem}" for problem in _problems(conn, compared)]
    return failures


class _Compared(NamedTuple):
    number: int
    run_id: int
    adjustment_set: uuid.UUID
    at: int  # the position whose authority it was compared with
    digest: bytes
    summary: str
    payload: str | None  # of its entry


def _problems(conn: database.Connection, compared: _Compared) -> Iterator[str]:
    adjustment_set, digest = compared.adjustment_set, bytes(compared.digest)
    if comparison.digest_of(compared.summary) != digest:
        yield "its summary does not give the digest recorded in the log"
        return
    recorded = json.loads(compared.summary)
    if compared.payload != canonical.canonical_json(recorded | {"digest": digest.hex()}):
        yield "its summary is not what its entry says"
    if recorded.get("adjustment_set", str(adjustment_set)) != str(adjustment_set):
        yield f"expected adjustment set {recorded['adjustment_set']}, got {adjustment_set}"
    if comparison.totals_digest(comparison.totals_of(conn, adjustment_set)) != recorded["totals_digest"]:
        yield "its totals are not the ones that were recorded"
    if row := conn.execute(SELECT_FALSE_TOTAL, {"set": adjustment_set}).fetchone():
        yield f"its adjustments do not give the totals of advertiser {row[0]}"
    if "lines_digest" not in recorded:
        whole = not departed.has_rows_of(conn, compared.run_id)  # what left can be compared no more
        if (
            whole
            and recorded.get("kind", "range") == "range"
            and (named := _false_line(conn, compared, recorded["positions"]))
        ):
            yield f"its adjustment lines are not what the decisions say{named}"
    elif adjustment_lines.digest(conn, adjustment_set) != recorded["lines_digest"]:
        yield "its adjustment lines are not the ones that were recorded"


def _false_line(conn: database.Connection, compared: _Compared, positions: list[int]) -> str:
    """The first line that is not what it would be if it were computed again, in words; empty when all are."""
    lo, hi = positions
    pieces = authority_map.topmost(authority.publications(conn), as_of=compared.at)
    parts = {
        "old": authority.rows_between(pieces, lo, hi, as_of=compared.at),
        "run": int(compared.run_id),
        "at": int(compared.at),
        "lo": int(lo),
        "hi": int(hi),
        "set": compared.adjustment_set,
        "open": f"{{{','.join(_open_periods(conn, compared.at, compared.number))}}}",
    }
    row = conn.execute(SELECT_FALSE_LINE.format(**parts).encode()).fetchone()
    return f": line {row[0]} is another" if row else ""


def _open_periods(conn: database.Connection, at: int, number: int) -> set[str]:
    """What lines of closed periods could post to: the open month of the comparison, kept to the minute by no row."""
    closed = {row[0] for row in conn.execute(SELECT_CLOSED, (at,))}
    recorded = [row[0] for row in conn.execute(SELECT_RECORDED, ([at, number],))]
    return {comparison.first_open(moment, closed) for moment in _months(recorded)}


def _months(moments: list[datetime]) -> Iterator[datetime]:
    """A moment of each month from the first to the last of the given ones."""
    month = moments[0].astimezone(UTC).replace(day=1) if moments else None
    while month is not None and month <= moments[-1]:
        yield month
        month = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


def unused(conn: database.Connection) -> list[str]:
    """Lines and totals of comparisons that were interrupted before their entry: in no feed, and so no finding."""
    return [f"{what} of set {name}, which is in no comparison: {n}" for what, name, n in conn.execute(COUNT_UNUSED)]
