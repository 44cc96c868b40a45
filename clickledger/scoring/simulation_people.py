"""People: accounts with a daily rhythm, sessions from home, office, or a carrier's gateway, and purchases.

A person who is logged in is its account; one who is not is the cookie of its device. Purchases are likelier for people
who are logged in and, by far, for heavy shoppers, so that accounts come back to buy again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clickledger.scoring import simulation_world as worlds
from clickledger.scoring.simulation_config import PeopleConfig, SimulationConfig
from clickledger.scoring.simulation_world import Array, Flags, Floats, Ints, World

PURCHASES = np.dtype([("click", "i8"), ("time_ms", "i8"), ("value_micros", "i8")])
MINUTE_MS = 60_000
_SESSIONS_MARGIN = 1.15
_OFFICE_HOURS = (8, 18)


@dataclass(frozen=True)
class Population:
    """The accounts of a run, one row each."""

    account: Ints  # user id when logged in
    cookie: Ints  # user id when not
    kind: Ints
    device: Ints
    activity: Floats  # cumulative share of sessions
    propensity: Floats  # to buy
    home: Ints  # addresses
    office: Ints
    gateway: Ints
    place: Ints  # 0 home, 1 gateway, 2 office in its hours


def populate(world: World, rng: np.random.Generator) -> Population:
    """Draw the accounts of a run."""
    people, count = world.config.people, worlds.accounts(world.config)
    heavy = rng.random(count) < people.heavy_share
    activity = rng.gamma(people.activity_shape, size=count) * np.where(heavy, people.heavy_activity, 1.0)
    kind = rng.choice(len(worlds.KINDS), count, p=people.kind_shares)
    homes = worlds.ips(rng, max(1, round(count / people.accounts_per_home)))
    offices = worlds.ips(rng, max(4, round(count / people.accounts_per_office)))
    office_share = 1.0 - people.home_share - people.gateway_share
    return Population(
        account=worlds.ids(rng, count),
        cookie=worlds.ids(rng, count),
        kind=kind,
        device=worlds.devices(rng, kind),
        activity=np.cumsum(activity) / activity.sum(),
        propensity=(0.2 + rng.gamma(1.0, size=count)) * np.where(heavy, people.heavy_propensity, 1.0),
        home=rng.choice(homes, count),
        office=rng.choice(offices, count),
        gateway=rng.choice(world.gateways, count),
        place=rng.choice(3, count, p=(people.home_share, people.gateway_share, office_share)),
    )


def human_clicks(world: World, people: Population, count: int, rng: np.random.Generator) -> tuple[Array, Ints]:
    """Exactly `count` clicks of people, session after session, and the account (row of `people`) of each."""
    made: list[Array] = []
    accounts: list[Ints] = []
    missing = count
    while missing > 0:
        clicks, account = _sessions(world, people, missing, rng)
        made.append(clicks[:missing])
        accounts.append(account[:missing])
        missing -= len(made[-1])
    return np.concatenate(made), np.concatenate(accounts)


def _sessions(world: World, people: Population, clicks_wanted: int, rng: np.random.Generator) -> tuple[Array, Ints]:
    config = world.config.people
    count = 16 + int(clicks_wanted * config.session_geometric * _SESSIONS_MARGIN)
    account = np.searchsorted(people.activity, rng.random(count)).clip(max=len(people.account) - 1)
    start_ms = rhythmic_times_ms(world, rng, count)
    logged_in = rng.random(count) < np.array(config.login_shares)[people.kind[account]]
    sizes = rng.geometric(config.session_geometric, count)
    of = np.repeat(np.arange(count), sizes)  # click -> session
    gaps_ms = rng.lognormal(np.log(config.gap_median_s * 1000), config.gap_sigma, len(of))
    clicks = worlds.clicks(
        time_ms=start_ms[of] + worlds.running_sum(gaps_ms, sizes),
        user=np.where(logged_in, people.account[account], people.cookie[account])[of],
        session=worlds.ids(rng, count)[of],
        ip=_addresses(world, people, account, start_ms, rng)[of],
        device=people.device[account][of],
        campaign=_session_campaigns(world, of, count, rng),
        logged_in=logged_in[of],
    )
    clicks, account_of = _with_double_clicks(clicks, account[of], config.double_click_share, rng)
    inside = clicks["time_ms"] < world.config.duration_ms
    return clicks[inside], account_of[inside]


def rhythmic_times_ms(world: World, rng: np.random.Generator, count: int) -> Floats:
    """Times from the start of the run, more of them in the evening (UTC) and at weekends."""
    config = world.config
    cumulative = np.cumsum(rhythm(config))
    minute = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    time_ms: Floats = np.minimum((minute + rng.random(count)) * MINUTE_MS, config.duration_ms - 1)
    return time_ms


def rhythm(config: SimulationConfig) -> Floats:
    """How much people click in each minute of a run (minutes,), in no unit."""
    people = config.people
    moment_ms = config.start_ms + np.arange(int(np.ceil(config.duration_ms / MINUTE_MS))) * MINUTE_MS
    hour = moment_ms / 3_600_000 % 24
    weekday = (moment_ms // 86_400_000 + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    weight: Floats = np.exp(people.rhythm_strength * np.cos((hour - people.peak_hour_utc) * (2 * np.pi / 24)))
    return weight * np.where(weekday >= 5, people.weekend_factor, 1.0)


def _addresses(world: World, people: Population, account: Ints, start_ms: Floats, rng: np.random.Generator) -> Ints:
    """The address of each session: an office worker is at home out of hours, and anybody may be on the road."""
    hour = (world.config.start_ms + start_ms) / 3_600_000 % 24
    at_work = (people.place[account] == 2) & (hour >= _OFFICE_HOURS[0]) & (hour < _OFFICE_HOURS[1])
    ip = np.where(at_work, people.office[account], people.home[account])
    ip = np.where(people.place[account] == 1, people.gateway[account], ip)
    roaming = rng.random(len(account)) < world.config.people.roaming_share
    return np.where(roaming, rng.choice(world.gateways, len(account)), ip)


def _session_campaigns(world: World, of: Ints, sessions: int, rng: np.random.Generator) -> Ints:
    first = worlds.campaigns(world, rng, sessions)[of]
    other = worlds.campaigns(world, rng, len(of))
    return np.where(rng.random(len(of)) < world.config.people.same_campaign_share, first, other)


def _with_double_clicks(clicks: Array, account: Ints, share: float, rng: np.random.Generator) -> tuple[Array, Ints]:
    """Repeat a share of the clicks within a second, right behind the first."""
    times = np.where(rng.random(len(clicks)) < share, 2, 1)
    doubled, account_of = np.repeat(clicks, times), np.repeat(account, times)
    second = np.cumsum(times)[times == 2] - 1
    doubled["time_ms"][second] += rng.integers(80, 700, len(second))
    return doubled, account_of


def adware(
    world: World, human: Array, account: Ints, count: int, rng: np.random.Generator, order: Ints | None = None
) -> Array:
    """At most `count` clicks that adware adds on real accounts, devices and addresses, soon after a person's own.

    `order` of the accounts in which they are infected (accounts,), until there are enough; drawn where not given.
    """
    config = world.config.robots
    gaps_ms = rng.lognormal(np.log(config.adware_gap_median_s * 1000), world.config.people.gap_sigma, len(human))
    time_ms = human["time_ms"] + np.floor(gaps_ms).astype(np.int64)
    eligible = time_ms < world.config.duration_ms
    per_account = np.bincount(account[eligible], minlength=int(account.max()) + 1 if order is None else len(order))
    order = rng.permutation(len(per_account)) if order is None else order
    reach = np.searchsorted(np.cumsum(per_account[order]), count / config.adware_clicks_per_human_click) + 1
    infected = np.zeros(len(per_account), dtype=np.bool_)
    infected[order[:reach]] = True
    hosts = rng.permutation(np.flatnonzero(eligible & infected[account]))[:count]
    made: Array = human[hosts].copy()
    made["time_ms"] = time_ms[hosts]
    made["campaign"] = worlds.campaigns(world, rng, len(hosts))
    return made


def purchases(world: World, people: Population, human: Array, account: Ints, rng: np.random.Generator) -> Array:
    """What people bought, with `click` an index into `human`; some of it after the end of the run."""
    config = world.config.people
    weight = people.propensity[account] * np.where(human["logged_in"], config.purchase_login_factor, 1.0)
    click = np.flatnonzero(rng.random(len(human)) < config.purchase_share * weight / weight.mean())
    made = np.zeros(len(click), dtype=PURCHASES)
    made["click"] = click
    made["time_ms"] = human["time_ms"][click] + _delays_ms(config, len(click), rng)
    made["value_micros"] = rng.lognormal(np.log(config.value_median_micros), config.value_sigma, len(click))
    return made


def _delays_ms(config: PeopleConfig, count: int, rng: np.random.Generator) -> Ints:
    short: Flags = rng.random(count) < config.delay_short_share
    median_s = np.where(short, config.delay_short_median_s, config.delay_long_median_s)
    return np.ceil(median_s * 1000 * rng.lognormal(0.0, config.delay_sigma, count)).astype(np.int64)
