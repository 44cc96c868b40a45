"""People at work on one ledger at once: what each of them asks for, and what they were answered.

They find out what there is to do as people do, by looking; by the time they do it somebody else may have been there.
Every call that writes names its actor by a label of its own, so that the log says in which order they came.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batches import batch
from replays import TODO, Replayed, routing, work_chunk
from universe import CLICKS, VERDICTS, Rows, row_of

from clickledger import errors
from clickledger.ledger import append, billing, comparison, database, deployments, log, publication, runs, sparse

BATCHES = "SELECT position FROM log WHERE kind = 'clicks_decided' ORDER BY position"
KNOWN = "SELECT click_id FROM clicks ORDER BY click_id"
NEWEST_RUNS = "SELECT run_id FROM replay_runs ORDER BY run_id DESC LIMIT 4"
STANDING = "SELECT run_id FROM publications WHERE reverted_position IS NULL ORDER BY position DESC LIMIT 3"
IN_FORCE = "SELECT click_id, verdict::text FROM authoritative_decisions"


@dataclass
class Call:
    """One call, when it began and ended (ticks of one clock), and its answer or the error it was refused with."""

    label: str
    what: str
    given: dict[str, Any]
    began: int
    ended: int = 0
    answer: Any = None
    error: errors.ClickledgerError | None = None


@dataclass
class Responder:
    """Somebody with a connection, the calls they made, and the comparisons they saw of each run."""

    name: str
    conn: database.Connection
    clock: Iterator[int]
    calls: list[Call] = field(default_factory=list)
    _seen: dict[int, str] = field(default_factory=dict)

    def _call(self, what: str, ask: Callable[[str], Any], **given: Any) -> Call:
        call = Call(f"{self.name} {len(self.calls)}", what, given, next(self.clock))
        self.calls.append(call)
        try:
            call.answer = ask(call.label)
        except errors.ClickledgerError as error:
            call.error = error
        call.ended = next(self.clock)
        return call

    def _a_run(self, pick: int) -> int | None:
        found = [run_id for (run_id,) in self.conn.execute(NEWEST_RUNS)]
        return found[pick % len(found)] if found else None

    # --- correcting -----------------------------------------------------------------------------------------------

    def replay(self, lo: int, hi: int, verdicts: str, carried: set[int]) -> int | None:
        """Plan a range, decide its clicks, stage; a run up to its comparison, or None where it was refused."""
        lo, hi = self._range(lo, hi)
        version, of = self.conn.execute("SELECT calibration_version, model_version FROM calibrations").fetchall()[-1]

        def plan(actor: str) -> runs.Run:
            versions = {"model_version": of, "calibration_version": version}
            return runs.plan(self.conn, lo, hi, **versions, actor=actor, reason="", chunk_rows=3)

        if (planned := self._call("plan", plan, lo=lo, hi=hi)).error is not None:
            return None
        run_id = int(planned.answer.run_id)
        in_force = {click.bytes: verdict for click, verdict in self.conn.execute(IN_FORCE)}
        decided = {click: Replayed(VERDICTS[letter]) for click, letter in zip(CLICKS, verdicts, strict=True)}
        copied = {CLICKS[number] for number in carried} & in_force.keys()
        decided |= {click: Replayed(in_force[click], carried=True) for click in copied}
        planned.given["decided"] = decided
        self._call("work", lambda _: self._work(run_id, decided), run_id=run_id)
        self._call("stage", lambda actor: runs.stage(self.conn, run_id, actor), run_id=run_id)
        return run_id

    def _range(self, lo: int, hi: int) -> tuple[int, int]:
        """From one batch to another, mostly; some hold no click, and some are not below the head."""
        if lo % 11 == 10:
            return lo, lo + hi % 5
        found = [position for (position,) in self.conn.execute(BATCHES)]
        first, last = sorted((found[lo % len(found)], found[hi % len(found)]))
        return first, last + 1

    def _work(self, run_id: int, decided: Mapping[bytes, Replayed]) -> None:
        for (chunk_no,) in self.conn.execute(TODO, (run_id,)).fetchall():
            work_chunk(self.conn, run_id, chunk_no, decided)

    def correct(self, picks: Sequence[tuple[int, str]]) -> int | None:
        """Clicks that are known, each once; one time in five as they are drawn."""
        stated = [(CLICKS[number], VERDICTS[letter]) for number, letter in picks]
        if picks and picks[0][0] % 5 < 4:
            known = [click.bytes for (click,) in self.conn.execute(KNOWN)]
            stated = list({known[number % len(known)]: VERDICTS[letter] for number, letter in picks}.items())
        told = [sparse.Correction(click, verdict, "disputed") for click, verdict in stated]

        def plan(actor: str) -> runs.Run:
            return sparse.plan(self.conn, told, actor=actor, reason="")

        call = self._call("correct", plan, stated=stated)
        return None if call.error else int(call.answer.run_id)

    def compare(self, run_id: int) -> None:
        call = self._call("compare", lambda actor: comparison.compare(self.conn, run_id, actor), run_id=run_id)
        if call.error is None:
            self._seen[run_id] = call.answer.digest

    def publish(self, run_id: int) -> None:
        """By the comparison they saw, else by the newest there is."""
        if (digest := self._seen.get(run_id)) is None:
            try:
                digest = comparison.latest(self.conn, run_id).digest
            except errors.NotFound:
                digest = "00" * 32
        given = {"run_id": run_id, "digest": digest}
        self._call("publish", lambda actor: publication.publish(self.conn, run_id, digest, actor, ""), **given)

    def replay_and_publish(self, lo: int, hi: int, verdicts: str, carried: set[int]) -> None:
        if (run_id := self.replay(lo, hi, verdicts, carried)) is not None:
            self.compare(run_id)
            self.publish(run_id)

    def correct_and_publish(self, picks: Sequence[tuple[int, str]]) -> None:
        if (run_id := self.correct(picks)) is not None:
            self.compare(run_id)
            self.publish(run_id)

    def compare_a_run(self, pick: int) -> None:
        if (run_id := self._a_run(pick)) is not None:
            self.compare(run_id)

    def publish_a_run(self, pick: int) -> None:
        if (run_id := self._a_run(pick)) is not None:
            self.publish(run_id)

    def compare_and_publish(self, pick: int) -> None:
        if (run_id := self._a_run(pick)) is not None:
            self.compare(run_id)
            self.publish(run_id)

    def revert_a_run(self, pick: int) -> None:
        standing = [run_id for (run_id,) in self.conn.execute(STANDING)]
        self._revert(standing[pick % len(standing)] if standing else self._a_run(pick))

    def revert_whatever_run(self, pick: int) -> None:
        """Of one that may not be in force, or not yet."""
        self._revert(self._a_run(pick))

    def _revert(self, run_id: int | None) -> None:
        if run_id is not None:
            self._call("revert", lambda actor: publication.revert(self.conn, run_id, actor, ""), run_id=run_id)

    def abandon_a_run(self, pick: int) -> None:
        if (run_id := self._a_run(pick)) is not None:
            self._call("abandon", lambda actor: runs.abandon(self.conn, run_id, actor, ""), run_id=run_id)

    # --- life beside it -------------------------------------------------------------------------------------------

    def append(self, rows: Rows) -> None:
        """Clicks decided under the epoch in force as they see it; each id with one content, so none is a conflict."""
        given = [row_of(number, "first", letter) for number, _, letter in rows]
        epoch = deployments.current(self.conn).epoch
        batched = batch(given, epoch, deployments.current_counter_epoch(self.conn))
        self._call("append", lambda actor: append.append(self.conn, batched, actor=actor), rows=given, epoch=epoch)

    def close_a_period(self, month: int) -> None:
        period = f"2024-{month:02d}"
        self._call("close_period", lambda actor: billing.close_period(self.conn, period, actor), period=period)

    def roll_back(self, pick: int) -> None:
        """From the model that is live, as they see it, to another one."""
        of = dict(self.conn.execute("SELECT calibration_version, model_version FROM calibrations").fetchall())
        bad = min(deployments.models_of(deployments.current(self.conn).routing))
        others = sorted(version for version, model in of.items() if model != bad)
        to = others[pick % len(others)]

        def back(actor: str) -> deployments.RolledBack:
            return deployments.roll_back(self.conn, bad, routing(of[to], to), actor)

        self._call("roll_back", back, bad=bad, to=to)


@dataclass(frozen=True)
class Seen:
    """What somebody saw in one snapshot: the newest entry, who decides each click how, and what billing was told."""

    head: int
    decided: dict[bytes, tuple[str, int | None]]
    clicks: int
    posted: int
    written_off: int


@dataclass
class Reader:
    """Somebody who only looks."""

    conn: database.Connection
    seen: list[Seen] = field(default_factory=list)

    def look(self, times: int) -> None:
        for _ in range(times):
            with database.snapshot(self.conn):
                head = log.head(self.conn).position
                rows = self.conn.execute(
                    "SELECT click_id, verdict::text, run_id FROM authoritative_decisions"
                ).fetchall()
                decided = {click.bytes: (verdict, run_id) for click, verdict, run_id in rows}
                self.seen.append(Seen(head, decided, len(rows), *billing.feed_total(self.conn)))


def clock() -> Iterator[int]:
    """Ticks that grow, whoever asks."""
    return itertools.count(1)
