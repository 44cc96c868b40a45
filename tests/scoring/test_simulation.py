"""Simulated traffic: seeded, of the stated mixture, with a daily rhythm, and without a trace of its truth."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickledger.errors import InvalidInput
from clickledger.scoring import intake, ndjson, simulation_truth
from clickledger.scoring.pseudonyms import Pseudonyms
from clickledger.scoring.simulation import RobotsConfig, Simulated, SimulationConfig, Truth, simulate

NAMES = Pseudonyms(bytes(32))
TRUTH_MODULE = "clickledger.scoring.simulation_truth"
START_MS = 1_759_449_600_000  # Friday 2025-10-03 00:00 UTC
CONFIG = SimulationConfig(clicks=60_000, start_ms=START_MS, duration_hours=72, seed=7)
COLUMNS = [field.name for field in fields(Simulated) if field.name not in {"config", "purchases"}]
SHARES = {
    "burst": "burst_share",
    "competitor": "competitor_share",
    "botnet": "botnet_share",
    "click_farm": "farm_share",
    "gateway_scraper": "scraper_share",
    "adware": "adware_share",
}
TRAFFIC, TRUTH = simulate(CONFIG)
SMALL = replace(CONFIG, clicks=3_000, duration_hours=48)


def of(kind: str) -> npt.NDArray[np.bool_]:
    """Which clicks are of this kind."""
    return np.isin(TRUTH.kind, simulation_truth.KINDS.index(kind))


def assert_same(first: tuple[Simulated, Truth], second: tuple[Simulated, Truth]) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(first[0], name), getattr(second[0], name))
    for field in fields(first[0].purchases):
        np.testing.assert_array_equal(getattr(first[0].purchases, field.name), getattr(second[0].purchases, field.name))
    np.testing.assert_array_equal(first[1].kind, second[1].kind)


def test_same_seed_gives_the_same_traffic_and_another_seed_other_traffic() -> None:
    assert_same(simulate(SMALL), simulate(SMALL))
    assert not np.array_equal(simulate(SMALL)[0].user, simulate(replace(SMALL, seed=8))[0].user)


@settings(deadline=None, max_examples=25)
@given(
    clicks=st.integers(1_000, 8_000),
    hours=st.floats(6, 24 * 20),
    start_ms=st.integers(START_MS, START_MS + 10**9),
    seed=st.integers(0, 2**63),
)
def test_any_run_has_exactly_its_clicks_in_order_and_within_its_time(
    clicks: int, hours: float, start_ms: int, seed: int
) -> None:
    config = SimulationConfig(clicks=clicks, start_ms=start_ms, duration_hours=hours, seed=seed)
    traffic, truth = simulate(config)
    assert {len(getattr(traffic, name)) for name in COLUMNS} == {clicks}
    assert len(truth.kind) == clicks
    assert (np.diff(traffic.event_time_ms) >= 0).all()
    assert start_ms <= traffic.event_time_ms[0] <= traffic.event_time_ms[-1] < start_ms + config.duration_ms
    assert (traffic.cost_micros > 0).all()
    assert set(traffic.advertiser) <= set(range(config.advertisers))


@pytest.mark.parametrize("seed", range(4))
def test_each_kind_has_its_share(seed: int) -> None:
    _, truth = simulate(replace(CONFIG, seed=seed))
    stated = {kind: getattr(CONFIG.robots, name) for kind, name in SHARES.items()}
    stated["human"] = 1.0 - CONFIG.robots.share
    shares = {kind: count / CONFIG.clicks for kind, count in truth.counts().items()}
    assert shares == pytest.approx(stated, abs=0.01)
    assert truth.robot.sum() == sum(count for kind, count in truth.counts().items() if kind != "human")


def test_traffic_without_robots_is_human() -> None:
    none = RobotsConfig(
        burst_share=0, botnet_share=0, competitor_share=0, farm_share=0, scraper_share=0, adware_share=0
    )
    _, truth = simulate(replace(SMALL, robots=none))
    assert truth.counts()["human"] == SMALL.clicks


def test_people_follow_the_day() -> None:
    hours = np.bincount((TRAFFIC.event_time_ms[of("human")] // 3_600_000) % 24, minlength=24)
    assert abs(int(hours.argmax()) - 20) <= 2
    assert hours.max() > 5 * hours.min()


def test_people_click_more_at_weekends() -> None:
    traffic, truth = simulate(replace(CONFIG, duration_hours=24 * 14))
    weekday = (traffic.event_time_ms[~truth.robot] // 86_400_000 + 3) % 7
    per_day = np.bincount(weekday, minlength=7)
    assert 1.15 < per_day[5:].mean() / per_day[:5].mean() < 1.35


def test_robots_are_as_hot_as_their_kind() -> None:
    def clicks_per_user(kind: str) -> float:
        mine = TRAFFIC.user[of(kind)]
        return len(mine) / len(np.unique(mine))

    assert len(np.unique(TRAFFIC.campaign[of("competitor")])) <= 3
    assert len(np.unique(TRAFFIC.ip[of("burst")])) < 40
    assert 15 < clicks_per_user("botnet") < 31  # a cookie a day, a click in 48 minutes
    assert clicks_per_user("click_farm") > 100
    assert TRAFFIC.logged_in[of("click_farm")].all()
    assert set(TRAFFIC.ip[of("gateway_scraper")]) <= set(TRAFFIC.ip[of("human")])
    assert set(TRAFFIC.user[of("adware")]) <= set(TRAFFIC.user[of("human")])


def test_purchases_follow_human_clicks_and_are_as_many_as_stated() -> None:
    purchases = TRAFFIC.purchases
    assert (purchases.occurred_at_ms > TRAFFIC.event_time_ms[purchases.click]).all()
    assert not TRUTH.robot[purchases.click].any()
    assert (np.diff(purchases.occurred_at_ms) >= 0).all()
    assert (purchases.value_micros > 0).all()
    assert len(np.unique(purchases.click)) == len(purchases)
    assert len(purchases) / of("human").sum() == pytest.approx(0.014, rel=0.15)
    assert TRAFFIC.logged_in[purchases.click].mean() > 0.8


@pytest.mark.parametrize(("clicks", "hours"), [(50_000, 48), (100_000, 96)])
def test_known_customers_are_a_visible_share_of_people(clicks: int, hours: float) -> None:
    """Accounts with an earlier purchase are what detection watches after a deployment."""
    traffic, truth = simulate(replace(CONFIG, clicks=clicks, duration_hours=hours))
    buyers, first = np.unique(traffic.user[traffic.purchases.click], return_index=True)
    first_ms = dict(zip(buyers.tolist(), traffic.purchases.occurred_at_ms[first].tolist(), strict=True))
    never = START_MS * 2
    known = np.array([first_ms.get(user, never) for user in traffic.user.tolist()]) < traffic.event_time_ms
    human = ~truth.robot
    late = traffic.event_time_ms > START_MS + 0.6 * hours * 3_600_000
    assert known[human].mean() > 0.03
    assert known[human & late].mean() > 0.05


def test_clicks_carry_no_truth() -> None:
    row = next(TRAFFIC.raw_clicks())
    text = json.dumps(list(TRAFFIC.raw_clicks())[:2_000])
    assert row.keys() <= ndjson.FIELDS
    assert not any(kind in text for kind in simulation_truth.KINDS)


@pytest.mark.parametrize("column", ["click", "user", "session", "ip"])
def test_ids_do_not_separate_robots_from_people(column: str) -> None:
    """Neither the size of an id nor its last digits tell the kind: the AUC of a distinct id is about a half."""
    for values in (getattr(TRAFFIC, column), getattr(TRAFFIC, column) % 4096):
        robots, people = np.unique(values[TRUTH.robot]), np.unique(values[~TRUTH.robot])
        below = np.searchsorted(np.sort(people), robots, side="left") / len(people)
        assert below.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("column", ["device", "campaign", "advertiser"])
def test_what_robots_use_people_use_too(column: str) -> None:
    values = getattr(TRAFFIC, column)
    assert set(values[TRUTH.robot]) <= set(values[~TRUTH.robot])


def test_click_ids_are_unique_and_do_not_follow_time() -> None:
    assert len(np.unique(TRAFFIC.click)) == len(TRAFFIC)
    assert abs(np.corrcoef(TRAFFIC.click, np.arange(len(TRAFFIC)))[0, 1]) < 0.05


def test_a_session_has_one_user_and_one_login_status() -> None:
    pairs = np.stack([TRAFFIC.session, TRAFFIC.user, TRAFFIC.logged_in], axis=1)
    assert len(np.unique(pairs, axis=0)) == len(np.unique(TRAFFIC.session))


def test_clicks_at_once_equal_the_parsed_ndjson(tmp_path: Path) -> None:
    traffic, truth = simulate(SMALL)
    traffic.write_ndjson(tmp_path / "clicks.ndjson")
    clicks = traffic.to_clicks(NAMES)
    found = intake.read_file(tmp_path / "clicks.ndjson", "ndjson", NAMES, now_ms=START_MS + SMALL.duration_ms)
    assert found.rejected == []
    assert not found.unknown_fields
    assert clicks == found.clicks
    assert len({click.click_id for click in clicks}) == len(clicks)
    assert truth.robots_among(clicks) == {clicks[i].click_id for i in np.flatnonzero(truth.robot)}


def test_outcomes_belong_to_their_clicks() -> None:
    traffic, _ = simulate(SMALL)
    clicks = traffic.to_clicks(NAMES)
    by_id = {click.click_id: click for click in clicks}
    outcomes = traffic.to_outcomes(clicks)
    assert len(outcomes) == len(traffic.purchases) > 0
    assert all(outcome.occurred_at_ms > by_id[outcome.click_id].event_time_ms for outcome in outcomes)
    assert {outcome.kind for outcome in outcomes} == {"purchase"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("clicks", 10), ("duration_hours", 1.0), ("start_ms", -1), ("seed", -1), ("advertisers", 0), ("campaigns", 3)],
)
def test_unusable_configuration_is_named(name: str, value: int) -> None:
    with pytest.raises(InvalidInput, match=f"simulation: {name}: expected"):
        replace(CONFIG, **{name: value})  # type: ignore[arg-type]  # the name is a parameter


def test_too_many_robots_are_refused() -> None:
    with pytest.raises(InvalidInput, match="robots' share of clicks: expected"):
        replace(CONFIG, robots=RobotsConfig(burst_share=0.9))


def test_every_module_that_is_no_simulation_is_kept_from_the_truth() -> None:
    """The import contract names its modules one by one: a new one that it forgets could read the truth."""
    repository = Path(__file__).parents[2]
    contracts = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (kept,) = (c["source_modules"] for c in contracts if TRUTH_MODULE in c.get("forbidden_modules", []))
    modules = {path.stem for path in (repository / "clickledger" / "scoring").glob("[!_]*.py")}
    expected = {f"clickledger.scoring.{name}" for name in modules if not name.startswith("simulat")}
    assert expected | {"clickledger.ledger", "clickledger.recovery"} == set(kept)
