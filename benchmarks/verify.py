"""`audit verify` against copying the same rows out, taking turns on one ledger.

Copying out is `COPY (SELECT * FROM clicks ...) TO STDOUT`, binary, then the same of decisions, on one connection, over
the positions that are verified; the client asks libpq for each row and throws it away, which is less than any program
would do with them. Verifying is all of `audit.verify`: chain, leaves, each row hashed, authority, money, folds,
counting order, processes started included. Once with one process, once with the default number.

And what 300 published runs, scattered over a month, cost the checks that look at all of them: money, comparisons,
authority and folds, each by itself, on a ledger filled by SQL (`filled`). Nothing is analysed but the decisions, as in
the first minute after the runs.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.filled import BATCH_CLICKS, Filled
from benchmarks.ground import Figure, Ground, Result, say
from benchmarks.models import ACTOR
from benchmarks.traffic import Traffic
from clickledger.ledger import (
    append,
    audit,
    audit_authority,
    audit_money,
    audit_work,
    database,
    log,
    rebuild,
)

TARGET = 0.30
BATCH = 256
COPY_ROWS = """
    COPY (SELECT * FROM {table} WHERE log_position >= 1 AND log_position <= {head}) TO STDOUT (FORMAT binary)"""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    clicks: int
    rounds: int
    filled_entries: int  # of 256 clicks, over `filled_days`; `runs` of them, evenly, are replayed by a run each
    filled_days: int
    runs: int


FULL, QUICK = Plan(1_000_000, 5, 4_000, 30, 300), Plan(2_000, 1, 12, 2, 4)
CHECKS = {
    "money": audit_money.verify,
    "comparisons": audit_money.verify_comparisons,
    "authority": audit_authority.verify,
    "folds": rebuild.differences,
}


def run(ground: Ground) -> Result:
    """Clicks verified a second, and the ratio to copying them out."""
    plan = QUICK if ground.quick else FULL
    url = ground.fresh_database()
    with database.connect(url) as conn:
        clicks = _load(conn, plan.clicks)
        default = 2 if ground.quick else audit_work.jobs_for(audit.units(conn))
        sides: dict[str, list[float]] = {"copy": [], "one": [], "default": []}
        for number in range(plan.rounds):
            say(f"verify: round {number + 1} of {plan.rounds}")
            turns = [("copy", 0), ("one", 1), ("default", default)]
            for side, jobs in turns if number % 2 else turns[::-1]:
                sides[side].append(_copy_out(conn) if side == "copy" else _verify(conn, url, jobs))
    result = _result(sides, clicks, default)
    _check_runs(ground.fresh_database(), plan, result)
    return result


def _check_runs(url: str, plan: Plan, result: Result) -> None:
    """Seconds of each of `CHECKS` with the first published run, and with all."""
    with database.connect(url) as conn:
        say(f"verify: {plan.runs} runs")
        filled = Filled(conn, plan.filled_entries * BATCH_CLICKS, plan.filled_days)
        for number in range(plan.runs):
            at = filled.lo + number * (plan.filled_entries // plan.runs)
            filled.published(at, at + 1)
            if number + 1 in {1, plan.runs}:
                for name, check in CHECKS.items():
                    seconds = min(_timed(conn, check) for _ in range(3))
                    what = f"the check of {name}, {number + 1} runs published"
                    result.figures.append(Figure(what, seconds, "s", f"{filled.clicks:,} decisions; best of 3"))
                    result.keys[f"verify_{name}_{number + 1}_runs_s"] = round(seconds, 4)


def _timed(conn: database.Connection, check: Callable[[database.Connection], list[str]]) -> float:
    with database.snapshot(conn):
        started = time.perf_counter()
        problems = check(conn)
        taken = time.perf_counter() - started
    if problems:
        raise RuntimeError(f"expected nothing wrong, got {problems}")
    return taken


def _load(conn: database.Connection, clicks: int) -> int:
    """A ledger of so many clicks, vacuumed, as autovacuum leaves it within minutes."""
    say(f"verify: appending {clicks:,} clicks")
    traffic = Traffic()
    for batch in traffic.batches(-(-clicks // BATCH), BATCH):
        append.append(conn, batch, actor=ACTOR)
    conn.execute("VACUUM (ANALYZE)")
    return BATCH * -(-clicks // BATCH)


def _copy_out(conn: database.Connection) -> float:
    head = log.head(conn).position
    started = time.perf_counter()
    for table in ("clicks", "decisions"):
        conn.pgconn.exec_(COPY_ROWS.format(table=table, head=head).encode())
        while conn.pgconn.get_copy_data(0)[0] > 0:
            pass
        while conn.pgconn.get_result() is not None:
            pass
    return time.perf_counter() - started


def _verify(conn: database.Connection, url: str, jobs: int) -> float:
    started = time.perf_counter()
    with audit_work.chosen(conn, url, jobs) as workers:
        report = audit.verify(conn, workers=workers)
    taken = time.perf_counter() - started
    if not report.ok:
        raise RuntimeError(f"expected a ledger that verifies, got {report.failures}")
    return taken


def _result(sides: dict[str, list[float]], clicks: int, default: int) -> Result:
    result = Result()
    rates = {side: statistics.median(clicks / seconds for seconds in taken) for side, taken in sides.items()}
    ratios = {
        side: [copied / taken for copied, taken in zip(sides["copy"], sides[side], strict=True)]
        for side in ("one", "default")
    }
    target = f"at least {TARGET:.2f}"
    ratio = statistics.median(ratios["default"])
    note = f"rounds from {min(ratios['default']):.2f}; {os.cpu_count()} cores, which the server shares"
    result.figures += [
        Figure("copying the same rows out", rates["copy"], "clicks/s", "clicks and decisions, one stream, thrown away"),
        Figure("audit verify, 1 process", rates["one"], "clicks/s", f"{clicks:,} clicks"),
        Figure(f"audit verify, {default} processes", rates["default"], "clicks/s", f"{clicks:,} clicks"),
        Figure("audit verify / copying out", ratio, "", note, target, ratio >= TARGET),
        Figure("audit verify with 1 process / copying out", statistics.median(ratios["one"]), ""),
    ]
    result.keys |= {
        "verify_vs_copy_out": round(ratio, 4),
        "verify_one_process_vs_copy_out": round(statistics.median(ratios["one"]), 4),
        "verify_clicks_per_s": round(rates["default"]),
    }
    return result
