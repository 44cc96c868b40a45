"""The ledger and its oracle, driven side by side by hypothesis over a real PostgreSQL, compared after every step.

`make soak-ledger` runs a million steps. A failure prints the steps to replay it and the seed of its block. What its
steps do is in `writing_rules.py` and `rewriting_rules.py`.
"""

from __future__ import annotations

from typing import Any

import histories
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from rewriting_rules import Correcting, Replaying
from side_by_side import SideBySide
from universe import ROWS, STEP, Rows
from writing_rules import Appending, Billing, Deploying

# What a machine that says anything of the ledger must have seen in so many histories.
MANY = 2_000
MUST_HAPPEN = [
    *(f"done: {call}" for call in ("append_batch", "outcomes_append", "register", "calibrate", "deploy", "roll_back")),
    *(f"done: {call}" for call in ("deploy_canary", "promote", "begin_counter_epoch", "close_period", "abandon")),
    *(f"done: {call}" for call in ("plan", "stage", "compare", "publish", "revert", "correct")),
    *(f"append: {outcome}" for outcome in ("new", "repeat", "conflict", "charge of a closed period")),
    *(f"publish: {kind}" for kind in ("range", "sparse", "again after its revert", "over another", "written off")),
    *(f"revert: {kind}" for kind in ("range", "sparse", "of a write-off", "after the period was closed")),
    "revert: of a charge that was lifted and restored",
    *(f"refused: append_batch {error}" for error in ("RevokedDeployment", "LostCounters")),
    *(f"refused: publish {error}" for error in ("StalePlan", "OutdatedRun", "Refused")),
    *(f"refused: correct {error}" for error in ("InvalidInput", "NotFound")),
    *(f"refused: {call}" for call in ("revert Refused", "stage Refused", "close_period Conflict")),
    *(f"crashed {when}" for when in ("before its commit", "after its commit", "once it was answered")),
]


class LedgerMachine(RuleBasedStateMachine, Appending, Deploying, Replaying, Correcting, Billing):
    """Every rule does one thing to both and compares the answers; and all that they hold is compared after it."""

    histories = steps = 0  # run so far, of the class

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        SideBySide.__init__(self)

    def teardown(self) -> None:
        self.everything_holds_at_the_end()
        type(self).histories += 1

    @invariant()
    def ledger_and_oracle_agree(self) -> None:
        self.everything_holds()

    @initialize(rows=ROWS)
    def a_model_is_live_and_has_decided(self, rows: Rows) -> None:
        for model, content in enumerate((b"stable", b"new"), 1):
            self._register(content)
            self._calibrate(model)
        self._deploy([1])
        self.append_a_batch(rows)

    @rule(step=STEP)
    def do(self, step: tuple[Any, ...]) -> None:
        type(self).steps += 1
        name, *arguments = step
        self._count(f"step: {name}")
        getattr(self, name)(*arguments)

    def close_and_revert(self, month: int, pick: int) -> None:
        """What was published in an open period is taken back in a closed one."""
        self.close_a_period(month)
        self.revert_a_run(pick)

    def lift_and_take_back(self, lo: int, verdicts: str, others: str, month: int) -> None:
        """A charge back that a later layer lifts; both are taken back, perhaps once the period is closed."""
        self.replay_and_publish(lo, verdicts.replace("i", "v"))
        self.replay_and_publish(lo, others.replace("v", "u"))
        self.close_a_period(1 + month % 2)
        for _ in range(2):
            self.revert_a_run(0)

    def carry_what_is_replaced(self, lo: int, hi: int, verdicts: str, carried: set[int], others: str) -> None:
        """A run that carries decisions, of which another takes some over before it is compared anew."""
        self.replay_up_to_comparison(lo, hi, verdicts, carried)
        if not self.oracle.runs:
            return
        run_id = max(self.oracle.runs)
        self.replay_and_publish(1, others)
        self._compare(run_id)
        self._publish(run_id)

    def crash_in(self, step: tuple[Any, ...], call: int, at: int, moment: str) -> None:
        name, *arguments = step
        self.crash, self.calls_before_crash = (at, moment), call
        getattr(self, name)(*arguments)
        self.crash = None


@pytest.mark.timeout(0)
def test_ledger_agrees_with_its_oracle_over_any_history(servers: Any, template_database: str, capsys: Any) -> None:
    goal = histories.goal_of_environment()

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}", flush=True)

    say(f"seed {goal.seed}")
    ran = histories.run(goal, servers.database_url, template_database, say)
    assert ran.histories >= goal.histories and ran.steps >= goal.steps
    say(f"{ran.histories} histories, {ran.steps} steps")
    say("\n".join(f"{count:8} {what}" for what, count in sorted(ran.counts.items())))
    if ran.histories >= MANY:
        assert [what for what in MUST_HAPPEN if not ran.counts[what]] == []
