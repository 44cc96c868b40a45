"""What the state machine does that writes: appends, outcomes, deployments, closing of periods."""

from __future__ import annotations

from collections.abc import Sequence

from batches import batch
from oracle import Given, Refusal
from replays import routing
from side_by_side import SideBySide
from universe import CLICKS, PERIOD_OF, Rows, row_of

from clickledger.ledger import append, billing, deployments, outcomes


class Appending(SideBySide):
    """Batches, under any epoch, and outcomes."""

    def append_a_batch(self, rows: Rows) -> None:
        self._append(rows, len(self.oracle.epochs) - 1, self.oracle.counter_epoch)

    def append_under_any_epoch(self, rows: Rows, epoch: int, counter_epoch: int) -> None:
        epochs = [*range(len(self.oracle.epochs) + 1), *sorted(self.oracle.revoked) * 3]  # one is not deployed yet
        counting = self.oracle.counter_epoch + (0, 0, -1, 1)[counter_epoch % 4]
        self._append(rows, epochs[epoch % len(epochs)], max(1, counting))

    def _append(self, rows: Rows, epoch: int, counter_epoch: int) -> None:
        given = [row_of(*row) for row in rows]
        told = [Given(r.click_id, r.intake_digest, r.verdict, r.cost_micros, PERIOD_OF[r.click_id]) for r in given]

        def append_batch() -> append.Appended:
            return append.append(self.conn, batch(given, epoch, counter_epoch), actor="machine")

        if (answers := self.both(append_batch, lambda: self.oracle.append(told, epoch, counter_epoch))) is None:
            return
        got, expected = answers
        for what in expected.outcome:
            self._count(f"append: {what}")
        if any(line.late for line in self.oracle.feed if line.position == expected.position):
            self._count("append: charge of a closed period")
        assert (got.position, got.outcome) == (expected.position, expected.outcome)
        assert got.new == expected.outcome.count("new")
        for i, what in enumerate(expected.outcome):
            known = self.oracle.clicks[given[i].click_id]
            first = (known.position, known.given.verdict, "", known.epoch, given[i].seq)
            assert (got.first.get(i) is None) if what == "new" else (got.first[i] == first)

    def record_outcomes(self, picks: Sequence[tuple[int, str, int]]) -> None:
        told = [outcomes.Outcome(CLICKS[n], kind, at_ms, 7) for n, kind, at_ms in picks]

        def outcomes_append() -> outcomes.OutcomesAppended:
            return outcomes.append(self.conn, told, "machine")

        if answers := self.both(outcomes_append, lambda: self.oracle.record_outcomes(told)):
            got, (position, new) = answers
            assert got == (position, new, len(told) - new)


class Deploying(SideBySide):
    """Models, calibrations, routings, rollbacks and counters that are lost."""

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

    def deploy_and_roll_back(self, pick: int) -> None:
        """A model that was live before, perhaps, and so in several epochs."""
        of = self.oracle.calibrations
        calibration = 1 + pick % len(of)
        self._deploy([calibration])
        others = [c for c, model in enumerate(of, 1) if model != of[calibration - 1]]
        self._roll_back(of[calibration - 1], others[pick % len(others)])

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


class Billing(SideBySide):
    """Periods that are closed."""

    def close_a_period(self, month: int) -> None:
        period = f"2024-{month:02d}"

        def close_period() -> int:
            return billing.close_period(self.conn, period, "machine")

        if answers := self.both(close_period, lambda: self.oracle.close_period(period)):
            assert answers[0] == self.oracle.head
