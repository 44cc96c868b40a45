"""The counting order: every number a counted click got, used once, none missing among those that were appended.

A click that was counted and that the database then refused is in no batch: an entry says which number was its own. What
was counted and not appended when counters were lost, or given up for others, is counted again under other numbers: the
entry that began the next counter epoch says from which number on.

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
# Kind of the entry that begins a counter epoch, and says what was kept of the one before.
RESTORED = "counters_restored"
# In flight when counters were lost: counted, and followed by a number that was appended only some minutes before.
IN_FLIGHT = "SELECT count(*) FROM log WHERE position = %s AND recorded_at >= %s::timestamptz - interval '10 minutes'"
SETTLED = "SELECT count(*) FROM log WHERE position = %s AND recorded_at < %s::timestamptz - interval '1 minute'"


class Gap(NamedTuple):
    """Numbers missing within a counter epoch: those between `before` and `after`, which two entries hold."""

    before: int
    after: int
    position_before: int
    position_after: int
    epoch: int


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


def faults(runs: Runs) -> tuple[list[str], list[Gap]]:
    """Numbers used twice, in words, and gaps within an epoch."""
    reached = np.maximum.accumulate(runs.last)[:-1]
    again = np.flatnonzero(runs.first[1:] <= reached) + 1
    twice = [
        f"entry {runs.first_position[i]}: seq {runs.first[i]} is used by entry {runs.last_position[i - 1]} as well"
        for i in again[:FAILURES_MAX]
    ]
    gaps = np.flatnonzero((runs.first[1:] > reached + 1) & (runs.epoch[1:] == runs.epoch[:-1])) + 1
    return twice, [
        Gap(
            int(runs.last[i - 1]), int(runs.first[i]), int(runs.last_position[i - 1]), int(runs.first_position[i]),
            int(runs.epoch[i]),
        )
        for i in gaps
    ]  # fmt: skip


def missing(conn: database.Connection, gaps: list[Gap], at: str, gone: Gone) -> tuple[list[str], list[str]]:
    """The gaps that are faults: the click before one was appended a minute before `at`, and nothing explains it; notes.

    What explains one: lines that are gone there, clicks that the log says were refused, and numbers whose clicks were
    about to be appended when their counters were lost, of which a note tells.
    """
    failures: list[str] = []
    notes: list[str] = []
    rejected, lost_from = (_rejected(conn), _lost_from(conn)) if gaps else ([], {})
    for gap in gaps:
        if len(failures) == FAILURES_MAX:
            break
        settled = conn.execute(SETTLED, (gap.position_before, at)).fetchone()
        if not settled or not settled[0]:
            continue
        lo, hi = sorted((gap.position_before, gap.position_after))
        wanted = gap.after - gap.before - 1
        wanted -= sum(map(len, gone(conn, lo, hi + 1).values()))
        wanted -= bisect_left(rejected, gap.after) - bisect_left(rejected, gap.before + 1)
        lost = _lost_in(conn, gap, lost_from.get(gap.epoch))
        if wanted > lost:
            told = f"expected seq {gap.before + 1} next to {gap.before}, got {gap.after}"
            failures.append(f"entry {gap.position_before}: {told}")
        elif wanted > 0 and len(notes) < FAILURES_MAX:
            notes.append(
                f"entry {gap.position_before}: seq {gap.before + 1} to {gap.after - 1} were lost with the counters of "
                f"epoch {gap.epoch} before their clicks were appended"
            )
    return failures, notes


def _lost_in(conn: database.Connection, gap: Gap, lost: tuple[int, str] | None) -> int:
    """How many numbers of a gap were in flight when the counters of its epoch were lost."""
    if lost is None:
        return 0
    first, at = lost
    near = conn.execute(IN_FLIGHT, (gap.position_after, at)).fetchone()
    return max(0, gap.after - max(gap.before + 1, first)) if near and near[0] else 0


def _lost_from(conn: database.Connection) -> dict[int, tuple[int, str]]:
    """By counter epoch that has ended, the first number that nobody remembers, and when the next epoch began."""
    found = {}
    for entry in log.read(conn, kinds=[RESTORED], limit=log.NO_LIMIT):
        kept = entry.payload.get("kept") if entry.payload.get("kept_used") else None
        first = int(kept.get("seq", 0)) + 1 if kept else 0
        found[int(entry.payload["counter_epoch"]) - 1] = first, entry.recorded_at.isoformat()
    return found


def _rejected(conn: database.Connection) -> list[int]:
    """The numbers of counted clicks that the log says were refused, in order, each once."""
    entries = log.read(conn, kinds=[REJECTED], limit=log.NO_LIMIT)
    return sorted({int(click["seq"]) for entry in entries for click in entry.payload["clicks"]})
