"""Simulated traffic sent to a running ledger: each click when its time has come, and purchases as they happen."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from clickledger.console import intake_settings
from clickledger.console.cli_ingest import Tally
from clickledger.errors import InvalidInput
from clickledger.ledger import database, outcomes
from clickledger.ledger.outcomes import Outcome
from clickledger.ledger.rights import Role
from clickledger.scoring import exchange, facts, feature_spec, simulation_days
from clickledger.scoring.click import Click
from clickledger.scoring.networks import NO_FACTS
from clickledger.scoring.simulation_days import Run
from clickledger.settings import Settings

ACTOR = "simulate"
CLICKS_MAX = 2_000  # on their way at once where a rate is kept
POLL_SECONDS = 0.05
_RATE = re.compile(r"(\d+(?:\.\d+)?)(x?)")


@dataclass(frozen=True)
class Rate:
    """How fast to send: so many clicks a second, or so many times as fast as they were made; neither: as answered."""

    clicks_per_s: float | None = None
    speed: float | None = None

    def due_s(self, click: int, since_start_ms: int) -> float:
        """When to send a click, by its number and its time in the run, in seconds after the first moment."""
        if self.clicks_per_s is not None:
            return click / self.clicks_per_s
        return 0.0 if self.speed is None else since_start_ms / 1000.0 / self.speed


def parse_rate(text: str | None) -> Rate:
    """`200` is 200 clicks a second, `60x` sixty times as fast as the clicks were made. Raises InvalidInput."""
    if text is None:
        return Rate()
    matched = _RATE.fullmatch(text)
    if matched is None or float(matched[1]) == 0.0:
        raise InvalidInput(f"rate: expected clicks a second such as 200, or a speed such as 60x, got {text!r}")
    value = float(matched[1])
    return Rate(speed=value) if matched[2] else Rate(clicks_per_s=value)


@dataclass
class Sent:
    """What became of the clicks, and the outcomes that were appended; those after the run's end are not."""

    tally: Tally = field(default_factory=Tally)
    outcomes: int = 0
    outcomes_to_come: int = 0


def send(settings: Settings, run: Run, rate: Rate, advance: Callable[[int], None]) -> Sent:
    """Send a run to the ledger whose servers the settings name. Raises Unavailable when nobody decides."""
    sent, began, number = Sent(), time.monotonic(), 0
    pseudonyms = intake_settings.pseudonyms(settings)
    with database.connect(str(settings.database_url), application_name="simulate", role=Role.INGESTER) as conn:
        labels, looked_up = _Labels(conn, run.config.start_ms, sent), NO_FACTS
        for day in simulation_days.as_sent(iter(run)):
            looked_up = facts.in_force(conn, looked_up)
            clicks = day.traffic.to_clicks(pseudonyms, facts=looked_up)
            labels.pending += day.traffic.to_outcomes(clicks)
            times = (day.traffic.sent_at_ms - run.config.start_ms).tolist()
            due = [began + rate.due_s(number + place, since_ms) for place, since_ms in enumerate(times)]
            number += len(clicks)
            for first, end in _parts(due):
                _decide(settings, clicks[first:end], sent.tally)
                labels.tell(run.config.start_ms + times[end - 1])
                advance(end - first)
        labels.tell(run.config.end_ms, now=True)
        sent.outcomes_to_come = len(labels.pending)
    return sent


def _parts(due: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Stretches [first, end) of the clicks that are due, each once its first one is."""
    first = 0
    while first < len(due):
        now = time.monotonic()
        if due[first] > now:
            time.sleep(min(due[first] - now, POLL_SECONDS))
            continue
        end = first + 1
        while end < min(len(due), first + CLICKS_MAX) and due[end] <= now:
            end += 1
        yield first, end
        first = end


def _decide(settings: Settings, clicks: Sequence[Click], tally: Tally) -> None:
    for index, answer in exchange.decide_all(str(settings.redis_url), clicks):
        tally.add(clicks[index], answer)


class _Labels:
    """Purchases that are still to happen; told once an hour of the run, as a feed would."""

    def __init__(self, conn: database.Connection, start_ms: int, sent: Sent) -> None:
        self.pending: list[Outcome] = []
        self._conn, self._told_ms, self._sent = conn, start_ms, sent

    def tell(self, until_ms: int, now: bool = False) -> None:
        if not now and until_ms < self._told_ms + feature_spec.HOUR_MS:
            return
        known = [each for each in self.pending if each.occurred_at_ms < until_ms]
        self.pending = [each for each in self.pending if each.occurred_at_ms >= until_ms]
        self._told_ms = until_ms
        if known:
            known.sort(key=lambda each: (each.occurred_at_ms, each.click_id))
            self._sent.outcomes += outcomes.append(self._conn, known, ACTOR, "simulated").new
