"""Clicks, decisions and outcomes against the leaves of their entries: each row hashed again and compared in its place.

Invariants:
- a row counts as found only at a (position, line) that its entry has, once, and with the entry's leaf for that line;
- the slices of the plan cover every click id and its ranges every position, whatever partitions there are;
- memory is bounded by the rows of one range, about `ROWS_PER_TASK`, and of one entry.

A day's rows are read by ranges of positions, clicks first and decisions after them, and joined here: sorted by nobody.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clickledger.ledger import audit_counting, canonical, copied_rows, database, departed, partitions

ROWS_PER_TASK = 65_536
SAMPLED_SHARE = 0.01
SAMPLE_FROM_BYTES = 16 << 20  # below that much a day is one task, whatever is in it
FAILURES_MAX = 20  # of one check
FAILURES_MAX_OF_TASK = 200  # several of one entry make one line

Counts = tuple[NDArray[np.int64], NDArray[np.int64]]  # positions, and how many of their lines were found

SELECT_BOUNDS = """
    SELECT pg_get_expr(c.relpartbound, c.oid), pg_table_size(c.oid) FROM pg_inherits i
    JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = ANY (ARRAY['clicks', 'decisions']::regclass[])"""
SELECT_SAMPLE = """
    SELECT log_position FROM decisions TABLESAMPLE SYSTEM ({percent}) REPEATABLE (0)
    WHERE {where} ORDER BY log_position"""
# Both begin so that the join's key, (log_position, click_id), is one slice of the row.
SELECT_CLICKS = f"SELECT log_position, {', '.join(canonical.CLICK_COLUMNS)} FROM clicks WHERE {{where}}"
SELECT_DECISIONS = f"SELECT line, log_position, {', '.join(canonical.DECISION_COLUMNS)} FROM decisions WHERE {{where}}"
SELECT_OUTCOMES = f"SELECT line, log_position, {', '.join(canonical.OUTCOME_COLUMNS)} FROM outcomes WHERE {{where}}"
SELECT_OUTCOME_ENTRIES = """
    SELECT position, row_count FROM log
    WHERE kind = 'outcomes_recorded' AND position < {hi}{from_} ORDER BY position"""
SELECT_LEAVES = "SELECT position, leaves FROM leaves WHERE {where}"
SELECT_STRAY = """
    SELECT r.log_position, r.click_id FROM {table} r
    WHERE (r.log_position > {head} OR r.log_position < 1 OR r.log_position IS NULL)
      AND NOT EXISTS (SELECT FROM log l WHERE l.position = r.log_position AND l.position > 0) LIMIT {limit}"""
SELECT_STRAY_LEAVES = """
    SELECT r.position FROM leaves r
    WHERE (r.position > {head} OR r.position < 1 OR r.position IS NULL)
      AND NOT EXISTS (SELECT FROM log l WHERE l.position = r.position AND l.position > 0) LIMIT {limit}"""
SELECT_LINES = "SELECT line FROM {table} WHERE log_position = %s"
TABLE_OF_KIND = {"clicks_decided": "decisions", "outcomes_recorded": "outcomes"}

_CLICK_KEY, _DECISION_KEY = slice(2, 34), slice(10, 42)
_CLICK_FROM, _DECISION_FROM = 14, 22
_HEAD = np.dtype([("line_length", ">i4"), ("line", ">i4"), ("position_length", ">i4"), ("position", ">i8")])
_MISSING = bytes(canonical.LEAF_BYTES)


def nothing_gone(_conn: database.Connection, _lo: int, _hi: int) -> Mapping[int, Collection[int]]:
    """Where retention took nothing away."""
    return {}


class Part(NamedTuple):
    """Click ids [low, high) at positions [lo, hi), None = unbounded: what one task reads."""

    low: str | None
    high: str | None
    lo: int | None
    hi: int | None

    @property
    def where(self) -> str:
        """The part as a condition with literals, which prune partitions and which the planner can estimate."""
        bounds = {"click_id >= '{}'": self.low, "click_id < '{}'": self.high}
        positions = {"log_position >= {}": self.lo, "log_position < {}": self.hi}
        terms = [term.format(value) for term, value in (bounds | positions).items() if value is not None]
        return " AND ".join(terms) or "true"


@dataclass
class Rows:
    """What one task found in the rows of a kind of entry."""

    kind: str
    rows: int
    found: Counts
    failures: list[tuple[int, str]] = field(default_factory=list)  # position, what is wrong there
    seqs: audit_counting.Runs | None = None


def parts(conn: database.Connection, lo: int | None, hi: int) -> Iterator[Part]:
    """All clicks of positions [lo, hi), cut by day and then by position into about `ROWS_PER_TASK` each."""
    sizes: dict[str | None, int] = {}
    for bound, size in conn.execute(SELECT_BOUNDS):
        quoted = re.findall(r"\('?([^')]+)'?\)", bound or "")
        edges = [None if edge in {"MINVALUE", "MAXVALUE"} else edge for edge in quoted[:2]]
        sizes[edges[0] if edges else None] = max(size, sizes.get(edges[0] if edges else None, 0))
        for edge in edges:
            sizes.setdefault(edge, 0)
    starts = [None, *sorted(start for start in sizes if start is not None)]
    for low, high in pairwise([*starts, None]):
        part = Part(low, high, lo, hi)
        yield from _cut(conn, part, sizes.get(low, 0))


def _cut(conn: database.Connection, part: Part, size: int) -> list[Part]:
    """The part, cut by position where it is large: at positions of rows that a sample of pages holds."""
    if size < SAMPLE_FROM_BYTES:
        return [part]
    query = SELECT_SAMPLE.format(percent=SAMPLED_SHARE * 100, where=part.where)
    sample = [row[0] for row in conn.execute(query.encode())]
    count = -int(-len(sample) / SAMPLED_SHARE // ROWS_PER_TASK)
    cuts = sorted({sample[len(sample) * i // count] for i in range(1, count)}) if count > 1 else []
    return [part._replace(lo=lo, hi=hi) for lo, hi in pairwise([part.lo, *cuts, part.hi])]


def verify_decided(conn: database.Connection, part: Part, gone: audit_counting.Gone = nothing_gone) -> Rows:
    """The clicks and decisions of a part: each pair is in its place, and none is without the other."""
    result = Rows("clicks_decided", 0, (np.empty(0, np.int64), np.empty(0, np.int64)))
    rows = list(copied_rows.stream(conn, SELECT_CLICKS.format(where=part.where)))
    clicks = {row[_CLICK_KEY]: row for row in rows}
    if len(clicks) != len(rows):
        result.failures += _repeated(rows)
    result.seqs = audit_counting.runs_of(rows)
    decisions = list(copied_rows.stream(conn, SELECT_DECISIONS.format(where=part.where)))
    result.rows = len(decisions)
    leaves = _leaves_of_pairs(clicks, decisions)
    result.failures += [(_position(key[4:12]), f"click {_uuid(key[16:])} has no decision") for key in clicks]
    widowed = [row for row, leaf in zip(decisions, leaves, strict=True) if leaf is _MISSING]
    if widowed and (left := _left_behind(conn, widowed, gone)):
        pairs = [pair for pair in zip(decisions, leaves, strict=True) if pair[0] not in left]
        decisions, leaves = [row for row, _ in pairs], [leaf for _, leaf in pairs]
        widowed = [row for row in widowed if row not in left]
    result.failures += [
        (
            _position(row[14:22]),
            f"the decision at line {_position(row[6:10])} of click {_uuid(row[26:42])} has no click",
        )
        for row in widowed
    ]
    _place(conn, result, decisions, leaves, gone)
    result.failures = sorted(result.failures)[:FAILURES_MAX_OF_TASK]
    return result


def _left_behind(conn: database.Connection, widowed: list[bytes], gone: audit_counting.Gone) -> set[bytes]:
    """Decisions whose clicks retention took away already; that their day left by halves is another check's finding.

    Only of such a day: a line that is gone excuses no decision of another day, or of one that left as a whole.
    """
    halves = {(day - partitions.EPOCH).days for day in departed.left_without_decisions(conn)}
    suspects = [row for row in widowed if partitions.day_of(row[26:42]) in halves]
    if not suspects:
        return set()
    places = [(_position(row[14:22]), _position(row[6:10])) for row in suspects]
    lines = gone(conn, min(places)[0], max(places)[0] + 1)
    return {row for row, (position, line) in zip(suspects, places, strict=True) if line in lines.get(position, ())}


def _leaves_of_pairs(clicks: dict[bytes, bytes], decisions: list[bytes]) -> list[bytes]:
    """The leaf of each decision with its click, which is taken out of `clicks`; `_MISSING` where it is not there."""
    prefix = hashlib.sha256(canonical.DECIDED_CLICK_DOMAIN)
    copy, take = prefix.copy, clicks.pop
    leaves = []
    for row in decisions:
        click = take(row[_DECISION_KEY], None)
        if click is None:
            leaves.append(_MISSING)
            continue
        leaf = copy()
        leaf.update(click[_CLICK_FROM:] + row[_DECISION_FROM:])
        leaves.append(leaf.digest())
    return leaves


def outcome_parts(conn: database.Connection, lo: int | None, hi: int) -> Iterator[Part]:
    """All outcomes of positions [lo, hi), cut by position, after the entry with which `ROWS_PER_TASK` are together."""
    rows, from_ = 0, "" if lo is None else f" AND position >= {lo}"
    for position, count in conn.execute(SELECT_OUTCOME_ENTRIES.format(hi=hi, from_=from_).encode()).fetchall():
        rows += count
        if rows >= ROWS_PER_TASK and position + 1 < hi:
            yield Part(None, None, lo, position + 1)
            lo, rows = position + 1, 0
    yield Part(None, None, lo, hi)


def verify_outcomes(conn: database.Connection, part: Part, gone: audit_counting.Gone = nothing_gone) -> Rows:
    """The outcomes of a part, which is one of positions."""
    result = Rows("outcomes_recorded", 0, (np.empty(0, np.int64), np.empty(0, np.int64)))
    rows = list(copied_rows.stream(conn, SELECT_OUTCOMES.format(where=part.where)))
    result.rows = len(rows)
    hashed = canonical.leaves(canonical.OUTCOME_DOMAIN, (row[_DECISION_FROM:] for row in rows))
    size = canonical.LEAF_BYTES
    _place(conn, result, rows, [hashed[i : i + size] for i in range(0, len(hashed), size)], gone)
    return result


def _place(
    conn: database.Connection, result: Rows, rows: list[bytes], leaves: list[bytes], gone: audit_counting.Gone
) -> None:
    """Compare each row's leaf with what its entry has for its line; rows begin with (line, log_position)."""
    if not rows:
        return
    heads = np.frombuffer(b"".join([row[2:22] for row in rows]), _HEAD)
    if np.any(heads["line_length"] != 4) or np.any(heads["position_length"] != 8):
        result.failures.append((0, f"a row of {TABLE_OF_KIND[result.kind]} has no position or no line"))
        return
    positions, lines = heads["position"].astype(np.int64), heads["line"].astype(np.int64)
    order = np.lexsort((lines, positions))
    positions, lines = positions[order], lines[order]
    leaves = [leaves[i] for i in order]
    found, starts, counts = np.unique(positions, return_index=True, return_counts=True)
    spans = {int(p): (int(s), int(s + n)) for p, s, n in zip(found, starts, counts, strict=True)}
    present = np.zeros(len(found), np.int64)
    index = {int(p): i for i, p in enumerate(found)}
    # Whether an entry's lines are 0, 1, 2 ... none left out and none twice, which the sorted leaves alone do not show.
    in_order = np.logical_and.reduceat(lines == np.arange(len(lines)) - np.repeat(starts, counts), starts)
    missing_lines = gone(conn, int(found[0]), int(found[-1]) + 1)
    for position, stored in _stored(conn, found):
        start, end = spans.pop(position, (0, 0))
        if in_order[index[position]] and stored[: (end - start) * 32] == b"".join(leaves[start:end]):
            present[index[position]] = end - start  # as a rule all of the entry's
            taken: list[str] = []
        else:
            present[index[position]], taken = _compare(lines[start:end], leaves[start:end], stored)
        if back := set(missing_lines.get(position, ())).intersection(map(int, lines[start:end])):
            taken.append(f"line {min(back)} is there, though retention took it away")
        result.failures += [(position, problem) for problem in taken[:FAILURES_MAX]]
    result.failures += [(position, "rows at this position, whose entry has none") for position in spans]
    result.found = found, present


def _stored(conn: database.Connection, positions: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
    """The leaves of the given positions (ascending), one entry at a time."""
    if not len(positions):
        return
    first, last = int(positions[0]), int(positions[-1])
    where = f"position >= {first} AND position <= {last}"
    if last - first >= 2 * len(positions):
        where = f"position = ANY ('{{{','.join(map(str, positions))}}}')"
    wanted, seen = set(positions.tolist()), set()
    for row in copied_rows.stream(conn, SELECT_LEAVES.format(where=where)):
        position = _position(row[6:14])
        if position in wanted and position not in seen:  # twice is the chain's to say
            seen.add(position)
            yield position, row[18:]


def _compare(lines: NDArray[np.int64], leaves: list[bytes], stored: bytes) -> tuple[int, list[str]]:
    """How many of an entry's lines are there, and what is wrong with the rows that are, ascending by line."""
    size, row_count = canonical.LEAF_BYTES, len(stored) // canonical.LEAF_BYTES
    present: set[int] = set()
    problems = []
    for line, leaf in zip(map(int, lines), leaves, strict=True):
        if not 0 <= line < row_count:
            problems.append(f"a row at line {line}, beyond its {row_count} rows")
            continue
        if line in present:
            problems.append(f"more than one row at line {line}")
        present.add(line)
        if leaf is not _MISSING and leaf != stored[line * size : (line + 1) * size]:
            problems.append(f"the row at line {line} is not the one that was appended")
    return len(present), problems


def _repeated(rows: list[bytes]) -> list[tuple[int, str]]:
    seen: set[bytes] = set()
    failures = []
    for row in rows:
        key = row[_CLICK_KEY]
        if key in seen:
            failures.append((_position(key[4:12]), f"click {_uuid(key[16:])} is there more than once"))
        seen.add(key)
    return failures


def missing(conn: database.Connection, kind: str, position: int, row_count: int, gone: audit_counting.Gone) -> str:
    """Which lines of an entry have no row, in words."""
    query = SELECT_LINES.format(table=TABLE_OF_KIND[kind])
    found = {row[0] for row in conn.execute(query.encode(), (position,))}
    taken = set(gone(conn, position, position + 1).get(position, ()))
    lost = sorted(set(range(row_count)) - found - taken)
    which = f": line {lost[0]} is missing" if lost else ""
    return f"expected {row_count - len(taken)} rows, got {len(found & set(range(row_count)))}{which}"


def strays(conn: database.Connection, head: int) -> list[str]:
    """Rows and leaves beyond `head` or at no position at all, which no entry has brought."""
    failures = []
    for table in ("clicks", "decisions", "outcomes"):
        query = SELECT_STRAY.format(table=table, head=head, limit=FAILURES_MAX)
        for position, click_id in conn.execute(query.encode()):
            failures.append(f"{table}: click {click_id} at position {position}, which has no entry")
    query = SELECT_STRAY_LEAVES.format(head=head, limit=FAILURES_MAX)
    failures += [f"leaves at position {row[0]}, which has no entry" for row in conn.execute(query.encode())]
    return failures


def _position(raw: bytes) -> int:
    return int.from_bytes(raw, signed=True)


def _uuid(raw: bytes) -> uuid.UUID | str:
    return uuid.UUID(bytes=raw) if len(raw) == 16 else raw.hex()
