"""What a drill plays with: simulated traffic cut into history, stable traffic, and what the bad model decides.

Invariants:
- the truth about the clicks is kept here for the account; nothing that trains or decides is given it;
- what is watched falls into the hours whose labels the bad model never saw.
"""

from __future__ import annotations

from dataclasses import dataclass

from clickledger.console import demo_scene, intake_settings
from clickledger.console.demo_scene import HOUR_MS, LIVE_END_HOUR_UTC, Scene
from clickledger.errors import InvalidInput
from clickledger.scoring import dataset
from clickledger.scoring.simulation import SimulationConfig, simulate
from clickledger.settings import Settings

HISTORY_HOURS, STABLE_HOURS, WATCHED_HOURS = 60.0, 2.0, 6.0
WITHHELD_HOURS = 6  # of each day, those in which the watched clicks fall
WATCHED_SECONDS = 60  # for which there are clicks, at the rate of the drill
CLICKS_MIN, HISTORY_MIN = 1_000, 20_000


@dataclass(frozen=True)
class Cut:
    """A scene and the index at which the bad model begins to be watched."""

    scene: Scene
    watched_from: int


def simulated(settings: Settings, clicks: int, rate: float, history: int | None, seed: int) -> Cut:
    """About `clicks` clicks for the bad model to decide, the last of them watched at `rate` a second.

    Raises InvalidInput for numbers that no drill can be made of.
    """
    wanted = history or max(HISTORY_MIN, round(rate * WATCHED_SECONDS * (HISTORY_HOURS + STABLE_HOURS) / WATCHED_HOURS))
    if clicks < CLICKS_MIN or wanted < HISTORY_MIN or rate <= 0:
        raise InvalidInput(
            f"drill: expected at least {CLICKS_MIN} clicks, {HISTORY_MIN} of history and a rate above 0, got {clicks}, "
            f"{wanted} and {rate:g}"
        )
    hourly = wanted / (HISTORY_HOURS + STABLE_HOURS)
    # Whole days: whatever is asked for, history ends at the same hour, and the evenings it holds are whole.
    unwatched_hours = 24.0 * round(max(0.0, clicks - rate * WATCHED_SECONDS / 3) / hourly / 24.0)
    hours = HISTORY_HOURS + STABLE_HOURS + unwatched_hours + WATCHED_HOURS
    end_ms = int(demo_scene.END.timestamp()) * 1000
    start_ms = end_ms - int(hours * HOUR_MS)
    config = SimulationConfig(clicks=round(hourly * hours), start_ms=start_ms, duration_hours=hours, seed=seed)
    traffic, truth = simulate(config)
    made = traffic.to_clicks(intake_settings.pseudonyms(settings))
    edges = [start_ms + int(h * HOUR_MS) for h in (HISTORY_HOURS, HISTORY_HOURS + STABLE_HOURS, hours - WATCHED_HOURS)]
    history_end, stable_end, watched_from = (int((traffic.event_time_ms < edge).sum()) for edge in edges)
    from_hour = LIVE_END_HOUR_UTC - WITHHELD_HOURS
    scene = Scene(
        title=f"{len(made):,} simulated clicks of {hours / 24:.1f} days, people and six kinds of robots",
        clicks=made,
        outcomes=traffic.to_outcomes(made),
        history_end=history_end,
        stable_end=stable_end,
        withheld=dataset.hours_of_each_day(from_hour, LIVE_END_HOUR_UTC, start_ms, end_ms),
        fault=f"trained while all human labels of {from_hour}:00 to {LIVE_END_HOUR_UTC}:00 were missing",
        robots=truth.robots_among(made),
        learning={"fpr_max": demo_scene.FPR_MAX},
    )
    return Cut(scene, watched_from)
