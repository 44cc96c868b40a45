"""Whether what several people did at once is what some serial history gives: the oracle's, in the order of the log.

What was written names its call, so the order of those is known. What was refused, or found to be there already, wrote
nothing: it has to be right at one moment between its beginning and its end. A comparison is looked up at one moment and
recorded at another, and says both.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from oracle import Given, Line, Oracle, Refusal
from responders import Call, Seen
from universe import PERIOD_OF

from clickledger.ledger import log

WRITES = {
    "plan": 1, "work": 0, "stage": 1, "correct": 2, "compare": 1, "publish": 1, "revert": 1, "abandon": 1, "append": 1,
    "close_period": 1, "roll_back": 1,
}  # fmt: skip
# What somebody is told who is refused, by call and error: which run, what was expected, what it is.
MESSAGES = {
    ("plan", "InvalidInput"): r"positions: expected a range within \[1, \d+\), got \[\d+, \d+\)",
    ("plan", "Refused"): r"positions \[\d+, \d+\) hold no click: nothing to replay",
    ("work", "Conflict"): r"run \d+ takes no more decisions: it is not in status planned",
    ("stage", "Refused"): r"run \d+: expected (status planned, got abandoned|all \d+ chunks done, \d+ are not)",
    ("correct", "InvalidInput"): r"corrections: expected at least one, got none|click \S+: expected once, got it twice",
    ("correct", "NotFound"): r"click \S+( \(and \d+ more\))?: expected one that was recorded, got an unknown id",
    ("compare", "Refused"): r"run \d+: expected status staged, got (planned|abandoned)",
    ("publish", "Refused"): (
        r"run \d+: expected status staged, got (planned|abandoned)|run \d+ is in force already, since position \d+"
        r"|run \d+ was not compared yet"
    ),
    ("publish", "StalePlan"): (
        r"run \d+: expected comparison [0-9a-f]{64}, got [0-9a-f]{64}"
        r"|run \d+ changed the (range|clicks) at position \d+, after position \d+: compare again"
        r"|period 2024-\d\d was closed after position \d+: compare again"
    ),
    ("publish", "OutdatedRun"): (
        r"run \d+ carries decisions that run \d+ has replaced: plan again"
        r"|run \d+ was decided by model \d+, which was rolled back since, at position \d+: "
        r"plan again, (as by clickledger replay retry \d+ --reprocess all|through another model)"
    ),
    ("revert", "Refused"): (
        r"run \d+ is not in force: nothing to revert"
        r"|run \d+, published at \d+, lies on top of run \d+: correct it by a new run"
    ),
    ("revert", "Conflict"): (
        r"run \d+: expected the publication that was looked at in force, got that of position \d+ since: look again"
    ),
    ("abandon", "Refused"): r"run \d+ is published at position \d+: revert it first|run \d+ was abandoned already",
    ("append", "RevokedDeployment"): r".*deployment.*",
    ("close_period", "Conflict"): r"period 2024-\d\d was closed at position \d+",
    ("roll_back", "Refused"): r".*model \d+.*",
}


@dataclass
class Serial:
    """One race: the oracle as it was before it, which it moves on, and what was asked and seen meanwhile."""

    oracle: Oracle
    calls: Sequence[Call]
    entries: Sequence[log.Entry]  # written meanwhile
    seen: Sequence[Seen]
    counts: Counter[str]
    _looked: dict[str, list[Line]] = field(default_factory=dict)  # by comparison
    _revertible: dict[str, list[int | None]] = field(
        default_factory=dict
    )  # what was in force, at one moment after another

    def check(self) -> None:
        """Raises AssertionError where no serial history is the one that was seen."""
        by_label = {call.label: call for call in self.calls}
        order = [by_label[entry.actor] for entry in self.entries]
        self._each_wrote_what_it_says(order)
        self._later_calls_came_later(order)
        unexplained = [call for call in self.calls if not self._wrote(call)]
        for place in range(len(order) + 1):
            unexplained = [call for call in unexplained if not self._is_right_here(call, order, place)]
            self._look()
            if place < len(order):
                self._apply(order[place], order[:place])
            assert self.oracle.head <= self.entries[-1].position if order else True
        assert [(call.label, call.what, call.given, call.error or call.answer) for call in unexplained] == []
        for seen in self.seen:
            self._was_so(seen)

    # --- the order ------------------------------------------------------------------------------------------------

    def _wrote(self, call: Call) -> bool:
        return bool(self._written.get(call.label))

    def _each_wrote_what_it_says(self, order: Sequence[Call]) -> None:
        self._written = Counter(call.label for call in order)
        for call in self.calls:
            self.counts[f"{call.what}: {type(call.error).__name__ if call.error else 'done'}"] += 1
            wanted = 0 if call.error else WRITES[call.what]
            if call.what == "append" and call.error is None:
                wanted = int(call.answer.position is not None)
            assert self._written[call.label] == wanted, call
            if call.error is not None:
                expected = MESSAGES[call.what, type(call.error).__name__]
                assert re.fullmatch(expected, str(call.error)), call

    def _later_calls_came_later(self, order: Sequence[Call]) -> None:
        for place, call in enumerate(order):
            assert not [later.label for later in order[place + 1 :] if later.ended < call.began], call.label

    @staticmethod
    def _may_be_here(call: Call, order: Sequence[Call], place: int) -> bool:
        """Whether its moment can be after the first `place` entries, and before the next."""
        begun = place == 0 or order[place - 1].began <= call.ended
        return begun and (place == len(order) or order[place].ended >= call.began)

    # --- what wrote nothing ---------------------------------------------------------------------------------------

    def _is_right_here(self, call: Call, order: Sequence[Call], place: int) -> bool:
        if not self._may_be_here(call, order, place):
            return False
        if call.given.get("run_id", -1) not in {-1, *self.oracle.runs}:
            return False  # not planned yet
        if place < len(order) and order[place - 1 : place] == [order[place]]:
            return False  # in the midst of what one call wrote at once
        probe = copy.deepcopy(self.oracle)
        if call.what == "work":
            return call.error is None or probe.runs[call.given["run_id"]].status != "planned"
        if call.what == "revert" and type(call.error).__name__ == "Conflict":
            return self._was_published_meanwhile(call)
        try:
            answer = self._in_oracle(probe, call)
        except Refusal as refusal:
            return type(call.error).__name__ == refusal.error
        return call.error is None and call.what == "append" and self._is_answer(call, answer)

    def _was_published_meanwhile(self, call: Call) -> bool:
        """Another publication of its run is in force than at a moment before, or one where there was none."""
        found = self.oracle.in_force(call.given["run_id"])
        moments = self._revertible.setdefault(call.label, [])
        moments.append(found and found.position)
        return found is not None and any(moment != found.position for moment in moments)

    # --- what wrote -----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """What each comparison that was made of this moment saw."""
        for call in self.calls:
            if call.what == "compare" and not call.error and call.answer.compared_at_position == self.oracle.head:
                self._looked[call.label] = self.oracle.look(call.given["run_id"])

    def _apply(self, call: Call, before: Sequence[Call]) -> None:
        if call in before:  # the second entry of one call: a correction is planned and staged at once
            return
        if call.what == "compare":
            self._apply_comparison(call)
            return
        answer = self._in_oracle(self.oracle, call)
        assert self._is_answer(call, answer), (call, answer)

    def _apply_comparison(self, call: Call) -> None:
        run, got, lines = self.oracle.runs[call.given["run_id"]], call.answer, self._looked[call.label]
        if got.compared_at_position < self.oracle.head:
            self.counts["compare: somebody wrote between its look and its entry"] += 1
        self.oracle.record_comparison(run.run_id, got.compared_at_position)
        run.digest = got.digest
        assert got.comparison_id == self.oracle.head
        assert got.summary["flips"] == len(lines)
        assert got.summary["adjustments_micros"] == sum(line.posted for line in lines)
        assert got.summary["write_off_micros"] == sum(line.written_off for line in lines)

    def _in_oracle(self, oracle: Oracle, call: Call) -> Any:
        given = call.given
        does: dict[str, Callable[[], Any]] = {
            "plan": lambda: self._plan(oracle, call),
            "stage": lambda: oracle.stage(given["run_id"]),
            "correct": lambda: oracle.correct(given["stated"]),
            "compare": lambda: oracle.look(given["run_id"]),
            "publish": lambda: oracle.publish(given["run_id"], given["digest"]),
            "revert": lambda: oracle.revert(given["run_id"]),
            "abandon": lambda: oracle.abandon(given["run_id"]),
            "append": lambda: oracle.append(_told(given["rows"]), given["epoch"], oracle.counter_epoch),
            "close_period": lambda: oracle.close_period(given["period"]),
            "roll_back": lambda: oracle.roll_back(given["bad"], given["to"]),
        }
        return does[call.what]()

    @staticmethod
    def _plan(oracle: Oracle, call: Call) -> int:
        """Its decisions are written once it is planned, by whoever planned it, and count when it is staged."""
        run_id = oracle.plan(call.given["lo"], call.given["hi"])
        decided = call.given.get("decided", {})
        manifest = oracle.manifest(call.given["lo"], call.given["hi"])
        oracle.write(run_id, {click: tuple(decided[click]) for click in manifest if click in decided})
        return run_id

    def _is_answer(self, call: Call, expected: Any) -> bool:
        got = call.answer
        if call.what in ("plan", "correct"):
            return bool(got.run_id == expected)
        if call.what in ("publish", "revert"):
            return bool(got.position == self.oracle.head)
        if call.what == "append":
            return bool((got.position, got.outcome) == (expected.position, expected.outcome))
        if call.what == "close_period":
            return bool(got == self.oracle.head)
        if call.what == "roll_back":
            return bool((got.position, got.epoch, got.revoked_epochs) == (self.oracle.head, *expected))
        return True

    # --- what readers saw -----------------------------------------------------------------------------------------

    def _was_so(self, seen: Seen) -> None:
        """All of what stood in the log then, and nothing of what did not."""
        expected = {click: tuple(decided) for click, decided in self.oracle.decisions(seen.head).items()}
        assert (seen.decided, seen.clicks) == (expected, len(expected))
        told = [line for line in self.oracle.feed if line.position <= seen.head]
        sums = sum(line.posted for line in told), sum(line.written_off for line in told)
        assert (seen.posted, seen.written_off) == sums


def _told(rows: Sequence[Any]) -> list[Given]:
    return [Given(r.click_id, r.intake_digest, r.verdict, r.cost_micros, PERIOD_OF[r.click_id]) for r in rows]
