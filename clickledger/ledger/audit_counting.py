"""The counting order: every number a counted click got, used once, none missing among those that were appended.

A click that was counted and that the database then refused is in no batch: an entry says which number was its own.

A task's numbers come as runs, [first, last] without a gap, since they are nearly in order: few, however many clicks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clickledger.ledger import database, log

FAILURES_MAX = 20
REJECTED = "clicks_rejected"  # kind of the entry that names counted clicks which were refused, and their numbers
# Lines that retention has taken away, by the position of their entry, for positions [lo, hi).
Gone = Callable[[database.Connection, int, int], Mapping[int, Collection[int]]]
# Where a copied click (`audit_rows.SELECT_CLICKS`) has its position, and from its seq on to its counter epoch.
_POSITION, _COUNTED = slice(6, 14), slice(110, 170)
_COUNTING = np.dtype(
    {"names": ["seq", "epoch"], "formats": [">i8", ">i4"], "offsets": [0, 56], "itemsize": 60}
)  # between them lie intake_digest and feature_schema
SETTLED = "SELECT count(*) FROM log WHERE position = %s AND recorded_at < %s::timestamptz - interval '1 minute'"


class Runs(NamedTuple):
    """n runs of numbers: the first and last number of each, their counter epoch, the entries of first and last."""

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    epoch: NDArray[np.int64]
    first_position: NDArray[np.int64]
    last_position: NDArray[np.int64]


def runs_of(clicks: list[bytes]) -> Runs:
    """The runs of copied clicks; those that were not counted (seq 0) have none."""
    counted = np.frombuffer(b"".join([row[_COUNTED].ljust(60) for row in clicks]), _COUNTING)
    positions = np.frombuffer(b"".join([row[_POSITION] for row in clicks]), ">i8").astype(np.int64)
    seq, epoch = counted["seq"].astype(np.int64), counted["epoch"].astype(np.int64)
    order = np.argsort(seq, kind="stable")
    order = order[seq[order] > 0]
    seq, epoch, positions = seq[order], epoch[order], positions[order]
    breaks = np.flatnonzero((np.diff(seq) != 1) | (np.diff(epoch) != 0))
    firsts = np.concatenate([[0], breaks + 1])[: len(seq)].astype(np.intp)
    lasts = np.concatenate([breaks, [len(seq) - 1]])[: len(firsts)].astype(np.intp)
    return Runs(seq[firsts], seq[lasts], epoch[firsts], positions[firsts], positions[lasts])


def joined(parts: list[Runs]) -> Runs:
    """The runs of several tasks as one, in order, those that continue each other made one."""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [np.empty(0, np.int64)] * 5
    order = np.lexsort((columns[1], columns[0]))
    first, last, epoch, first_position, last_position = (column[order] for column in columns)
    breaks = np.flatnonzero((first[1:] != last[:-1] + 1) | (epoch[1:] != epoch[:-1]))
    firsts = np.concatenate([[0], breaks + 1])[: len(first)].astype(np.intp)
    lasts = np.concatenate([breaks, [len(first) - 1]])[: len(firsts)].astype(np.intp)
    return Runs(first[firsts], last[lasts], epoch[firsts], first_position[firsts], last_position[lasts])


def faults(runs: Runs) -> tuple[list[str], list[tuple[int, int, int, int]]]:
    """Numbers used twice, in words, and gaps within an epoch: (last before, first after, entry before, entry after)."""
    reached = np.maximum.accumulate(runs.last)[:-1]
    again = np.flatnonzero(runs.first[1:] <= reached) + 1
    twice = [
        f"entry {runs.first_position[i]}: seq {runs.first[i]} is used by entry {runs.last_position[i - 1]} as well"
        for i in again[:FAILURES_MAX]
    ]
    gaps = np.flatnonzero((runs.first[1:] > reached + 1) & (runs.epoch[1:] == runs.epoch[:-1])) + 1
    ends = runs.last, runs.first, runs.last_position, runs.first_position
    return twice, [(int(ends[0][i - 1]), int(ends[1][i]), int(ends[2][i - 1]), int(ends[3][i])) for i in gaps]


def missing(conn: database.Connection, gaps: list[tuple[int, int, int, int]], at: str, gone: Gone) -> list[str]:
    """The gaps that are faults: the click before one was appended a minute before `at`, and nothing explains it.

    What explains one: lines that are gone there, and clicks that the log says were refused.
    """
    failures: list[str] = []
    rejected = _rejected(conn) if gaps else []
    for before, after, position, next_position in gaps:
        if len(failures) == FAILURES_MAX:
            break
        settled = conn.execute(SETTLED, (position, at)).fetchone()
        if not settled or not settled[0]:
            continue
        lo, hi = min(position, next_position), max(position, next_position) + 1
        refused = bisect_left(rejected, after) - bisect_left(rejected, before + 1)
        if sum(map(len, gone(conn, lo, hi).values())) + refused < after - before - 1:
            failures.append(f"entry {position}: expected seq {before + 1} next to {before}, got {after}")
    return failures


def _rejected(conn: database.Connection) -> list[int]:
    """The numbers of counted clicks that the log says were refused, in order, each once."""
    entries = log.read(conn, kinds=[REJECTED], limit=log.NO_LIMIT)
    return sorted({int(click["seq"]) for entry in entries for click in entry.payload["clicks"]})
