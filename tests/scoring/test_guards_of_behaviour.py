"""Each guard of behaviour refuses the fault it is for, by its figure; a sound challenger passes all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import simulated_evidence as simulated
from daily_challengers import Challenger, trained
from simulated_evidence import World

from clickledger.scoring import behaviour, dataset, evaluate, guards_of_behaviour, judged, robot_probes, second_training
from clickledger.scoring.findings import DAY_MS, DEFAULT_LIMITS, Finding
from clickledger.scoring.guards_of_behaviour import Verdicts
from clickledger.scoring.recent_clicks import RecentClicks
from clickledger.scoring.training import TrainingConfig

CLICKS, DAYS = 90_000, 12
NOW_MS = simulated.START_MS + DAYS * DAY_MS
QUICK = TrainingConfig(epochs_max=8, batch_rows=2048)


@pytest.fixture(scope="module")
def world() -> World:
    """Twelve days, of which the last two are not mature."""
    return simulated.world(CLICKS, DAYS)


@pytest.fixture(scope="module")
def stable(world: World) -> Challenger:
    return trained(world, NOW_MS, days=9, config=QUICK)


@pytest.fixture(scope="module")
def clicks(world: World) -> RecentClicks:
    return simulated.recent(world, NOW_MS)


def compared(challenger: Challenger, stable: Challenger, clicks: RecentClicks) -> dict[str, Finding]:
    found = behaviour.beside_stable(challenger.judge, stable.judge, clicks, DEFAULT_LIMITS)
    return {finding.guard: finding for finding in found}


def with_thresholds(challenger: Challenger, **lowered: float) -> Challenger:
    """The same model with thresholds of some slices ("all" for every one) moved down by so many logits."""
    judge = challenger.judge
    slices = {"*", *judge.thresholds, "app/in", "app/out", "mobile/in", "mobile/out", "desktop/in", "desktop/out"}
    now = {name: judge.thresholds.get(name, judge.thresholds["*"]) for name in slices}
    moved = {name: value - lowered.get(name, lowered.get("all", 0.0)) for name, value in now.items()}
    return challenger._replace(judge=judge._replace(thresholds=moved))


@pytest.fixture(scope="module")
def evening(world: World) -> Challenger:
    """What a label feed that was down every evening teaches."""
    outage = dataset.hours_of_each_day(18, 24, simulated.START_MS, NOW_MS)
    return trained(world, NOW_MS, days=9, withheld=outage, config=QUICK)


def test_a_sound_challenger_passes_and_all_guards_can_judge(stable: Challenger, clicks: RecentClicks) -> None:
    found = compared(with_thresholds(stable, all=0.02), stable, clicks)
    assert [f.sentence() for f in found.values() if not f.passed or f.figure is None] == []
    assert list(found) == ["known_customers", "ivr", "slice_ivr", "hourly_range", "robot_recall"]


def test_labels_missing_in_the_evening_are_seen_in_the_rates(
    evening: Challenger, stable: Challenger, clicks: RecentClicks
) -> None:
    found = compared(evening, stable, clicks)
    for guard in ("ivr", "slice_ivr"):
        assert not found[guard].passed, found[guard]
        assert (found[guard].figure or 0.0) > 1.2 * found[guard].limit
    assert (found["known_customers"].figure or 0.0) > found["known_customers"].limit


def test_people_withheld_in_the_evening_alone_are_seen_by_the_hour(stable: Challenger, clicks: RecentClicks) -> None:
    """Three in ten of all clicks from 18 h on: by slice, since robots fill the nights of all clicks together."""
    invalid = judged.reaching(stable.judge.model.score(clicks.features), clicks.slice, stable.judge.thresholds)
    evening = clicks.event_time_ms // 3_600_000 % 24 >= 18
    more = invalid | (evening & (np.random.default_rng(0).random(len(clicks)) < 0.3))
    both = Verdicts(more, invalid, clicks.known, clicks.user, clicks.slice, clicks.event_time_ms)
    found = guards_of_behaviour.hourly_range(both, DEFAULT_LIMITS)
    assert not found.passed and (found.figure or 0.0) > 2.0
    assert found.figures["worst_hour"] >= 18 and "/in" in found.what


def test_a_threshold_too_low_everywhere_is_refused_by_known_customers_and_the_rate(
    stable: Challenger, clicks: RecentClicks
) -> None:
    both = compared(with_thresholds(stable, all=2.0), stable, clicks)
    known, found = both["known_customers"], both["ivr"]
    assert not known.passed and (known.figure or 0.0) > 0.05
    assert "clicks of known customers withheld, net, as a share: expected at most 0.004, got 0." in known.sentence()
    assert not found.passed and (found.figure or 0.0) > 0.15
    assert found.sentence().startswith("ivr: change of the invalidation rate: expected at most 0.15, got ")


def test_a_threshold_too_low_in_one_slice_is_refused_though_all_together_hardly_change(
    stable: Challenger, clicks: RecentClicks
) -> None:
    found = compared(with_thresholds(stable, **{"desktop/in": 4.0}), stable, clicks)
    assert not found["slice_ivr"].passed and "desktop/in" in found["slice_ivr"].what
    assert (found["slice_ivr"].figure or 0.0) > 0.3


def test_a_model_that_lets_robots_pass_loses_known_ones(stable: Challenger, clicks: RecentClicks) -> None:
    found = compared(with_thresholds(stable, all=-3.0), stable, clicks)["robot_recall"]
    assert not found.passed and (found.figure or 0.0) > 0.05 and found.what == "share of known robots lost"
    assert (
        found.figures["recall"]["gateway_scraper"]["challenger"] < found.figures["recall"]["gateway_scraper"]["stable"]
    )


def test_a_kind_of_robot_that_is_lost_is_not_made_up_for_by_another() -> None:
    """A farm that bought, learnt as human, while the same model happened to learn competitors."""
    yes, no = np.ones(300, np.bool_), np.zeros(300, np.bool_)
    stable = {"botnet": yes, "click_farm": yes, "competitor": no}
    found = guards_of_behaviour.robot_recall({**stable, "click_farm": no, "competitor": yes}, stable, DEFAULT_LIMITS)
    assert not found.passed and found.figure == 1.0 and found.what == "share of known robots of kind click_farm lost"
    assert guards_of_behaviour.robot_recall(stable, stable, DEFAULT_LIMITS).passed


def test_a_network_that_learnt_nothing_is_refused_beside_the_regression(
    stable: Challenger, clicks: RecentClicks
) -> None:
    """The network stands in for the regression: what counts is that one separates and the other does not."""
    scores = stable.judge.model.score(clicks.features)
    blind = np.random.default_rng(0).random(len(clicks)).astype(np.float32)
    found = guards_of_behaviour.baseline(blind, scores, clicks.purchased, clicks.user, DEFAULT_LIMITS)
    assert not found.passed and (found.figure or 0.0) < -0.05
    assert found.sentence().startswith("baseline: AUC over the logistic regression's: expected at least 0, got -0.")
    assert guards_of_behaviour.baseline(scores, blind, clicks.purchased, clicks.user, DEFAULT_LIMITS).passed


def test_no_better_than_the_regression_is_let_pass_where_chance_may_be_why(
    stable: Challenger, clicks: RecentClicks
) -> None:
    scores = stable.judge.model.score(clicks.features)
    noisy = scores + np.random.default_rng(0).normal(0, 0.2, len(scores)).astype(np.float32)
    worse, better = sorted((noisy, scores), key=lambda each: evaluate.auc(each, ~clicks.purchased))
    found = guards_of_behaviour.baseline(worse, better, clicks.purchased, clicks.user, DEFAULT_LIMITS)
    assert found.passed and (found.figure or 0.0) < 0.0 and "chance" in found.note


def test_a_recipe_that_does_not_learn_is_refused_by_its_seeds(stable: Challenger, clicks: RecentClicks) -> None:
    idle = replace(QUICK, learning_rate=1e-6, epochs_max=1)
    model = second_training.TRAINERS["network"](stable.parts.train, idle, 0)
    found = second_training.seeds(model, stable.parts, clicks, 0.01, DEFAULT_LIMITS, str)
    assert not found.passed and (found.figure or 0.0) > 0.5 and "either" in found.what
    scattered = np.arange(2_000) % 10 == 0
    apart = guards_of_behaviour.seeds(scattered, np.roll(scattered, 1), DEFAULT_LIMITS)
    assert (
        not apart.passed
        and apart.figure == 0.2
        and guards_of_behaviour.seeds(scattered, scattered, DEFAULT_LIMITS).passed
    )


def test_the_second_seed_repeats_the_recipe_of_the_artefact(stable: Challenger) -> None:
    few = stable.parts.train.where(np.arange(len(stable.parts.train)) < 5_000)
    model = second_training.TRAINERS["network"](few, QUICK, 4)
    twin = second_training.again(model, few)
    assert twin.metadata["config"] == model.metadata["config"] and twin.metadata["seed"] == 5
    assert not np.array_equal(twin.layers[0][0], model.layers[0][0])
    same = second_training.again(replace(model, metadata={**model.metadata, "seed": 3}), few)
    assert np.array_equal(same.layers[0][0], model.layers[0][0])


def verdicts(rows: int, challenger: object, stable: object, user: object = None) -> Verdicts:
    """Clicks of one slice, an hour apart, each of a known account of its own unless told otherwise."""
    place = np.arange(rows)
    accounts = place if user is None else np.asarray(user)
    return Verdicts(
        np.isin(place, challenger), np.isin(place, stable), np.ones(rows, np.bool_), accounts,
        np.full(rows, "app/in"), place * 3_600_000,
    )  # fmt: skip


def test_what_few_accounts_bring_about_is_left_to_chance() -> None:
    of_many = verdicts(10_000, range(200), range(100, 101))
    assert not guards_of_behaviour.known_customers(of_many, DEFAULT_LIMITS).passed
    of_few = verdicts(10_000, range(200), range(100, 101), user=np.arange(10_000) // 50)
    found = guards_of_behaviour.known_customers(of_few, DEFAULT_LIMITS)
    assert found.passed and "chance" in found.note and found.figures["customers"] == 200


def test_differences_in_both_directions_alike_are_no_flips() -> None:
    found = guards_of_behaviour.known_customers(verdicts(10_000, range(200), range(200, 400)), DEFAULT_LIMITS)
    assert found.passed and found.figure == 0.0
    assert (found.figures["withheld"], found.figures["released"]) == (200, 200)


def test_few_clicks_cannot_be_judged_and_the_note_says_so() -> None:
    few = verdicts(900, range(500), ())
    for guard in (
        guards_of_behaviour.known_customers,
        guards_of_behaviour.invalidation,
        guards_of_behaviour.invalidation_by_slice,
        guards_of_behaviour.hourly_range,
    ):
        found = guard(few, DEFAULT_LIMITS)
        assert found.passed and found.figure is None and "fewer than" in found.note


def test_known_robots_are_the_ones_the_simulator_makes() -> None:
    from clickledger.scoring import simulation_probes

    known = robot_probes.known()
    assert set(known.features) == set(simulation_probes.KINDS)
    assert {len(rows) for rows in known.features.values()} == {simulation_probes.ROBOTS_OF_A_KIND}
    first = simulation_probes.robots_of(0)  # of the first world; `make soak-guardrails` makes them all
    for kind, (features, slices) in first.items():
        assert np.array_equal(known.features[kind][: len(features)], features)
        assert known.slices[kind][: len(slices)].tolist() == slices
