"""Simulated traffic: people and robots on one stage, seeded, for demos, tests and benchmarks.

Invariants:
- the same configuration gives the same clicks, purchases and truth, to the bit;
- what is true of a click leaves this module in a `Truth` of its own, never in the traffic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clickledger.scoring import simulation_faults, simulation_people, simulation_robots
from clickledger.scoring import simulation_truth as truths
from clickledger.scoring import simulation_world as worlds
from clickledger.scoring.simulation_config import Fault, PeopleConfig, RobotsConfig, SimulationConfig
from clickledger.scoring.simulation_traffic import Purchases, Simulated
from clickledger.scoring.simulation_truth import Truth
from clickledger.scoring.simulation_world import Array, Ints, World

__all__ = ["Fault", "PeopleConfig", "Purchases", "RobotsConfig", "Simulated", "SimulationConfig", "Truth", "simulate"]

_PRICE_SIGMA = 0.15


def simulate(config: SimulationConfig) -> tuple[Simulated, Truth]:
    """Make the traffic of a run, and apart from it the truth about its clicks, in the same order."""
    streams = _streams(config)
    world = worlds.build(config, streams.world)
    made = _robots(world, streams.robots)
    adware_clicks = round(config.robots.adware_share * config.clicks)
    human_clicks = config.clicks - adware_clicks - sum(len(clicks) for clicks in made.values())
    population = simulation_people.populate(world, streams.people)
    human, account = simulation_people.human_clicks(world, population, human_clicks, streams.people)
    adware = simulation_people.adware(world, human, account, adware_clicks, streams.adware)
    bought = simulation_people.purchases(world, population, human, account, streams.purchases)
    return told(world, {truths.HUMAN: human, **made, "adware": adware}, bought, streams.telling)


def gateways_of(config: SimulationConfig) -> Ints:
    """The addresses of the carriers' gateways of a run that `simulate` makes."""
    return worlds.build(config, _streams(config).world).gateways


class _Streams(NamedTuple):
    """Random numbers of their own for each part: changing one part leaves the others as they were."""

    world: np.random.Generator
    people: np.random.Generator
    robots: np.random.Generator
    adware: np.random.Generator
    purchases: np.random.Generator
    telling: np.random.Generator


def _streams(config: SimulationConfig) -> _Streams:
    return _Streams(*(np.random.default_rng(seed) for seed in np.random.SeedSequence(config.seed).spawn(6)))


def _robots(world: World, rng: np.random.Generator) -> dict[str, Array]:
    robots, clicks = world.config.robots, world.config.clicks
    shares = {
        "burst": robots.burst_share,
        "competitor": robots.competitor_share,
        "botnet": robots.botnet_share,
        "click_farm": robots.farm_share,
        "gateway_scraper": robots.scraper_share,
    }
    kinds = zip(shares.items(), rng.spawn(len(shares)), strict=True)
    return {
        kind: simulation_robots.MAKERS[kind](world, round(share * clicks), own, own) for (kind, share), own in kinds
    }


def told(
    world: World, made: dict[str, Array], bought: Array, rng: np.random.Generator, day: int = 0
) -> tuple[Simulated, Truth]:
    """Shuffle all clicks into one stream by time, human ones first in `made`, give them ids and prices, then faults.

    `day`, counted from 0, where a run is made day by day: faults are drawn anew on each.
    """
    clicks = np.concatenate(list(made.values()))
    kind = np.concatenate([np.full(len(own), truths.KINDS.index(name), np.int8) for name, own in made.items()])
    order = np.lexsort((rng.random(len(clicks)), clicks["time_ms"]))
    clicks = clicks[order]
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    campaign = clicks["campaign"].astype(np.int64)
    price_micros = world.price_micros[campaign] * rng.lognormal(0.0, _PRICE_SIGMA, len(clicks))
    traffic = Simulated(
        config=world.config,
        click=worlds.ids(rng, len(clicks)),
        event_time_ms=clicks["time_ms"] + world.config.start_ms,
        user=clicks["user"],
        session=clicks["session"],
        ip=clicks["ip"],
        device=clicks["device"].astype(np.int64),
        advertiser=world.advertiser[campaign],
        campaign=campaign,
        cost_micros=price_micros.astype(np.int64),
        logged_in=clicks["logged_in"],
        sent_at_ms=clicks["time_ms"] + world.config.start_ms,
        purchases=_purchases(bought, rank, world.config.start_ms),
    )
    return simulation_faults.strike(traffic, Truth(kind[order]), day)


def _purchases(bought: Array, rank: Ints, start_ms: int) -> Purchases:
    by_time = bought[np.argsort(bought["time_ms"], kind="stable")]
    return Purchases(rank[by_time["click"]], by_time["time_ms"] + start_ms, by_time["value_micros"])
