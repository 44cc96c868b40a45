"""What the state machine does that decides anew: replays and sparse corrections, from their plan to their revert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oracle import Line, Run
from replays import Replayed, work_chunk
from side_by_side import SideBySide
from universe import ADVERTISER_OF, CLICKS, COST_OF, CURRENCY_OF, SLICE_OF, VERDICTS

from clickledger.ledger import comparison, publication, runs, sparse


def _totals(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, ...], list[int]]:
    """Totals of a comparison, by advertiser, slice and currency."""
    named = [[row[name] for name in comparison.TOTAL_COLUMNS] for row in rows]
    return {tuple(row[:3]): row[3:] for row in named}


class Runs(SideBySide):
    """What runs of both kinds go through once they are planned."""

    def _a_run(self, pick: int) -> int:
        """One of the last few runs: those the machine has something left to do with."""
        recent = sorted(self.oracle.runs)[-4:]
        return recent[pick % len(recent)]

    def compare_a_run(self, pick: int) -> None:
        if not self.oracle.runs:
            return
        self._compare(self._a_run(pick))

    def _compare(self, run_id: int) -> None:
        def compare() -> comparison.Comparison:
            return comparison.compare(self.conn, run_id, "machine")

        if (answers := self.both(compare, lambda: self.oracle.compare(run_id))) is None:
            return
        got, lines = answers
        run = self.oracle.runs[run_id]
        run.digest = got.digest
        assert _totals(got.totals) == self._expected_totals(run, lines)
        assert got.compared_at_position == run.compared_at
        assert got.summary["flips"] == len(lines)
        assert got.summary["carried"] == sum(carried for _, carried in run.written.values())
        assert got.summary["adjustments_micros"] == sum(line.posted for line in lines)
        assert got.summary["write_off_micros"] == sum(line.written_off for line in lines)
        assert comparison.latest(self.conn, run_id) == got

    def publish_a_run(self, pick: int, confused: bool) -> None:
        if not self.oracle.runs:
            return
        self._publish(self._a_run(pick), confused)

    def _publish(self, run_id: int, confused: bool = False) -> None:
        digest = "00" * 32 if confused else self.oracle.runs[run_id].digest or ""

        def publish() -> publication.Published:
            return publication.publish(self.conn, run_id, digest, "machine", "")

        if answers := self.both(publish, lambda: self.oracle.publish(run_id, digest)):
            assert answers[0].position == self.oracle.head
            self._note("publish")

    def _expected_totals(self, run: Run, lines: Sequence[Line]) -> dict[tuple[str, ...], list[int]]:
        """Clicks, flips to each verdict, carried, money before, posted, written off, after, gross, by their group."""
        groups: dict[tuple[str, ...], list[int]] = {}

        def add(click: bytes, *values: int) -> None:
            group = groups.setdefault((ADVERTISER_OF[click], SLICE_OF[click], CURRENCY_OF[click]), [0] * len(values))
            group[:] = [known + value for known, value in zip(group, values, strict=True)]

        for click in self.oracle.clicks_of(run):
            before, (after, carried) = self.oracle.decided(click).verdict, run.written[click]
            flips = [int(after == verdict != before) for verdict in ("valid", "invalid", "undecided")]
            bills = [COST_OF[click] * (verdict == "valid") for verdict in (before, after)]
            add(click, 1, *flips, carried, bills[0], 0, 0, bills[1], 0)
        for line in lines:
            add(line.click_id, 0, 0, 0, 0, 0, 0, line.posted, line.written_off, 0, abs(line.posted))
        return groups

    def _note(self, what: str) -> None:
        """Count what kind of publication or revert the newest entry was."""
        head, publications = self.oracle.head, self.oracle.publications
        [this] = [p for p in publications if head in (p.position, p.reverted)]
        self._count(f"{what}: {'sparse' if this.run.sparse else 'range'}")
        lines = [line for line in self.oracle.feed if line.position == head]
        if any(line.written_off for line in lines):
            self._count(f"{what}: written off" if what == "publish" else f"{what}: of a write-off")
        if what == "publish" and any(p.run is this.run for p in publications if p is not this):
            self._count("publish: again after its revert")
        below = [p for p in publications if p.position < this.position and p.reverted is None]
        if what == "publish" and any(self.oracle.touch(p.run, this.run) for p in below):
            self._count("publish: over another")
        posted = {line.click_id for line in self.oracle.feed if line.position == this.position and line.posted > 0}
        if what == "revert" and any(line.written_off < 0 and line.click_id in posted for line in lines):
            self._count("revert: of a charge that was lifted and restored")
        closed = {period for period, at in self.oracle.closed.items() if at > this.position}
        if what == "revert" and any(line.period in closed for line in lines):
            self._count("revert: after the period was closed")

    def compare_and_publish(self, pick: int, between: str, month: int) -> None:
        if self.oracle.runs:
            self._compare(self._a_run(pick))
            if between:
                getattr(self, between)(month)
            self._publish(self._a_run(pick))

    def revert_a_run(self, pick: int) -> None:
        if not self.oracle.publications:
            return
        standing = [p for p in self.oracle.publications if p.reverted is None] or self.oracle.publications
        run_id = standing[-1 - pick % min(3, len(standing))].run.run_id

        def revert() -> publication.Published:
            return publication.revert(self.conn, run_id, "machine", "")

        if answers := self.both(revert, lambda: self.oracle.revert(run_id)):
            assert answers[0].position == self.oracle.head
            self._note("revert")

    def abandon_a_run(self, pick: int) -> None:
        if not self.oracle.runs:
            return
        run_id = self._a_run(pick)

        def abandon() -> None:
            runs.abandon(self.conn, run_id, "machine", "")

        self.both(abandon, lambda: self.oracle.abandon(run_id))


class Replaying(Runs):
    """Runs over a range of positions, chunk by chunk."""

    def plan_a_run(self, lo: int, width: int, chunk_rows: int) -> None:
        self._plan(lo % (self.oracle.head + 2), lo % (self.oracle.head + 2) + width, chunk_rows)

    def _plan(self, lo: int, hi: int, chunk_rows: int) -> int | None:
        calibration = len(self.oracle.calibrations)
        of = {"model_version": self.oracle.calibrations[-1], "calibration_version": calibration}

        def plan() -> runs.Run:
            return runs.plan(self.conn, lo, hi, **of, actor="machine", reason="", chunk_rows=chunk_rows)

        if (answers := self.both(plan, lambda: self.oracle.plan(lo, hi))) is None:
            return None
        got, expected = answers
        assert (got.run_id, got.row_count) == (expected, len(self.oracle.manifest(lo, hi)))
        return got.run_id

    def work_one_chunk(self, pick: int, verdicts: str, carried: set[int]) -> None:
        if not self.oracle.runs:
            return
        self._work(self._a_run(pick), verdicts, carried, chunks=1)

    def _work(self, run_id: int, verdicts: str, carried: set[int], chunks: int) -> None:
        if self.oracle.runs[run_id].status != "planned":
            return
        query = """SELECT chunk_no, lower(positions), upper(positions) FROM replay_chunks
                   WHERE run_id = %s AND status = 'todo' ORDER BY chunk_no LIMIT %s"""
        for chunk_no, lo, hi in self.conn.execute(query, (run_id, chunks)).fetchall():
            found = {c: Replayed(VERDICTS[verdicts[CLICKS.index(c)]]) for c in self.oracle.manifest(lo, hi)}
            copied = {CLICKS[number] for number in carried} & found.keys()
            found |= {c: Replayed(self.oracle.decided(c).verdict, carried=True) for c in copied}
            work_chunk(self.conn, run_id, chunk_no, found)
            self.oracle.write(run_id, {click: tuple(row) for click, row in found.items()})

    def stage_a_run(self, pick: int) -> None:
        if not self.oracle.runs:
            return
        self._stage(self._a_run(pick))

    def _stage(self, run_id: int) -> None:
        def stage() -> runs.Run:
            return runs.stage(self.conn, run_id, "machine")

        if answers := self.both(stage, lambda: self.oracle.stage(run_id)):
            assert answers[0].status == "staged"

    def stage_too_early(self, lo: int, verdicts: str) -> None:
        """With one chunk done, be it all or not."""
        run_id = self._plan(lo, self.oracle.head, 2)
        if run_id is not None:
            self._work(run_id, verdicts, set(), chunks=1)
            self._stage(run_id)

    def replay_up_to_comparison(self, lo: int, hi: int, verdicts: str, carried: set[int]) -> None:
        """The usual way in one step, so that histories get far."""
        head = self.oracle.head
        run_id = self._plan(1 + lo % head, 2 + lo % head + hi % (head - lo % head), 3)
        if run_id is not None:
            self._work(run_id, verdicts, carried, chunks=100)
            self._stage(run_id)
            self._compare(run_id)

    def replay_and_publish(self, lo: int, verdicts: str) -> None:
        run_id = self._plan(lo, self.oracle.head, 100)
        if run_id is not None:
            self._work(run_id, verdicts, set(), chunks=100)
            self._stage(run_id)
            self._compare(run_id)
            self._publish(run_id)


class Correcting(Runs):
    """Sparse runs of stated decisions."""

    def plan_corrections(self, picks: Sequence[tuple[int, str]]) -> int | None:
        """As drawn: none, clicks named twice, unknown clicks."""
        return self._correct([(CLICKS[number], VERDICTS[letter]) for number, letter in picks])

    def correct_and_publish(self, picks: Sequence[tuple[int, str]], pick: int) -> None:
        """Clicks that are known, each once: the usual way in one step, so that histories get far."""
        known = sorted(self.oracle.clicks)
        stated = {known[(number + pick) % len(known)]: VERDICTS[letter] for number, letter in picks}
        run_id = self._correct(list(stated.items()))
        if run_id is not None:
            self._compare(run_id)
            self._publish(run_id)

    def _correct(self, stated: list[tuple[bytes, str]]) -> int | None:
        told = [sparse.Correction(click, verdict, "disputed") for click, verdict in stated]

        def correct() -> runs.Run:
            return sparse.plan(self.conn, told, actor="machine", reason="")

        if (answers := self.both(correct, lambda: self.oracle.correct(stated))) is None:
            return None
        got, expected = answers
        assert (got.run_id, got.status, got.row_count) == (expected, "staged", len(stated))
        return got.run_id
