"""The ledger once more: in memory, slow and obvious, sharing no code with it.

Every question is answered from scratch out of a few lists and dicts. What the ledger must refuse is raised as `Refusal`
with the name of the error it must be refused with.

Money of one click: it becomes valid in an open period, its cost posts; in a closed one, its cost is written off. It
stops being valid: what was posted is credited, what was written off is taken off the write-offs, never anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Refusal(Exception):
    """The ledger must refuse this, with the error of this name."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


class Given(NamedTuple):
    """One row handed to an append."""

    click_id: bytes
    digest: bytes
    verdict: str
    cost: int
    period: str


class Known(NamedTuple):
    """One click as first recorded."""

    given: Given
    position: int
    line: int
    epoch: int


class Answer(NamedTuple):
    """What an append must answer; `position` is None when nothing was new."""

    position: int | None
    outcome: list[str]


class Line(NamedTuple):
    """One line of the billing feed; `late` when its period was closed, so that it posts to another month."""

    position: int
    line: int
    kind: str
    click_id: bytes
    posted: int
    written_off: int
    before: str | None
    after: str
    period: str
    run_id: int | None
    late: bool


@dataclass
class Run:
    """One run over [lo, hi); `written` holds (verdict, carried) by click. A sparse one decides what is written only."""

    run_id: int
    lo: int
    hi: int
    status: str = "planned"
    written: dict[bytes, tuple[str, bool]] = field(default_factory=dict)
    digest: str | None = None
    compared_at: int = 0
    sparse: bool = False
    model: int = 0

    def decides(self, click: bytes, log_position: int) -> bool:
        return self.lo <= log_position < self.hi and (click in self.written or not self.sparse)


@dataclass
class Publication:
    """One layer over live; `flipped` lists (click, before, after) in feed order."""

    position: int
    run: Run
    flipped: list[tuple[bytes, str, str]]
    reverted: int | None = None

    def stands_at(self, position: int) -> bool:
        return self.position <= position and (self.reverted is None or position < self.reverted)

    def changed_after(self, position: int) -> bool:
        return self.position > position or (self.reverted is not None and self.reverted > position)


class Decided(NamedTuple):
    """The authoritative answer for one click."""

    verdict: str
    run_id: int | None


class Oracle:
    """What the ledger must hold after the same calls."""

    def __init__(self) -> None:
        self.kinds = ["ledger_created"]  # of the entries at positions 1, 2, ...
        self.clicks: dict[bytes, Known] = {}
        self.conflicts: set[tuple[bytes, bytes]] = set()
        self.outcomes: dict[tuple[bytes, str, int], int] = {}
        self.models: list[bytes] = []  # artefacts of versions 1, 2, ...
        self.calibrations: list[int] = []  # models of versions 1, 2, ...
        self.epochs: list[set[int]] = [set()]  # models of epochs 0, 1, ...
        self.revoked: set[int] = set()
        self.rolled_back: list[tuple[int, int]] = []  # position, model
        self.counter_epoch = 1
        self.runs: dict[int, Run] = {}
        self.publications: list[Publication] = []
        self.closed: dict[str, int] = {}
        self.feed: list[Line] = []

    @property
    def head(self) -> int:
        return len(self.kinds)

    def _enter(self, kind: str) -> int:
        self.kinds.append(kind)
        return self.head

    # --- clicks -------------------------------------------------------------------------------------------------

    def append(self, rows: Sequence[Given], epoch: int, counter_epoch: int) -> Answer:
        first: dict[bytes, int] = {}
        for i, row in enumerate(rows):
            if row.click_id not in self.clicks:
                first.setdefault(row.click_id, i)
        if first and (epoch >= len(self.epochs) or epoch in self.revoked):
            raise Refusal("RevokedDeployment")
        if first and counter_epoch != self.counter_epoch:
            raise Refusal("LostCounters")
        position = self._enter("clicks_decided") if first else None
        if position is not None:
            self._record([rows[i] for i in first.values()], position, epoch)
        outcome = [self._outcome(row, i == first.get(row.click_id)) for i, row in enumerate(rows)]
        self._note_conflicts(
            (row.click_id, row.digest) for row, what in zip(rows, outcome, strict=True) if what == "conflict"
        )
        return Answer(position, outcome)

    def _record(self, rows: list[Given], position: int, epoch: int) -> None:
        for line, row in enumerate(sorted(rows, key=lambda row: row.click_id)):
            self.clicks[row.click_id] = Known(row, position, line, epoch)
            if row.verdict == "valid":
                late = row.period in self.closed
                self.feed.append(
                    Line(position, line, "charge", row.click_id, row.cost, 0, None, "valid", row.period, None, late)
                )

    def _outcome(self, row: Given, is_new: bool) -> str:
        if is_new:
            return "new"
        return "repeat" if self.clicks[row.click_id].given.digest == row.digest else "conflict"

    def _note_conflicts(self, found: Iterable[tuple[bytes, bytes]]) -> None:
        if new := set(found) - self.conflicts:
            self.conflicts |= new
            self._enter("conflicts_recorded")

    def record_outcomes(self, rows: Sequence[tuple[bytes, str, int, int]]) -> tuple[int | None, int]:
        """Position and number of the new ones."""
        new = 0
        for click_id, kind, at_ms, value in rows:
            if (click_id, kind, at_ms) not in self.outcomes:
                self.outcomes[click_id, kind, at_ms] = value
                new += 1
        return (self._enter("outcomes_recorded") if new else None), new

    # --- what is live -------------------------------------------------------------------------------------------

    def register(self, artefact: bytes) -> int:
        if artefact not in self.models:
            self.models.append(artefact)
            self._enter("model_registered")
        return self.models.index(artefact) + 1

    def calibrate(self, model: int) -> int:
        if not 1 <= model <= len(self.models):
            raise Refusal("NotFound")
        self.calibrations.append(model)
        self._enter("calibration_set")
        return len(self.calibrations)

    def deploy(self, calibrations: Sequence[int]) -> int:
        self.epochs.append({self.calibrations[c - 1] for c in calibrations})
        self._enter("deployment_changed")
        return len(self.epochs) - 1

    def roll_back(self, bad_model: int, calibration: int) -> tuple[int, list[int]]:
        """The new epoch and the epochs revoked."""
        if self.calibrations[calibration - 1] == bad_model or bad_model not in self.epochs[-1]:
            raise Refusal("Refused")
        holding = [e for e, models in enumerate(self.epochs) if bad_model in models and e not in self.revoked]
        self.revoked |= set(holding)
        self.epochs.append({self.calibrations[calibration - 1]})
        self.rolled_back.append((self._enter("rollback_declared"), bad_model))
        return len(self.epochs) - 1, holding

    def lose_counters(self) -> int:
        self.counter_epoch += 1
        self._enter("counters_restored")
        return self.counter_epoch

    # --- runs ---------------------------------------------------------------------------------------------------

    def clicks_of(self, run: Run) -> list[bytes]:
        """The clicks a run decides, in feed order."""
        return [click for click in self.manifest(run.lo, run.hi) if run.decides(click, self.clicks[click].position)]

    def touch(self, one: Run, other: Run) -> bool:
        """Whether publishing one may change who decides a click of the other; ranges may overlap where no click is."""
        if one.sparse or other.sparse:
            return bool(set(self.clicks_of(one)) & set(self.clicks_of(other)))
        return one.lo < other.hi and other.lo < one.hi

    def manifest(self, lo: int, hi: int) -> list[bytes]:
        """Clicks of the log positions [lo, hi), in feed order."""
        found = [known for known in self.clicks.values() if lo <= known.position < hi]
        return [known.given.click_id for known in sorted(found, key=lambda known: (known.position, known.line))]

    def plan(self, lo: int, hi: int) -> int:
        if not 1 <= lo < hi <= self.head + 1:
            raise Refusal("InvalidInput")
        if not self.manifest(lo, hi):
            raise Refusal("Refused")
        run_id = self._enter("replay_planned")
        self.runs[run_id] = Run(run_id, lo, hi, model=self.calibrations[-1])
        return run_id

    def correct(self, stated: Sequence[tuple[bytes, str]]) -> int:
        """Plan and stage a sparse run."""
        clicks = dict(stated)
        if not stated or len(clicks) < len(stated):
            raise Refusal("InvalidInput")
        if not clicks.keys() <= self.clicks.keys():
            raise Refusal("NotFound")
        at = [self.clicks[click].position for click in clicks]
        run_id = self._enter("replay_planned")
        self._enter("replay_staged")
        written = {click: (verdict, False) for click, verdict in clicks.items()}
        self.runs[run_id] = Run(run_id, min(at), max(at) + 1, "staged", written, sparse=True)
        return run_id

    def write(self, run_id: int, rows: dict[bytes, tuple[str, bool]]) -> None:
        self.runs[run_id].written |= rows

    def stage(self, run_id: int) -> None:
        run = self.runs[run_id]
        if run.status == "staged":
            return
        if run.status != "planned" or set(run.written) != set(self.manifest(run.lo, run.hi)):
            raise Refusal("Refused")
        run.status = "staged"
        self._enter("replay_staged")

    def flips(self, run: Run) -> list[tuple[bytes, str, str]]:
        """(click, verdict in force, verdict of the run) wherever they differ."""
        pairs = [(click, self.decided(click).verdict, run.written[click][0]) for click in self.clicks_of(run)]
        return [(click, before, after) for click, before, after in pairs if before != after]

    def compare(self, run_id: int) -> list[Line]:
        """The lines a publication would add to the feed now."""
        lines = self.look(run_id)
        self.record_comparison(run_id, self.head)
        return lines

    def look(self, run_id: int) -> list[Line]:
        """What a comparison sees, which others may write entries after before it is recorded."""
        run = self.runs[run_id]
        if run.status != "staged":
            raise Refusal("Refused")
        return self._lines(0, "adjustment", run.run_id, self.flips(run))

    def record_comparison(self, run_id: int, compared_at: int) -> None:
        self.runs[run_id].compared_at = compared_at
        self._enter("replay_compared")

    def publish(self, run_id: int, digest: str) -> None:
        run = self.runs[run_id]
        if run.status != "staged" or run.digest is None or self.in_force(run_id):
            raise Refusal("Refused")
        if any(position > run_id and model == run.model for position, model in self.rolled_back):
            raise Refusal("OutdatedRun")
        over = [p for p in self.publications if self.touch(p.run, run)]
        if digest != run.digest or any(p.changed_after(run.compared_at) for p in over):
            raise Refusal("StalePlan")
        if any(position > run.compared_at for position in self.closed.values()):
            raise Refusal("StalePlan")
        carries = any(carried for _, carried in run.written.values())
        if carries and any(p.changed_after(run_id) for p in over if p.run is not run):
            raise Refusal("OutdatedRun")
        flipped = self.flips(run)
        position = self._enter("replay_published")
        self.feed += self._lines(position, "adjustment", run_id, flipped)
        self.publications.append(Publication(position, run, flipped))

    def in_force(self, run_id: int) -> Publication | None:
        return next((p for p in self.publications if p.run.run_id == run_id and p.reverted is None), None)

    def revert(self, run_id: int) -> None:
        publication = self.in_force(run_id)
        if publication is None:
            raise Refusal("Refused")
        above = [p for p in self.publications if p.position > publication.position and p.reverted is None]
        if any(self.touch(p.run, publication.run) for p in above):
            raise Refusal("Refused")
        publication.reverted = self._enter("replay_reverted")
        back = [(click, after, before) for click, before, after in publication.flipped]
        self.feed += self._lines(publication.reverted, "reversal", run_id, back)

    def abandon(self, run_id: int) -> None:
        if self.in_force(run_id) or self.runs[run_id].status == "abandoned":
            raise Refusal("Refused")
        self.runs[run_id].status = "abandoned"
        self._enter("replay_abandoned")

    # --- money --------------------------------------------------------------------------------------------------

    def close_period(self, period: str) -> None:
        if period in self.closed:
            raise Refusal("Conflict")
        self.closed[period] = self._enter("period_closed")

    def _lines(self, position: int, kind: str, run_id: int, flipped: list[tuple[bytes, str, str]]) -> list[Line]:
        lines = []
        for line, (click, before, after) in enumerate(flipped):
            given = self.clicks[click].given
            posted = written_off = 0
            if after == "valid" and given.period in self.closed:
                written_off = given.cost
            elif after == "valid":
                posted = given.cost
            elif before == "valid":
                posted, written_off = (-amount for amount in self.outstanding(click))
            late = given.period in self.closed
            lines.append(
                Line(position, line, kind, click, posted, written_off, before, after, given.period, run_id, late)
            )
        return lines

    def outstanding(self, click: bytes) -> tuple[int, int]:
        """(posted, written off) of one click so far, micros."""
        lines = [line for line in self.feed if line.click_id == click]
        return sum(line.posted for line in lines), sum(line.written_off for line in lines)

    def billed(self) -> int:
        """Cost of the clicks that are valid by the decision in force, micros."""
        return sum(k.given.cost for click, k in self.clicks.items() if self.decided(click).verdict == "valid")

    # --- who decides --------------------------------------------------------------------------------------------

    def decider(self, log_position: int, as_of: int) -> int | None:
        """The run that decides a position of the log as of another, but for the clicks of sparse runs; None is live."""
        for publication in reversed(self.publications):
            run = publication.run
            if publication.stands_at(as_of) and run.lo <= log_position < run.hi and not run.sparse:
                return run.run_id
        return None

    def decided(self, click: bytes, as_of: int | None = None) -> Decided:
        """The authoritative decision of a known click."""
        known = self.clicks[click]
        at = self.head if as_of is None else as_of
        for publication in reversed(self.publications):
            if publication.stands_at(at) and publication.run.decides(click, known.position):
                return Decided(publication.run.written[click][0], publication.run.run_id)
        return Decided(known.given.verdict, None)

    def decisions(self, as_of: int | None = None) -> dict[bytes, Decided]:
        """The authoritative decision of every click known at a position."""
        bound = self.head if as_of is None else as_of
        return {click: self.decided(click, bound) for click, known in self.clicks.items() if known.position <= bound}
