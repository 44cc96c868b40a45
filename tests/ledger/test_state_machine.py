"""The ledger and its oracle, driven side by side by hypothesis over a real PostgreSQL, compared after every step.

`make soak-ledger` runs a million steps. A failure prints the steps to replay it and the seed of its block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import faults
import genesis
import histories
import hypothesis
import pytest
from agreement import Agreement
from batches import batch
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from oracle import Given, Refusal
from replays import Replayed, routing, work_chunk
from universe import CLICKS, COST_OF, PERIOD_OF, ROWS, STEP, VERDICTS, Rows, row_of

from clickledger import errors
from clickledger.ledger import (
    append,
    billing,
    comparison,
    deployments,
    log,
    outcomes,
    publication,
    runs,
    sparse,
)


def _raise(error: Exception) -> Any:
    raise error


class LedgerMachine(RuleBasedStateMachine, Agreement):
    """Every rule does one thing to both and compares the answers; and all that they hold is compared after it."""

    ledger: genesis.Ledger
    histories = steps = 0  # run so far, of the class
    exchanges, crashed_at = 0, -1  # of the last call with a fault

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        Agreement.__init__(self, self.ledger.set_back())
        self.crash: tuple[int, bool] | None = (
            None  # in the next call: at which exchange, and whether it is done by then
        )

    def teardown(self) -> None:
        self.everything_holds_at_the_end()
        type(self).histories += 1

    @invariant()
    def ledger_and_oracle_agree(self) -> None:
        self.everything_holds()

    def both(self, ledger: Callable[[], Any], oracle: Callable[[], Any]) -> tuple[Any, Any] | None:
        """Do it in both; None when both refused it for the same reason."""
        call = ledger
        if self.crash is not None:
            (at, moment), self.crash = self.crash, None
            call = self._crash_in(ledger, oracle, at, moment)
        try:
            expected = oracle()
        except Refusal as refusal:
            self._count(f"refused: {ledger.__name__} {refusal.error}")
            try:
                got = call()
            except errors.ClickledgerError as error:
                assert type(error).__name__ == refusal.error, error
                return None
            raise AssertionError(f"expected {refusal.error}, got {got}") from refusal
        got = call()
        self._count(f"done: {ledger.__name__}")
        return got, expected

    def _crash_in(
        self, ledger: Callable[[], Any], oracle: Callable[[], Any], at: int, moment: str
    ) -> Callable[[], Any]:
        """End the server process in the middle of a call: all of it, or nothing, has then happened.

        What to call next: the same again, which tells the caller; or what gives the answer, if the call was over first.
        """
        try:
            answer = self._with_a_fault(ledger, at, moment)
        except errors.Unavailable:
            self.conn = self.ledger.reconnect()
        except errors.ClickledgerError as refused:
            return self._over_first(functools.partial(_raise, refused))
        else:
            return self._over_first(lambda: answer)
        head = log.head(self.conn).position
        self._count(f"crashed {'after' if head > self.oracle.head else 'before'} its commit: {ledger.__name__}")
        if head > self.oracle.head:
            oracle()  # it was committed, so it must be allowed
        if head == self.oracle.head:  # else it takes several entries, of which asking again adds the others
            self.everything_holds()
        return ledger

    def _over_first(self, answer: Callable[[], Any]) -> Callable[[], Any]:
        """The answer had arrived; whether the server process is still there is another matter."""
        if self.exchanges > self.crashed_at >= 0:
            self.conn = self.ledger.reconnect()
        return answer

    def _with_a_fault(self, call: Callable[[], Any], at: int, moment: str) -> Any:
        self.crashed_at = at
        with faults.fault_at(self.conn, at, self.ledger.end_backend, moment) as counted:
            try:
                return call()
            finally:
                self.exchanges = counted.count

    @staticmethod
    def _count(what: str) -> None:
        if hypothesis.currently_in_test_context():
            hypothesis.event(what)

    @rule(step=STEP)
    def do(self, step: tuple[Any, ...]) -> None:
        type(self).steps += 1
        name, *arguments = step
        getattr(self, name)(*arguments)

    def crash_in(self, step: tuple[Any, ...], at: int, moment: str) -> None:
        name, *arguments = step
        self.crash = (at, moment)
        getattr(self, name)(*arguments)
        self.crash = None

    # --- appending ------------------------------------------------------------------------------------------------

    def append_a_batch(self, rows: Rows) -> None:
        self._append(rows, len(self.oracle.epochs) - 1, self.oracle.counter_epoch)

    def append_under_any_epoch(self, rows: Rows, epoch: int, counter_epoch: int) -> None:
        epochs = [*range(len(self.oracle.epochs) + 1), *sorted(self.oracle.revoked) * 3]  # one is not deployed yet
        self._append(rows, epochs[epoch % len(epochs)], max(1, self.oracle.counter_epoch - counter_epoch % 3 // 2))

    def _append(self, rows: Rows, epoch: int, counter_epoch: int) -> None:
        given = [row_of(*row) for row in rows]
        told = [Given(r.click_id, r.intake_digest, r.verdict, r.cost_micros, PERIOD_OF[r.click_id]) for r in given]

        def append_batch() -> append.Appended:
            return append.append(self.conn, batch(given, epoch, counter_epoch), actor="machine")

        if (answers := self.both(append_batch, lambda: self.oracle.append(told, epoch, counter_epoch))) is None:
            return
        got, expected = answers
        assert (got.position, got.outcome) == (expected.position, expected.outcome)
        assert got.new == expected.outcome.count("new")
        for i, what in enumerate(expected.outcome):
            known = self.oracle.clicks[given[i].click_id]
            first = (known.position, known.given.verdict, "", known.epoch)
            assert (got.first.get(i) is None) if what == "new" else (got.first[i] == first)

    def record_outcomes(self, picks: Sequence[tuple[int, str, int]]) -> None:
        told = [outcomes.Outcome(CLICKS[n], kind, at_ms, 7) for n, kind, at_ms in picks]

        def outcomes_append() -> outcomes.OutcomesAppended:
            return outcomes.append(self.conn, told, "machine")

        if answers := self.both(outcomes_append, lambda: self.oracle.record_outcomes(told)):
            got, (position, new) = answers
            assert got == (position, new, len(told) - new)

    # --- what is live ---------------------------------------------------------------------------------------------

    @initialize(rows=ROWS)
    def a_model_is_live_and_has_decided(self, rows: Rows) -> None:
        for model, content in enumerate((b"stable", b"new"), 1):
            self._register(content)
            self._calibrate(model)
        self._deploy([1])
        self.append_a_batch(rows)

    def change_what_is_live(self, what: str, pick: int) -> None:
        if what == "register":
            self._register((b"stable", b"new", b"newer")[pick % 3])
        elif what == "calibrate":
            self._calibrate(1 + pick % 3)
        elif what == "deploy":
            self._deploy([1 + pick % len(self.oracle.calibrations), 1 + pick // 7 % len(self.oracle.calibrations)])
        elif what == "canary":
            self._canary(1 + pick % len(self.oracle.calibrations), 1 + pick // 7 % len(self.oracle.calibrations), pick)
        elif what == "promote":
            self._promote(1 + pick % len(self.oracle.calibrations), pick % 5 == 4)
        elif what == "roll back":
            bad_model = self._probably_live(pick)
            others = [c for c, model in enumerate(self.oracle.calibrations, 1) if model != bad_model]
            self._roll_back(bad_model, others[pick % len(others)] if pick % 7 else 1)
        else:
            self._lose_counters()

    def _probably_live(self, pick: int) -> int:
        """A model that the current epoch routes to, four times out of five."""
        return min(self.oracle.epochs[-1]) if pick % 5 else 1 + pick % 3

    def _register(self, content: bytes) -> None:
        def register() -> int:
            return deployments.register_model(self.conn, content, "velocity", {}, "machine")

        got, expected = self._surely(self.both(register, lambda: self.oracle.register(content)))
        assert got == expected

    def _calibrate(self, model: int) -> None:
        def calibrate() -> int:
            return deployments.set_calibration(self.conn, model, {"*": 0.5}, {}, "machine")

        if answers := self.both(calibrate, lambda: self.oracle.calibrate(model)):
            assert answers[0] == answers[1]

    def _deploy(self, calibrations: Sequence[int]) -> None:
        routes = [routing(self.oracle.calibrations[c - 1], c)["routes"][0] for c in calibrations]

        def deploy() -> int:
            return deployments.deploy(self.conn, {"routes": routes, "shadow": None}, "machine")

        got, expected = self._surely(self.both(deploy, lambda: self.oracle.deploy(calibrations)))
        assert got == expected == deployments.current(self.conn).epoch

    def _canary(self, stable: int, canary: int, pick: int) -> None:
        """A share of the users of one slice, or of all, goes to the canary."""
        of = self.oracle.calibrations
        share = (0.01, 0.1, 0.5)[pick % 3]
        routes = [
            {"slice": ("phone/in", "*")[pick % 2], "share": share, "model": of[canary - 1], "calibration": canary},
            {"slice": "*", "share": 1.0 - share, "model": of[stable - 1], "calibration": stable},
        ]

        def deploy_canary() -> int:
            return deployments.deploy(self.conn, {"routes": routes, "shadow": None}, "machine")

        got, expected = self._surely(self.both(deploy_canary, lambda: self.oracle.deploy([stable, canary])))
        assert got == expected == deployments.current(self.conn).epoch

    def _promote(self, calibration: int, confused: bool) -> None:
        """One model for all; the one before stays in its shadow, which decides nothing and is never revoked."""
        model = self.oracle.calibrations[calibration - 1] + (10 if confused else 0)

        def promote() -> int:
            return deployments.promote(self.conn, model, calibration, "machine")

        def expected_promotion() -> int:
            if confused:
                raise Refusal("NotFound")
            return self.oracle.deploy([calibration])

        if answers := self.both(promote, expected_promotion):
            assert answers[0] == answers[1]

    def _roll_back(self, bad_model: int, calibration: int) -> None:
        to = routing(self.oracle.calibrations[calibration - 1], calibration)

        def roll_back() -> deployments.RolledBack:
            return deployments.roll_back(self.conn, bad_model, to, "machine")

        if answers := self.both(roll_back, lambda: self.oracle.roll_back(bad_model, calibration)):
            got, expected = answers
            assert (got.position, got.epoch, got.revoked_epochs) == (self.oracle.head, *expected)

    def _lose_counters(self) -> None:
        def begin_counter_epoch() -> int:
            return deployments.begin_counter_epoch(self.conn, {}, "machine", "")

        got, expected = self._surely(self.both(begin_counter_epoch, self.oracle.lose_counters))
        assert got == expected == deployments.current_counter_epoch(self.conn)

    @staticmethod
    def _surely(answers: tuple[Any, Any] | None) -> tuple[Any, Any]:
        assert answers is not None
        return answers

    # --- replays --------------------------------------------------------------------------------------------------

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

    def _a_run(self, pick: int) -> int:
        """One of the last few runs: those the machine has something left to do with."""
        recent = sorted(self.oracle.runs)[-4:]
        return recent[pick % len(recent)]

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

    def compare_a_run(self, pick: int) -> None:
        if not self.oracle.runs:
            return
        self._compare(self._a_run(pick))

    def _compare(self, run_id: int) -> None:
        expected_before = self.oracle.billed()

        def compare() -> comparison.Comparison:
            return comparison.compare(self.conn, run_id, "machine")

        if (answers := self.both(compare, lambda: self.oracle.compare(run_id))) is None:
            return
        got, lines = answers
        run = self.oracle.runs[run_id]
        run.digest = got.digest
        billed = sum(COST_OF[c] for c in self.oracle.clicks_of(run) if self.oracle.decided(c).verdict == "valid")
        assert expected_before == self.oracle.billed()
        assert got.compared_at_position == run.compared_at
        assert got.summary["flips"] == len(lines)
        assert got.summary["carried"] == sum(carried for _, carried in run.written.values())
        assert got.summary["adjustments_micros"] == sum(line.posted for line in lines)
        assert got.summary["write_off_micros"] == sum(line.written_off for line in lines)
        assert got.summary["billed_before_micros"] == billed
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

    def compare_and_publish(self, pick: int, between: str, month: int) -> None:
        if self.oracle.runs:
            self._compare(self._a_run(pick))
            if between:
                getattr(self, between)(month)
            self._publish(self._a_run(pick))

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

    def revert_a_run(self, pick: int) -> None:
        if not self.oracle.publications:
            return
        standing = [p for p in self.oracle.publications if p.reverted is None] or self.oracle.publications
        run_id = standing[-1 - pick % min(3, len(standing))].run.run_id

        def revert() -> publication.Published:
            return publication.revert(self.conn, run_id, "machine", "")

        if answers := self.both(revert, lambda: self.oracle.revert(run_id)):
            assert answers[0].position == self.oracle.head

    def abandon_a_run(self, pick: int) -> None:
        if not self.oracle.runs:
            return
        run_id = self._a_run(pick)

        def abandon() -> None:
            runs.abandon(self.conn, run_id, "machine", "")

        self.both(abandon, lambda: self.oracle.abandon(run_id))

    # --- money ----------------------------------------------------------------------------------------------------

    def close_a_period(self, month: int) -> None:
        period = f"2024-{month:02d}"

        def close_period() -> int:
            return billing.close_period(self.conn, period, "machine")

        if answers := self.both(close_period, lambda: self.oracle.close_period(period)):
            assert answers[0] == self.oracle.head


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
