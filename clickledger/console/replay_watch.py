"""Watching a run: how far it is, how fast, how long it will take; all of it read from the ledger."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from clickledger import errors
from clickledger.console import output
from clickledger.ledger import database
from clickledger.recovery import progress
from clickledger.recovery.progress import Progress

POLL_SECONDS = 0.2
LINE_SECONDS = 5.0  # between lines, where there is no terminal to draw a bar on
SILENT_SECONDS = 15.0  # without progress: say where to look
RATE_SECONDS = 15.0
UNDER_WAY = {"replaying", "paused", "staging", "comparing"}


@dataclass
class Rate:
    """Clicks a second over the newest `RATE_SECONDS`, from what was done when."""

    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, at: float, done: int) -> None:
        """At a moment (seconds) so many clicks were done."""
        self.seen.append((at, done))
        while len(self.seen) > 2 and self.seen[1][0] <= at - RATE_SECONDS:
            self.seen.popleft()

    @property
    def clicks_per_second(self) -> float:
        """0 before there is anything to tell it by."""
        (began, first), (ended, last) = self.seen[0], self.seen[-1]
        return (last - first) / (ended - began) if ended > began else 0.0

    def seconds_left(self, clicks: int) -> float | None:
        """How long so many clicks will take; None while nothing moves."""
        rate = self.clicks_per_second
        return clicks / rate if rate > 0 else None


def described(run: Progress, rate: Rate) -> str:
    """A run's stage, rate and time left in a few words."""
    words = f"run {run.run_id}: {run.stage}"
    if run.stage != "replaying":
        return words
    left = rate.seconds_left(run.clicks - run.clicks_done)
    return f"{words}, {rate.clicks_per_second:,.0f} clicks/s" + (f", {left:,.0f} s left" if left is not None else "")


def follow(
    conn: database.Connection, run_id: int, seconds: float, why_slow: Callable[[], str | None] = lambda: None
) -> Progress:
    """Watch a run until it goes no further by itself. Raises Unavailable after `seconds` (0 = never).

    `why_slow` is asked now and then what holds the workers up.
    """
    run, rate = progress.of_run(conn, run_id), Rate()
    began = moved = told = time.monotonic()
    rate.note(began, run.clicks_done)
    silent = False
    with output.progress(described(run, rate), total=run.clicks, lines=False) as bar:
        bar.advance(run.clicks_done)
        while run.stage in UNDER_WAY:
            now = time.monotonic()
            if seconds and now - began > seconds:
                raise errors.Unavailable(f"run {run_id} is still {run.stage} after {seconds:g} s; clickledger status")
            if not silent and now - moved > SILENT_SECONDS:
                output.say(_silent(run))
                silent = True
            if now - told > LINE_SECONDS:
                _tell(run, rate, bar.drawn, why_slow())
                told = now
            time.sleep(POLL_SECONDS)
            before, run = run, progress.of_run(conn, run_id)
            rate.note(time.monotonic(), run.clicks_done)
            bar.advance(run.clicks_done - before.clicks_done)
            bar.describe(described(run, rate))
            if (run.clicks_done, run.stage) != (before.clicks_done, before.stage):
                moved, silent = time.monotonic(), False
    return run


def _silent(run: Progress) -> str:
    if run.stage == "paused":
        command = f"clickledger replay resume {run.run_id} --reason WHY"
        return f"run {run.run_id} is paused: {output.as_typed(command)}"
    status = output.as_typed("clickledger status")
    return f"run {run.run_id}: no progress for {SILENT_SECONDS:g} s; do workers run? {status}"


def _tell(run: Progress, rate: Rate, drawn: bool, slow: str | None) -> None:
    if not drawn:
        output.say(
            f"{described(run, rate)}, {run.clicks_done:,} of {run.clicks:,} clicks, {run.quarantined} quarantined"
        )
    if slow:
        output.say(slow)
