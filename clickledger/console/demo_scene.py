"""What a demo plays with: clicks in order, what they led to, and where its acts begin.

Invariants:
- the truth about simulated clicks is kept here for the summary; nothing that trains or decides is given it;
- acts are cut by event time, as a day would bring them: history, stable traffic, traffic under the bad model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clickledger.console import intake_settings
from clickledger.errors import InvalidInput
from clickledger.ledger.outcomes import Outcome
from clickledger.scoring import dataset, intake
from clickledger.scoring.click import Click
from clickledger.scoring.simulation import SimulationConfig, simulate
from clickledger.settings import Settings

HOUR_MS = 3_600_000
CLICKS = 100_000
SIMULATED_HOURS = 84.0
LIVE_HOURS = 9.0
STABLE_HOURS = 2.0
WITHHELD_HOURS = 12  # of each day: until the evening, into which the live acts fall
LIVE_END_HOUR_UTC = 22
END = datetime(
    2026, 10, 15, LIVE_END_HOUR_UTC, tzinfo=UTC
)  # a Thursday; fixed, so that a seed gives the same clicks on any day
FPR_MAX = 0.02  # the parts to calibrate on are small

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Scene:
    """Clicks by event time and the indices at which acts begin."""

    title: str
    clicks: Sequence[Click]
    outcomes: Sequence[Outcome]
    history_end: int
    stable_end: int
    withheld: Sequence[dataset.Stretch]
    fault: str
    robots: set[bytes] | None = None  # ids of robotic clicks, where the truth is known
    rejected: int = 0
    learning: dict[str, Any] = field(default_factory=dict)
    known_ms: int = 0  # outcomes up to then are known when training begins; 0 = the end of the history


def simulated(settings: Settings, clicks: int = CLICKS, seed: int = 1) -> Scene:
    """Simulated traffic up to an evening; every label of some evening hours of each day is withheld from model B."""
    end_ms = int(END.timestamp()) * 1000
    start_ms = end_ms - int(SIMULATED_HOURS * HOUR_MS)
    config = SimulationConfig(clicks=clicks, start_ms=start_ms, duration_hours=SIMULATED_HOURS, seed=seed)
    traffic, truth = simulate(config)
    made = traffic.to_clicks(intake_settings.pseudonyms(settings))
    times = traffic.event_time_ms
    history_ms = end_ms - int(LIVE_HOURS * HOUR_MS)
    stable_ms = history_ms + int(STABLE_HOURS * HOUR_MS)
    from_hour = LIVE_END_HOUR_UTC - WITHHELD_HOURS
    return Scene(
        title=f"{len(made):,} simulated clicks of {SIMULATED_HOURS / 24:.1f} days, people and six kinds of robots",
        clicks=made,
        outcomes=traffic.to_outcomes(made),
        history_end=int((times < history_ms).sum()),
        stable_end=int((times < stable_ms).sum()),
        withheld=dataset.hours_of_each_day(from_hour, LIVE_END_HOUR_UTC, start_ms, end_ms),
        fault=f"trained while the purchases of {from_hour}:00 to {LIVE_END_HOUR_UTC}:00 were missing",
        robots=truth.robots_among(made),
        learning={"fpr_max": FPR_MAX},
    )


def from_file(settings: Settings, path: Path, file_format: str, cpc_micros: int | None) -> Scene:
    """Real clicks of a file; the labels of a stretch of its history are withheld from model B. Raises InvalidInput."""
    read = intake.read_file(
        path,
        file_format,  # type: ignore[arg-type]  # checked by read_file, with the message people get
        intake_settings.pseudonyms(settings),
        cpc_micros=cpc_micros,
        bounds=intake_settings.bounds(settings),
    )
    if not read.outcomes:
        raise InvalidInput(f"{path.name}: expected clicks with outcomes to learn from, got {len(read.clicks)} without")
    clicks = read.clicks
    history_end, stable_end = int(0.5 * len(clicks)), int(0.6 * len(clicks))
    # The feed stops and nobody notices: the newest labels are missing, on which the threshold is set.
    withheld = [(clicks[int(0.36 * len(clicks))].event_time_ms, clicks[history_end].event_time_ms)]
    return Scene(
        title=f"{len(clicks):,} clicks of {path.name}",
        clicks=clicks,
        outcomes=read.outcomes,
        history_end=history_end,
        stable_end=stable_end,
        withheld=withheld,
        fault="trained while the labels of the newest stretch of its history were missing",
        rejected=len(read.rejected),
        learning={"fpr_max": FPR_MAX},
        known_ms=max(outcome.occurred_at_ms for outcome in read.outcomes),
    )
