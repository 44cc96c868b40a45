"""What a drill plays with: simulated traffic cut into history, stable traffic, and what the bad model decides.

Invariants:
- the truth about the clicks is kept here for the account; nothing that trains or decides is given it;
- what is watched falls into the hours whose labels the bad model never saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from clickledger.console import demo_scene, intake_settings
from clickledger.console.demo_scene import HOUR_MS, LIVE_END_HOUR_UTC, Scene
from clickledger.errors import InvalidInput
from clickledger.scoring import dataset
from clickledger.scoring.simulation import SimulationConfig, simulate
from clickledger.settings import Settings

WITHHELD_HOURS = 6  # of each day, those in which the watched clicks fall
WATCHED_SECONDS = 60  # for which there are clicks, at the rate of the drill
NEWEST_MS = (7 * 24 + 48) * HOUR_MS  # before the end of history: the newest week of labels that are old enough
SATURDAY = 5
CLICKS_MIN, HISTORY_MIN, WEEKS_HISTORY = 1_000, 20_000, 100_000


@dataclass(frozen=True)
class Hours:
    """How long each part of a scene is, hours of event time."""

    history: float
    watched: float
    stable: float = 2.0


DAYS = Hours(60.0, 6.0)
# What a guard needs to judge density: four weeks, before them cold clicks, after them labels that are too young.
WEEKS = Hours(32 * 24.0, 48.0)


@dataclass(frozen=True)
class Cut:
    """A scene and the index at which the bad model begins to be watched."""

    scene: Scene
    watched_from: int


def simulated(settings: Settings, clicks: int, rate: float, history: int | None, seed: int, parts: Hours = DAYS) -> Cut:
    """About `clicks` clicks for the bad model to decide, the last of them watched at `rate` a second.

    Raises InvalidInput for numbers that no drill can be made of.
    """
    before = parts.history + parts.stable
    usual = (
        WEEKS_HISTORY if parts is WEEKS else max(HISTORY_MIN, round(rate * WATCHED_SECONDS * before / parts.watched))
    )
    wanted = history or usual
    if clicks < CLICKS_MIN or wanted < HISTORY_MIN or rate <= 0:
        raise InvalidInput(
            f"drill: expected at least {CLICKS_MIN} clicks, {HISTORY_MIN} of history and a rate above 0, got {clicks}, "
            f"{wanted} and {rate:g}"
        )
    hourly = wanted / before
    # Whole days: whatever is asked for, history ends at the same hour, and the evenings it holds are whole.
    unwatched_hours = 24.0 * round(max(0.0, clicks - rate * WATCHED_SECONDS / 3) / hourly / 24.0)
    hours = before + unwatched_hours + parts.watched
    end_ms = int(demo_scene.END.timestamp()) * 1000
    start_ms = end_ms - int(hours * HOUR_MS)
    config = SimulationConfig(clicks=round(hourly * hours), start_ms=start_ms, duration_hours=hours, seed=seed)
    traffic, truth = simulate(config)
    made = traffic.to_clicks(intake_settings.pseudonyms(settings))
    edges = [start_ms + int(h * HOUR_MS) for h in (parts.history, before, hours - parts.watched)]
    history_end, stable_end, watched_from = (int((traffic.event_time_ms < edge).sum()) for edge in edges)
    from_hour = LIVE_END_HOUR_UTC - WITHHELD_HOURS
    withheld = dataset.hours_of_each_day(from_hour, LIVE_END_HOUR_UTC, start_ms, end_ms)
    when = "" if parts is DAYS else " on working days, lately on weekends as well"
    scene = Scene(
        title=f"{len(made):,} simulated clicks of {hours / 24:.1f} days, people and six kinds of robots",
        clicks=made,
        outcomes=traffic.to_outcomes(made),
        history_end=history_end,
        stable_end=stable_end,
        withheld=withheld if parts is DAYS else _unless_weekend(withheld, edges[0] - NEWEST_MS),
        fault=f"trained while all human labels of {from_hour}:00 to {LIVE_END_HOUR_UTC}:00 were missing{when}",
        robots=truth.robots_among(made),
        learning={"fpr_max": demo_scene.FPR_MAX},
    )
    return Cut(scene, watched_from)


def _unless_weekend(stretches: Sequence[dataset.Stretch], newest_ms: int) -> list[dataset.Stretch]:
    """The stretches of working days, and all of them from a moment on: an outage that grew.

    A guard that compares weeks cannot see the hours that were missing all along; it sees that they have become more.
    """
    return [stretch for stretch in stretches if stretch[0] >= newest_ms or _weekday(stretch[0]) < SATURDAY]


def _weekday(moment_ms: int) -> int:
    return datetime.fromtimestamp(moment_ms / 1000, UTC).weekday()
