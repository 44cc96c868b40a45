"""Proof that history is as it was written: chain, digests, rows, authority, money, caches.

Every check names the entry at which it fails, or the run, line or table where there is no entry. What needs a model
(re-scoring) is scoring's; this knows only the ledger. The work is cut into tasks of about 65,000 rows that any number
of processes do in any order; what they found is put together here, window by window of the log, in bounded memory.

A new kind of history has three places here: `audit_rows.TABLE_OF_KIND` for entries with rows of their own, `CHECKS` for
what is verified as a whole, `tasks_of_whole` for what is too large for one task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from clickledger import errors
from clickledger.ledger import (
    audit_authority,
    audit_chain,
    audit_counting,
    audit_definitions,
    audit_features,
    audit_money,
    audit_rows,
    audit_runs,
    checkpoints,
    database,
    departed,
    departure,
    log,
    rebuild,
)
from clickledger.ledger.audit_counting import Gone
from clickledger.ledger.audit_rows import FAILURES_MAX
from clickledger.ledger.audit_work import InProcess, Task, Workers

Progress = Callable[[int, int], None]
ENTRIES_PER_TASK = 2_000
ENTRIES_PER_WINDOW = 1 << 21  # entries whose rows are counted at a time: 32 MiB

COUNT_WORK = """
    SELECT (SELECT coalesce(sum(row_count), 0)::bigint + count(*) FROM log
            WHERE position >= %(lo)s AND position < %(hi)s),
           (SELECT coalesce(sum(row_count), 0)::bigint FROM replay_chunks WHERE status = 'done')"""
SELECT_FALSE_ARTEFACTS = """
    WITH facts AS (
        SELECT position, decode(payload::json->>'digest', 'hex') AS digest FROM log WHERE kind = 'fact_table_set')
    SELECT 'model ' || m.model_version || ': its artefact is not the one that was registered'
    FROM models m LEFT JOIN artefacts a USING (digest) WHERE a.content IS NULL OR sha256(a.content) <> m.digest
    UNION ALL
    SELECT 'table of facts ' || t.position || ': its content is not the one that was registered'
    FROM facts t LEFT JOIN artefacts a USING (digest) WHERE a.content IS NULL OR sha256(a.content) <> t.digest
    UNION ALL
    SELECT 'artefact ' || encode(a.digest, 'hex') || ': expected the model or table it belongs to, got none'
    FROM artefacts a WHERE NOT EXISTS (SELECT FROM models m WHERE m.digest = a.digest)
                       AND NOT EXISTS (SELECT FROM facts t WHERE t.digest = a.digest)
    UNION ALL
    SELECT 'artefact ' || encode(a.digest, 'hex') || ': it is there more than once' FROM artefacts a
    GROUP BY a.digest HAVING count(*) > 1
    ORDER BY 1"""


@dataclass
class Report:
    """What was verified of entries `lo` to `head`; a check is ok when it has no failure lines.

    `rows` counts decisions, delayed ones too, and outcomes; `overrides` the clicks with a sparse correction in force,
    None where only a range was asked for; `unverified` names the checks that need the whole ledger then; `notes` are no
    failures.
    """

    head: int = 0
    entries: int = 0
    rows: int = 0
    overrides: int | None = None
    failures: dict[str, list[str]] = field(default_factory=dict)
    lo: int = 1
    unverified: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self, name: str) -> list[str]:
        """The failure lines of a check, made known by asking."""
        return self.failures.setdefault(name, [])

    def note(self, name: str, lines: list[str]) -> None:
        """Add failure lines to a check, each once and no more than `FAILURES_MAX` in all."""
        known = self.check(name)
        known += [line for line in dict.fromkeys(lines) if line not in known][: max(0, FAILURES_MAX - len(known))]

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return not any(self.failures.values())


def _artefacts(conn: database.Connection) -> list[str]:
    return [row[0] for row in conn.execute(SELECT_FALSE_ARTEFACTS)]


# What is verified as a whole, each in a snapshot of its own: functions of a module, so that they travel to processes.
CHECKS: list[tuple[str, Callable[[database.Connection], list[str]]]] = [
    ("replay runs", audit_runs.verify),
    ("recounted snapshots", audit_features.verify),
    ("one authoritative decision per click", audit_authority.verify),
    ("money", audit_money.verify),
    ("comparisons", audit_money.verify_comparisons),
    ("artefacts", _artefacts),
    ("detached days", departure.faults),
    ("checkpoints", checkpoints.verify),
    ("folds", rebuild.differences),
    ("definitions", audit_definitions.verify),
]
BY_ENTRY = ("chain", "digests")
COUNTING_ORDER = "counting order"


def verify(
    conn: database.Connection,
    progress: Progress | None = None,
    *,
    lo: int | None = None,
    hi: int | None = None,
    workers: Workers | None = None,
    gone: Gone = departed.missing_lines,
) -> Report:
    """Verify the whole ledger up to its head, while it may go on growing, or the entries `lo` to `hi`, both included.

    Of a range, chain and digests only: the entry before it is taken as it is, and `Report.unverified` names the rest.
    `workers` do the reading (default: this process, on `conn` and in its transaction); `gone` names the lines that
    retention took away. Raises InvalidInput for a range that the log does not hold.
    """
    head = log.head(conn)
    whole = lo is None and hi is None
    first, last = 1 if lo is None else lo, head.position if hi is None else hi
    if not 1 <= first <= last <= head.position:
        raise errors.InvalidInput(f"positions: expected a range within 1 to {head.position}, got {first} to {last}")
    report = Report(head=last, lo=first)
    names = [*BY_ENTRY, *(name for name, _ in CHECKS), COUNTING_ORDER]
    for name in names if whole else BY_ENTRY:
        report.check(name)
    report.unverified = [name for name in names if name not in report.failures]
    tell, total = progress or (lambda done, total: None), units(conn, lo, hi)
    audit = _Audit(conn, report, workers or InProcess(conn), tell, gone, total)
    with departed.standing_still(conn):
        if whole:
            audit.give(tasks_of_whole(conn))  # these do not divide: whoever is free reads rows meanwhile
        for start in range(first, last + 1, ENTRIES_PER_WINDOW):
            audit.window(start, min(start + ENTRIES_PER_WINDOW, last + 1), whole=whole)
        if whole:
            audit.conclude(head)
    return report


def units(conn: database.Connection, lo: int | None = None, hi: int | None = None) -> int:
    """How much there is to do, by the units that progress is told in: entries, and rows of any kind."""
    bounds = {"lo": lo or 1, "hi": (hi or (1 << 62)) + 1}
    logged, delayed = conn.execute(COUNT_WORK, bounds).fetchone() or (0, 0)
    return int(logged) + (int(delayed) if lo is None and hi is None else 0)


class _Audit:
    """Gives out the tasks of one audit and puts their results together."""

    def __init__(
        self, conn: database.Connection, report: Report, workers: Workers, progress: Progress, gone: Gone, total: int
    ) -> None:
        self._conn, self._report, self._workers, self._gone = conn, report, workers, gone
        self._progress, self._done, self._total = progress, 0, total
        self._given: Iterator[Task] = iter(())
        self._seqs: list[audit_counting.Runs] = []

    def _advance(self, units: int) -> None:
        self._done = min(self._total, self._done + units)
        self._progress(self._done, self._total)

    def give(self, tasks: Iterable[Task]) -> None:
        """Have these done before, or beside, those of the next window."""
        self._given = chain(self._given, tasks)

    def window(self, lo: int, hi: int, *, whole: bool) -> None:
        """Entries [lo, hi) and their rows; the first window of the whole ledger takes rows below position 1 too."""
        window = _Window(lo, hi)
        tasks = chain(self._given, self._tasks(lo, hi, None if whole and lo == 1 else lo))
        self._given = iter(())
        for result in self._workers.run(tasks):
            self._take(window, result)
        self._report.note("digests", window.failures(self._conn, self._gone))

    def _take(self, window: _Window, result: Any) -> None:
        match result:
            case audit_chain.Entries():
                window.expect(result)
                self._report.note("chain", result.chain)
                self._report.entries += result.found
                self._advance(result.found)
            case audit_rows.Rows():
                window.find(result)
                self._report.rows += result.rows
                self._advance(result.rows)
                self._keep(result.seqs)
            case audit_runs.Delayed():
                self._report.note("replay runs", result.failures)
                self._report.rows += result.rows
                self._advance(result.rows)
            case (str(name), failures):
                self._report.note(name, failures)

    def _tasks(self, lo: int, hi: int, rows_from: int | None) -> Iterator[Task]:
        for start in range(lo, hi, ENTRIES_PER_TASK):
            yield Task(audit_chain.verify, (start, min(start + ENTRIES_PER_TASK, hi)))
        for part in audit_rows.outcome_parts(self._conn, rows_from, hi):
            yield Task(audit_rows.verify_outcomes, (part, self._gone))
        for part in audit_rows.parts(self._conn, rows_from, hi):
            yield Task(audit_rows.verify_decided, (part, self._gone))

    def _keep(self, seqs: audit_counting.Runs | None) -> None:
        if seqs is not None:
            self._seqs.append(seqs)
        if len(self._seqs) > 64:
            self._seqs = [audit_counting.joined(self._seqs)]

    def conclude(self, head: log.Head) -> None:
        """What is left once all rows were read."""
        self._report.note("digests", audit_rows.strays(self._conn, head.position))
        faults, lost = self._counting_faults(head)
        self._report.note(COUNTING_ORDER, faults)
        self._report.notes += lost
        self._report.overrides = audit_authority.overrides(self._conn)
        self._report.notes += audit_money.unused(self._conn) + departure.unused(self._conn)
        self._report.notes += audit_definitions.unverified(self._conn)

    def _counting_faults(self, head: log.Head) -> tuple[list[str], list[str]]:
        """What is wrong with the counting order, and notes of what is not."""
        runs = audit_counting.joined(self._seqs)
        if not len(runs.first):
            return [], []
        twice, gaps = audit_counting.faults(runs)
        missing, lost = audit_counting.missing(self._conn, gaps, head.recorded_at.isoformat(), self._gone)
        return twice + missing, lost


def tasks_of_whole(conn: database.Connection) -> Iterator[Task]:
    """The tasks that no range of entries gives: checks first, which take long and do not divide, then delayed rows."""
    for number in range(len(CHECKS)):
        yield Task(_run_check, (number,))
    for run_id, chunks in audit_runs.parts(conn):
        yield Task(audit_runs.verify_chunks, (run_id, chunks))


def _run_check(conn: database.Connection, number: int) -> tuple[str, list[str]]:
    """One of `CHECKS` by its number. What stops it is a finding of it; the other checks go on."""
    name, check = CHECKS[number]
    try:
        with database.snapshot(conn):
            # It holds no lock that others wait for, and some compute for minutes between two statements.
            conn.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            return name, check(conn)
    except errors.InvariantBroken as error:
        return name, [str(error)]
    except errors.Unavailable:
        raise  # of the server, not of what is stored
    except (ArithmeticError, LookupError, TypeError, ValueError, errors.InvalidInput, psycopg.Error) as error:
        return name, [f"what is stored cannot be read: {' '.join(repr(error).split())}"]


class _Window:
    """Entries [lo, hi): how many rows each should have, how many were found, and what is wrong with them."""

    def __init__(self, lo: int, hi: int) -> None:
        self._lo, self._size = lo, hi - lo
        self._expected: dict[str, NDArray[np.int64]] = {}
        self._found: dict[str, NDArray[np.int64]] = {}
        self._problems: dict[int, str] = {}
        self._outside: list[str] = []

    def expect(self, entries: audit_chain.Entries) -> None:
        """Take note of row counts, and of leaves that are not right."""
        for kind, counts in entries.rows_of.items():
            if kind not in self._expected:
                self._expected[kind] = np.zeros(self._size, np.int64)
            at = entries.lo - self._lo
            self._expected[kind][at : at + len(counts)] += counts
        for position, problem in entries.digests.items():
            self._problem(position, problem)

    def find(self, rows: audit_rows.Rows) -> None:
        """Take note of the rows of one task."""
        positions, counts = rows.found
        inside = (positions >= self._lo) & (positions < self._lo + self._size)
        found = self._found.setdefault(rows.kind, np.zeros(self._size, np.int64))
        np.add.at(found, positions[inside] - self._lo, counts[inside])
        for position, problem in rows.failures:
            self._problem(position, problem)

    def _problem(self, position: int, problem: str) -> None:
        if self._lo <= position < self._lo + self._size:
            self._problems.setdefault(position, problem)
        elif position == 0:
            self._outside.append(problem)
        else:
            self._outside.append(f"entry {position}: {problem}")

    def failures(self, conn: database.Connection, gone: Gone) -> list[str]:
        """One line for each entry whose rows are not what was appended, the first `FAILURES_MAX` of them."""
        for kind, expected in self._expected.items():
            found = self._found.get(kind, np.zeros(self._size, np.int64))
            for index in np.flatnonzero(found != expected)[: 10 * FAILURES_MAX]:
                self._explain(conn, kind, self._lo + int(index), int(expected[index]), int(found[index]), gone)
        named = [f"entry {position}: {problem}" for position, problem in sorted(self._problems.items())]
        return (self._outside + named)[:FAILURES_MAX]

    def _explain(
        self, conn: database.Connection, kind: str, position: int, expected: int, found: int, gone: Gone
    ) -> None:
        if kind not in audit_rows.TABLE_OF_KIND:
            self._problem(position, f"{expected} rows of kind {kind}, whose table is not known")
        elif found + len(set(gone(conn, position, position + 1).get(position, ()))) != expected:
            self._problem(position, audit_rows.missing(conn, kind, position, expected, gone))
