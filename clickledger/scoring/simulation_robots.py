"""Robots of five kinds. Each function makes at most as many clicks as it is given, actor after actor.

A budget is spent actor by actor and the last one is cut short, so that every other robot is as hot as its kind is.
What robots are (addresses, devices, accounts) is drawn from `actors`, what they do from `rng`: a generator of actors
that begins anew each day gives the same robots every day. One generator for both is fine for a run made at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from clickledger.scoring import simulation_world as worlds
from clickledger.scoring.simulation_world import APP, DESKTOP, MOBILE, Array, Floats, Ints, World

_DAY_MS = 86_400_000
_HOUR_MS = 3_600_000
_FARM_SHIFT_MS = 16 * _HOUR_MS


class Event(NamedTuple):
    """A burst or an attack: from when (ms from the start of the run) for how long, and its clicks."""

    start_ms: float
    duration_ms: float
    clicks: int


def bursts(world: World, budget: int, rng: np.random.Generator, actors: np.random.Generator) -> Array:
    """Minutes of steady fast clicks from a few addresses; half of the bursts change cookies all the time."""
    made = [burst(world, event, rng) for event in burst_events(world, budget, actors)]
    return worlds.within(world, _joined(made))[:budget]


def burst_events(world: World, budget: int, rng: np.random.Generator) -> list[Event]:
    """The bursts of a run."""
    config = world.config.robots
    durations_ms: list[float] = []
    sizes: list[int] = []
    while sum(sizes) < budget:
        durations_ms.append(rng.uniform(*config.burst_minutes) * 60_000)
        sizes.append(max(1, round(durations_ms[-1] / 1000 * config.burst_clicks_per_s)))
    starts_ms = _spread_starts_ms(world, np.array(durations_ms), rng)
    return [Event(*event) for event in zip(starts_ms, durations_ms, sizes, strict=True)]


def burst(world: World, event: Event, rng: np.random.Generator) -> Array:
    """The clicks of one burst."""
    config, (start_ms, duration_ms, size) = world.config.robots, event
    if rng.random() < config.burst_rotating_share:
        actor: Ints = np.cumsum(rng.random(size) < 0.35)  # a new cookie about every third click
    else:
        actor = rng.integers(0, rng.integers(1, 3), size)
    actors = int(actor.max()) + 1
    kinds = np.full(rng.integers(1, 7), rng.choice([MOBILE, DESKTOP]))
    targets = worlds.campaigns(world, rng, int(rng.integers(1, 4)))
    return worlds.clicks(
        time_ms=start_ms + np.sort(rng.random(size)) * duration_ms,
        user=worlds.ids(rng, actors)[actor],
        session=worlds.ids(rng, actors)[actor],
        ip=rng.choice(worlds.ips(rng, int(rng.integers(1, config.burst_ips_max + 1))), size),
        device=rng.choice(worlds.devices(rng, kinds), actors)[actor],
        campaign=rng.choice(targets, size),
        logged_in=False,
    )


def competitor(world: World, budget: int, rng: np.random.Generator, actors: np.random.Generator) -> Array:
    """Attacks on one campaign each, for hours, through many proxies and cookies."""
    made = [attack(world, event, rng) for event in attack_events(world, budget, actors)]
    return worlds.within(world, _joined(made))[:budget]


def attack_events(world: World, budget: int, rng: np.random.Generator) -> list[Event]:
    """The attacks of a run."""
    config = world.config.robots
    sizes: list[int] = []
    while sum(sizes) < budget:
        sizes.append(int(rng.integers(config.competitor_clicks[0], config.competitor_clicks[1] + 1)))
    durations_ms = rng.uniform(*config.competitor_hours, len(sizes)) * _HOUR_MS
    starts_ms = _spread_starts_ms(world, durations_ms, rng)
    return [Event(*event) for event in zip(starts_ms, durations_ms, sizes, strict=True)]


def attack(world: World, event: Event, rng: np.random.Generator) -> Array:
    """The clicks of one attack."""
    config, (start_ms, duration_ms, size) = world.config.robots, event
    cookies = max(1, round(size / config.competitor_clicks_per_cookie))
    proxies = worlds.ips(rng, int(rng.integers(config.competitor_proxies[0], config.competitor_proxies[1] + 1)))
    cookie = rng.integers(0, cookies, size)
    device = worlds.devices(rng, rng.choice([MOBILE, DESKTOP], cookies))
    return worlds.clicks(
        time_ms=start_ms + np.sort(rng.random(size)) * duration_ms,
        user=worlds.ids(rng, cookies)[cookie],
        session=worlds.ids(rng, cookies)[cookie],
        ip=rng.choice(proxies, cookies)[cookie],
        device=device[cookie],
        campaign=np.full(size, worlds.campaigns(world, rng, 1)[0]),
        logged_in=False,
    )


def botnet(world: World, budget: int, rng: np.random.Generator, actors: np.random.Generator) -> Array:
    """Robots that click once in a while with a new cookie a day, some behind gateways; more of them join later."""
    config = world.config
    robots = config.robots
    period_ms = robots.botnet_period_s * 1000
    later = robots.botnet_second_wave * (1.0 - robots.botnet_second_wave_start)
    first_wave = int(budget / (config.duration_ms / period_ms * (1.0 + later))) + 1
    second_wave = round(first_wave * robots.botnet_second_wave)
    start_ms = np.repeat([0.0, robots.botnet_second_wave_start * config.duration_ms], [first_wave, second_wave])
    start_ms = rng.permutation(start_ms + rng.random(len(start_ms)) * period_ms)
    sizes = 1 + np.ceil((config.duration_ms - start_ms) / (period_ms * (1.0 - robots.botnet_jitter))).astype(np.int64)
    of = np.repeat(np.arange(len(sizes)), sizes)
    gaps_ms = period_ms * (1.0 + robots.botnet_jitter * rng.uniform(-1.0, 1.0, len(of)))
    time_ms = start_ms[of] + worlds.running_sum(gaps_ms, sizes)
    behind = actors.random(len(sizes)) < robots.botnet_gateway_share
    ip = np.where(behind, actors.choice(world.gateways, len(sizes)), worlds.ips(actors, len(sizes)))
    device = worlds.devices(actors, actors.choice([MOBILE, DESKTOP], len(sizes)))
    made = worlds.clicks(
        time_ms=time_ms,
        user=_daily_ids(time_ms, of, rng),
        session=worlds.ids(rng, len(of)),
        ip=ip[of],
        device=device[of],
        campaign=worlds.campaigns(world, rng, len(of)),
        logged_in=False,
    )
    return worlds.within(world, made)[:budget]


def click_farm(world: World, budget: int, rng: np.random.Generator, actors: np.random.Generator) -> Array:
    """People paid to click: logged-in phones behind a few addresses, human gaps, far too many clicks a day."""
    config = world.config.robots
    mean_per_day = sum(config.farm_clicks_per_day) / 2
    devices = int(budget / (mean_per_day * max(1.0, world.config.days))) + 2
    per_session = 1.0 / config.farm_session_geometric
    of, start_ms = _shift_sessions(world, actors.uniform(*config.farm_clicks_per_day, devices) / per_session, rng)
    sizes = rng.geometric(config.farm_session_geometric, len(of))
    click = np.repeat(np.arange(len(of)), sizes)
    people = world.config.people
    gaps_ms = rng.lognormal(np.log(people.gap_median_s * 1000), people.gap_sigma, len(click))
    farms = 1 + (devices - 1) // config.farm_devices
    addresses = worlds.ips(actors, farms * config.farm_ips)
    own = actors.integers(0, config.farm_ips, devices)
    device_ip = np.arange(devices) // config.farm_devices * config.farm_ips + own
    made = worlds.clicks(
        time_ms=start_ms[click] + worlds.running_sum(gaps_ms, sizes),
        user=worlds.ids(actors, devices)[of][click],
        session=worlds.ids(rng, len(of))[click],
        ip=addresses[device_ip][of][click],
        device=worlds.devices(actors, np.full(devices, APP))[of][click],
        campaign=worlds.campaigns(world, rng, len(click)),
        logged_in=True,
    )
    return worlds.within(world, made)[:budget]


def _shift_sessions(world: World, sessions_per_day: Floats, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Sessions of each device, day by day within a shift: the device of each, and its start."""
    days = int(np.ceil(world.config.days)) + 1  # a run may begin in the middle of one
    counts = rng.poisson(np.repeat(sessions_per_day, days))
    device = np.repeat(np.repeat(np.arange(len(sessions_per_day)), days), counts)
    day = np.repeat(np.tile(np.arange(days), len(sessions_per_day)), counts)
    midnight_ms = -(world.config.start_ms % _DAY_MS)
    first_ms = 6 * _HOUR_MS
    return device, midnight_ms + day * _DAY_MS + first_ms + rng.random(len(day)) * _FARM_SHIFT_MS


def gateway_scraper(world: World, budget: int, rng: np.random.Generator, actors: np.random.Generator) -> Array:
    """Scrapers hidden behind carriers' gateways: runs of evenly paced clicks over all campaigns, a cookie a day."""
    config = world.config.robots
    scrapers = int(budget / (config.scraper_clicks_per_day * world.config.days)) + 1
    runs = int(np.ceil(config.scraper_clicks_per_day * world.config.days / config.scraper_run_clicks)) + 1
    run_scraper = np.repeat(np.arange(scrapers), runs)
    run_start_ms = rng.random(len(run_scraper)) * world.config.duration_ms
    sizes = np.full(len(run_scraper), config.scraper_run_clicks)
    run = np.repeat(np.arange(len(run_scraper)), sizes)
    low_s, high_s = config.scraper_gap_s
    time_ms = run_start_ms[run] + worlds.running_sum(rng.uniform(low_s * 1000, high_s * 1000, len(run)), sizes)
    of = run_scraper[run]
    device = worlds.devices(actors, actors.choice([MOBILE, DESKTOP], scrapers))
    made = worlds.clicks(
        time_ms=time_ms,
        user=_daily_ids(run_start_ms[run], of, rng),
        session=worlds.ids(rng, len(run_scraper))[run],
        ip=actors.choice(world.gateways, scrapers)[of],
        device=device[of],
        campaign=rng.integers(0, world.config.campaigns, len(run)),
        logged_in=False,
    )
    return worlds.within(world, made)[:budget]


def _spread_starts_ms(world: World, durations_ms: Floats, rng: np.random.Generator) -> Floats:
    """A start for each event, one in each equal part of the run, so that even short runs have robots early and late."""
    count = len(durations_ms)
    part_ms = np.maximum(world.config.duration_ms - durations_ms, 0.0) / max(count, 1)
    return rng.permutation(count) * part_ms + rng.random(count) * part_ms


def _daily_ids(time_ms: Floats, actor: Ints, rng: np.random.Generator) -> Ints:
    """An id for each actor and day of the run."""
    day = np.floor(time_ms / _DAY_MS).astype(np.int64)
    days = int(day.max(initial=0)) + 1
    drawn: Ints = worlds.ids(rng, days * (int(actor.max(initial=0)) + 1))[actor * days + day]
    return drawn


def _joined(made: list[Array]) -> Array:
    return np.concatenate([np.zeros(0, dtype=worlds.CLICKS), *made])


MAKERS: dict[str, Callable[[World, int, np.random.Generator, np.random.Generator], Array]] = {
    "burst": bursts,
    "competitor": competitor,
    "botnet": botnet,
    "click_farm": click_farm,
    "gateway_scraper": gateway_scraper,
}
EVENT_MAKERS: dict[str, Callable[[World, Event, np.random.Generator], Array]] = {"burst": burst, "competitor": attack}
