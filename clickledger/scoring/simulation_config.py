"""What simulated traffic is made of: all its parameters, frozen.

Rates per actor (a robot's clicks a day, a burst's clicks a second) are absolute; numbers of actors follow from the size
of the run. So traffic of any size has robots as hot, and gateways as crowded, as traffic of millions of clicks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from clickledger.errors import InvalidInput

CLICKS_MIN, CLICKS_MAX = 1_000, 20_000_000
HOURS_MIN, HOURS_MAX = 6.0, 24.0 * 400
START_MS_MIN, START_MS_MAX = 1_262_304_000_000, 4_102_444_800_000  # 2010 to 2100


@dataclass(frozen=True, slots=True)
class PeopleConfig:
    """People: how often they click, from where, logged in or not, and what they buy. Gaps in seconds."""

    clicks_per_account_day: float = 3.0
    activity_shape: float = 0.7  # gamma; below 1: many click rarely, few often
    session_geometric: float = 0.42  # clicks per session
    gap_median_s: float = 40.0
    gap_sigma: float = 1.1
    double_click_share: float = 0.02
    same_campaign_share: float = 0.55  # clicks on what the session began with
    heavy_share: float = 0.012  # of accounts: shop a lot
    heavy_activity: float = 6.0  # times others'
    heavy_propensity: float = 6.0  # times others', to buy per click
    peak_hour_utc: float = 20.0
    rhythm_strength: float = 1.1  # log of half the ratio between busiest and quietest hour, roughly 9 to 1
    weekend_factor: float = 1.25
    home_share: float = 0.62
    gateway_share: float = 0.30
    roaming_share: float = 0.12  # sessions through a gateway whoever it is
    accounts_per_home: float = 1.8
    accounts_per_gateway: float = 450.0
    accounts_per_office: float = 40.0
    kind_shares: tuple[float, float, float] = (0.50, 0.28, 0.22)  # app, mobile, desktop
    login_shares: tuple[float, float, float] = (0.92, 0.50, 0.55)
    purchase_share: float = 0.014  # of human clicks
    purchase_login_factor: float = 5.0  # logged in against not
    delay_short_share: float = 0.6
    delay_short_median_s: float = 20 * 60.0
    delay_long_median_s: float = 20 * 3600.0
    delay_sigma: float = 0.9
    value_median_micros: float = 30_000_000.0
    value_sigma: float = 0.9


@dataclass(frozen=True, slots=True)
class RobotsConfig:
    """Robots: each kind's share of all clicks, and how one of its actors behaves."""

    burst_share: float = 0.06
    burst_minutes: tuple[float, float] = (5.0, 60.0)
    burst_clicks_per_s: float = 0.5
    burst_ips_max: int = 4
    burst_rotating_share: float = 0.5

    competitor_share: float = 0.04
    competitor_clicks: tuple[int, int] = (800, 4000)
    competitor_proxies: tuple[int, int] = (60, 400)
    competitor_hours: tuple[float, float] = (1.0, 6.0)
    competitor_clicks_per_cookie: float = 3.0

    botnet_share: float = 0.05
    botnet_period_s: float = 48 * 60.0
    botnet_jitter: float = 0.12
    botnet_gateway_share: float = 0.35
    botnet_second_wave: float = 600 / 330  # robots per robot of the first wave
    botnet_second_wave_start: float = 0.6  # of the run

    farm_share: float = 0.03
    farm_devices: int = 28
    farm_ips: int = 4
    farm_clicks_per_day: tuple[float, float] = (60.0, 180.0)
    farm_session_geometric: float = 0.12

    scraper_share: float = 0.02
    scraper_clicks_per_day: float = 200.0
    scraper_run_clicks: int = 33
    scraper_gap_s: tuple[float, float] = (3.0, 9.0)

    adware_share: float = 0.015
    adware_gap_median_s: float = 25.0
    adware_clicks_per_human_click: float = 0.6  # on the accounts it sits on

    @property
    def share(self) -> float:
        """All robots' share of clicks."""
        return (
            self.burst_share
            + self.competitor_share
            + self.botnet_share
            + self.farm_share
            + self.scraper_share
            + self.adware_share
        )


class FaultKind(StrEnum):
    """What goes wrong on the way from clickers to the ledger; none of it changes who clicked."""

    LABEL_OUTAGE = "label-outage"  # purchases that happen meanwhile are never told
    LATE_CLICKS = "late-clicks"  # clicks arrive minutes after they were made
    RETRIES = "retries"  # clicks are sent again, most of them soon
    SKEWED_CLOCKS = "skewed-clocks"  # senders' clocks are minutes off, each by its own amount
    RFM_POISONING = "rfm-poisoning"  # click farms buy with their accounts, so as to pass for people
    COUNTER_LOSS = "counter-loss"  # a mark for whoever drives a ledger: the counters' memory is lost here


SHARES = {  # of what a fault hits, unless it says otherwise
    FaultKind.LABEL_OUTAGE: 1.0,
    FaultKind.LATE_CLICKS: 0.05,
    FaultKind.RETRIES: 0.1,
    FaultKind.SKEWED_CLOCKS: 0.03,
    FaultKind.RFM_POISONING: 0.3,
    FaultKind.COUNTER_LOSS: 1.0,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault from one moment to another, Unix ms [from_ms, to_ms); `share` of what it hits, None for the usual one."""

    kind: FaultKind
    from_ms: int
    to_ms: int
    share: float | None = None

    def __post_init__(self) -> None:
        if self.to_ms < self.from_ms:
            raise InvalidInput(f"fault {self.kind}: expected an end after {self.from_ms}, got {self.to_ms}")
        if self.share is not None:
            _check(f"share of fault {self.kind}", self.share, 0.0, 1.0)

    @property
    def share_hit(self) -> float:
        """The share in force."""
        return SHARES[self.kind] if self.share is None else self.share


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """One run: exactly `clicks` clicks from `start_ms` (Unix milliseconds) on for `duration_hours`, told by `seed`.

    Retries come on top of `clicks`. A fault changes nothing but what it is for, whatever other faults there are.
    """

    clicks: int
    start_ms: int
    duration_hours: float = 72.0
    seed: int = 1
    advertisers: int = 60
    campaigns: int = 400
    price_median_micros: float = 250_000.0
    people: PeopleConfig = field(default_factory=PeopleConfig)
    robots: RobotsConfig = field(default_factory=RobotsConfig)
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        _check("clicks", self.clicks, CLICKS_MIN, CLICKS_MAX)
        _check("start_ms", self.start_ms, START_MS_MIN, START_MS_MAX)
        _check("duration_hours", self.duration_hours, HOURS_MIN, HOURS_MAX)
        _check("seed", self.seed, 0, 2**63)
        _check("advertisers", self.advertisers, 1, 10_000)
        _check("campaigns", self.campaigns, self.advertisers, 30_000)
        _check("robots' share of clicks", self.robots.share, 0.0, 0.6)
        _check("adware's share of clicks", self.robots.adware_share, 0.0, 0.1)  # it needs human clicks to follow

    @property
    def duration_ms(self) -> int:
        """Length of the run."""
        return round(self.duration_hours * 3_600_000)

    @property
    def end_ms(self) -> int:
        """The moment after the run."""
        return self.start_ms + self.duration_ms

    @property
    def days(self) -> float:
        """Length of the run in days."""
        return self.duration_hours / 24.0


def _check(name: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise InvalidInput(f"simulation: {name}: expected {lowest} to {highest}, got {value}")
