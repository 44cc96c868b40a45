"""Simulated traffic day by day: months of it in the memory of a day or two, and any day by itself.

Invariants:
- a day follows from configuration and its number alone: day 100 by itself is day 100 of the whole run, to the bit;
- accounts, gateways, and robots with their addresses and devices are the same on all days, so that people come back;
- a burst or an attack that passes midnight goes on on the next day.

The clicks of a run come out at about `clicks`, people and robots by their shares; sessions end with their day.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput
from clickledger.scoring import simulation, simulation_people, simulation_robots
from clickledger.scoring import simulation_truth as truths
from clickledger.scoring import simulation_world as worlds
from clickledger.scoring.simulation_config import SimulationConfig
from clickledger.scoring.simulation_people import Population
from clickledger.scoring.simulation_robots import Event
from clickledger.scoring.simulation_traffic import Simulated, joined
from clickledger.scoring.simulation_truth import Truth
from clickledger.scoring.simulation_world import Array, Floats, Ints, World

DAY_MS = 86_400_000
_SPAWNED = 100  # beyond the numbers that the parts of a run made at once spawn
_RUN = 2**32 - 1  # in place of a day: what is drawn once


class Day(NamedTuple):
    """A day's clicks, as they are sent, and the truth about them."""

    number: int
    traffic: Simulated
    truth: Truth


@dataclass(frozen=True)
class Run:
    """A run of whole days. Raises InvalidInput for others."""

    config: SimulationConfig

    def __post_init__(self) -> None:
        if self.config.duration_ms % DAY_MS:
            raise InvalidInput(f"simulation: days: expected whole ones, got {self.config.days:g}")

    @property
    def days(self) -> int:
        """How many."""
        return self.config.duration_ms // DAY_MS

    @property
    def gateways(self) -> Ints:
        """The addresses of the carriers' gateways."""
        return self._world.gateways

    def __iter__(self) -> Iterator[Day]:
        return (self.day(number) for number in range(self.days))

    def day(self, number: int) -> Day:
        """The clicks of one day, counted from 0. Late and repeated ones may be sent on the next."""
        if not 0 <= number < self.days:
            raise InvalidInput(f"simulation: day: expected 0 to {self.days - 1}, got {number}")
        world = replace(self._world, config=self._of_day(number))
        made = self._robots(world, number)
        human, account = simulation_people.human_clicks(
            world, self._population, round(self._people[number]), self._random("people", number)
        )
        adware = simulation_people.adware(
            world,
            human,
            account,
            round(self.config.robots.adware_share * self.config.clicks / self.days),
            self._random("adware", number),
            self._infected,
        )
        bought = simulation_people.purchases(world, self._population, human, account, self._random("purchases", number))
        clicks = {truths.HUMAN: human, **made, "adware": adware}
        return Day(number, *simulation.told(world, clicks, bought, self._random("telling", number), number))

    def _random(self, part: str, day: int = _RUN, event: int = 0) -> np.random.Generator:
        key = (_SPAWNED, zlib.crc32(part.encode()), day, event)
        return np.random.default_rng(np.random.SeedSequence(self.config.seed, spawn_key=key))

    def _of_day(self, number: int) -> SimulationConfig:
        robots = replace(self.config.robots, botnet_second_wave=0.0)  # the second one is made beside the first
        start_ms = self.config.start_ms + number * DAY_MS
        return replace(self.config, start_ms=start_ms, duration_hours=24.0, robots=robots)

    @cached_property
    def _world(self) -> World:
        return worlds.build(self.config, self._random("world"))

    @cached_property
    def _population(self) -> Population:
        return simulation_people.populate(self._world, self._random("people"))

    @cached_property
    def _infected(self) -> Ints:
        return self._random("adware").permutation(len(self._population.account))

    @cached_property
    def _people(self) -> Floats:
        """Clicks of people on each day (days,): more of them at weekends."""
        weight = simulation_people.rhythm(self.config)
        of_day = np.add.reduceat(weight, np.arange(self.days) * (DAY_MS // simulation_people.MINUTE_MS))
        people: Floats = of_day / of_day.sum() * self.config.clicks * (1.0 - self.config.robots.share)
        return people

    @cached_property
    def _bursts(self) -> list[Event]:
        budget = round(self.config.robots.burst_share * self.config.clicks)
        return _within(budget, simulation_robots.burst_events(self._world, budget, self._random("all bursts")))

    @cached_property
    def _attacks(self) -> list[Event]:
        budget = round(self.config.robots.competitor_share * self.config.clicks)
        return _within(budget, simulation_robots.attack_events(self._world, budget, self._random("all attacks")))

    def _robots(self, world: World, number: int) -> dict[str, Array]:
        robots, per_day = self.config.robots, self.config.clicks / self.days
        waves = robots.botnet_second_wave * (1.0 - robots.botnet_second_wave_start)
        botnet = [self._steady("botnet", world, number, round(robots.botnet_share * per_day / (1.0 + waves)))]
        if number >= round(robots.botnet_second_wave_start * self.days):
            joins = round(robots.botnet_share * per_day / (1.0 + waves) * robots.botnet_second_wave)
            botnet.append(self._steady("botnet", world, number, joins, wave=1))
        return {
            "burst": self._of_events("burst", self._bursts, number),
            "competitor": self._of_events("competitor", self._attacks, number),
            "botnet": np.concatenate(botnet),
            "click_farm": self._steady("click_farm", world, number, round(robots.farm_share * per_day)),
            "gateway_scraper": self._steady("gateway_scraper", world, number, round(robots.scraper_share * per_day)),
        }

    def _steady(self, kind: str, world: World, number: int, budget: int, wave: int = 0) -> Array:
        """Robots that are there every day: the same ones, doing something else."""
        rng, actors = self._random(kind, number, wave), self._random(kind, event=wave)
        return simulation_robots.MAKERS[kind](world, budget, rng, actors)

    def _of_events(self, kind: str, events: list[Event], number: int) -> Array:
        """The part of bursts or attacks that falls into a day; each is made whole, the same on both of its days."""
        from_ms, to_ms = number * DAY_MS, (number + 1) * DAY_MS
        made = [np.zeros(0, dtype=worlds.CLICKS)]
        for index, event in enumerate(events):
            if event.start_ms < to_ms and event.start_ms + event.duration_ms >= from_ms:
                made.append(simulation_robots.EVENT_MAKERS[kind](self._world, event, self._random(kind, event=index)))
        clicks = np.concatenate(made)
        clicks["time_ms"] -= from_ms
        return clicks[(clicks["time_ms"] >= 0) & (clicks["time_ms"] < DAY_MS)]


def _within(budget: int, events: list[Event]) -> list[Event]:
    """Events of `budget` clicks in all: the last one ends sooner."""
    if not events:
        return events
    *others, last = events
    left = budget - sum(event.clicks for event in others)
    return [*others, Event(last.start_ms, last.duration_ms * left / last.clicks, left)]


def as_sent(days: Iterator[Day]) -> Iterator[Day]:
    """Days cut by when clicks are sent instead of when they are made: what a day brings late comes with a later one.

    What is sent after the last day comes with it. Purchases stay with the first sending of their click.
    """
    held: Day | None = None
    for made in days:
        day = made if held is None else _together(held, made)
        ready = int(np.searchsorted(day.traffic.sent_at_ms, day.traffic.config.start_ms + DAY_MS))
        yield _rows(day, np.arange(ready))
        held = _rows(day, np.arange(ready, len(day.traffic)))
    if held is not None and len(held.traffic):
        yield held


def _together(held: Day, day: Day) -> Day:
    traffic, kind = joined(held.traffic, day.traffic), np.concatenate([held.truth.kind, day.truth.kind])
    return _rows(Day(day.number, traffic, Truth(kind)), np.argsort(traffic.sent_at_ms, kind="stable"))


def _rows(day: Day, rows: npt.NDArray[np.intp]) -> Day:
    return Day(day.number, day.traffic.take(rows), Truth(day.truth.kind[rows]))
