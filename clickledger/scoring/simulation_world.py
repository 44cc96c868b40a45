"""What people and robots share: campaigns, devices, carrier gateways, and how a click is laid out before it is told.

Invariants:
- ids of users and sessions are random numbers from one range whoever they belong to: they tell nothing of its kind;
- the times in `CLICKS` are milliseconds from the start of the run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clickledger.scoring.simulation_config import SimulationConfig

Array = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

KINDS = ("app", "mobile", "desktop")
APP, MOBILE, DESKTOP = range(3)
CLICKS = np.dtype(
    [
        ("time_ms", "i8"),
        ("user", "i8"),
        ("session", "i8"),
        ("ip", "i8"),  # an IPv4 address
        ("device", "i2"),  # index into DEVICES
        ("campaign", "i2"),
        ("logged_in", "?"),
    ]
)
_ID_END = 1 << 60
_PUBLIC_OCTETS = np.array([n for n in range(1, 224) if n not in {10, 100, 127, 169, 172, 192, 198, 203}])


def _devices() -> tuple[list[str], list[int]]:
    phones = ["Pixel 8", "Pixel 9a", "SM-A155F", "SM-S921B", "SM-A546B", "2312DRA50G", "CPH2585", "moto g54"]
    apple = ["iPhone13,2", "iPhone14,5", "iPhone15,3", "iPhone16,1", "iPhone17,3"]
    names = {
        APP: [f"Shop/{v} (Android {14 + i % 2}; {p})" for v in ("8.1", "8.2", "8.3") for i, p in enumerate(phones)]
        + [f"Shop/{v} (iOS 18.{i}; {model})" for v in ("8.1", "8.3") for i, model in enumerate(apple)],
        MOBILE: [f"Chrome/{v} Mobile (Android {14 + i % 2}; {p})" for v in (137, 138) for i, p in enumerate(phones)]
        + [f"Safari/18.{i} Mobile (iPhone)" for i in range(6)],
        DESKTOP: [f"{b} ({s})" for b in ("Chrome/137", "Chrome/138", "Edge/138") for s in ("Windows 10", "Windows 11")]
        + [f"{b} ({s})" for b in ("Chrome/138", "Firefox/140") for s in ("Linux", "macOS 14", "macOS 15", "Windows 11")]
        + [f"Safari/18.{i} (macOS 15)" for i in range(4)],
    }
    return [name for kind in names.values() for name in kind], [kind for kind, own in names.items() for _ in own]


DEVICES, _DEVICE_KIND = _devices()
DEVICE_KIND: Ints = np.array(_DEVICE_KIND, dtype=np.int64)  # (devices,) index into KINDS
_DEVICES_OF = tuple(np.flatnonzero(kind == DEVICE_KIND) for kind in range(len(KINDS)))


@dataclass(frozen=True)
class World:
    """The stage of one run."""

    config: SimulationConfig
    advertiser: Ints  # (campaigns,)
    price_micros: Floats  # (campaigns,) what a click costs in the middle
    popularity: Floats  # (campaigns,) cumulative
    gateways: Ints  # (gateways,) addresses of carriers, shared by people and robots


def build(config: SimulationConfig, rng: np.random.Generator) -> World:
    """Draw the campaigns and gateways of a run."""
    weights = rng.permutation(1.0 / np.arange(1, config.campaigns + 1) ** 0.8)
    every = np.arange(config.advertisers)  # each advertiser has a campaign
    rest = rng.integers(0, config.advertisers, config.campaigns - config.advertisers)
    gateways = max(3, round(accounts(config) / config.people.accounts_per_gateway))
    return World(
        config=config,
        advertiser=rng.permutation(np.concatenate([every, rest])),
        price_micros=rng.lognormal(np.log(config.price_median_micros), 0.6, config.campaigns),
        popularity=np.cumsum(weights) / weights.sum(),
        gateways=ips(rng, gateways),
    )


def accounts(config: SimulationConfig) -> int:
    """How many accounts it takes to click as often as people do."""
    human_clicks = config.clicks * (1.0 - config.robots.share)
    return max(50, round(human_clicks / (config.people.clicks_per_account_day * config.days)))


def ids(rng: np.random.Generator, count: int) -> Ints:
    """Fresh ids of users or sessions."""
    return rng.integers(0, _ID_END, count)


def ips(rng: np.random.Generator, count: int) -> Ints:
    """Fresh public IPv4 addresses, as integers."""
    octets: Ints = rng.choice(_PUBLIC_OCTETS, count)
    return (octets << 24) | rng.integers(0, 1 << 24, count)


def devices(rng: np.random.Generator, kinds: Ints) -> Ints:
    """A device for each kind given (n,): few models are common, many are rare."""
    chosen = np.zeros(len(kinds), dtype=np.int64)
    for kind, own in enumerate(_DEVICES_OF):
        mine = kinds == kind
        chosen[mine] = own[(len(own) * rng.random(int(mine.sum())) ** 2).astype(np.int64)]
    return chosen


def campaigns(world: World, rng: np.random.Generator, count: int) -> Ints:
    """Campaigns as often as they are shown."""
    return np.searchsorted(world.popularity, rng.random(count)).clip(max=world.config.campaigns - 1)


def clicks(
    *,
    time_ms: Floats | Ints,
    user: Ints,
    session: Ints,
    ip: Ints,
    device: Ints,
    campaign: Ints,
    logged_in: Flags | bool,
) -> Array:
    """Columns (n,) as one array of `CLICKS`."""
    made = np.zeros(len(time_ms), dtype=CLICKS)
    made["time_ms"] = np.floor(time_ms)
    made["user"], made["session"], made["ip"] = user, session, ip
    made["device"], made["campaign"], made["logged_in"] = device, campaign, logged_in
    return made


def within(world: World, made: Array) -> Array:
    """Only the clicks that fall into the run."""
    return made[(made["time_ms"] >= 0) & (made["time_ms"] < world.config.duration_ms)]


def running_sum(values: Floats, sizes: Ints) -> Floats:
    """Sum up `values` (sum of sizes,) from nought within each of the groups that follow each other."""
    total = np.cumsum(values)
    starts = np.cumsum(sizes) - sizes
    since_start: Floats = total - np.repeat(total[starts], sizes)
    return since_start
