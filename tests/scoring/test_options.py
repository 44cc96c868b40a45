"""Options of the network: used only where they are ahead beyond doubt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from labelled_traffic import draw

from clickledger.scoring import (
    entities,
    feature_spec,
    offline_dataset,
    options,
    second_training,
    training,
    transform,
    tuning,
)
from clickledger.scoring import model as models_
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.pseudonyms import Pseudonyms
from clickledger.scoring.simulation import SimulationConfig, simulate

CONFIG = training.TrainingConfig(epochs_max=2)
CROSSED = replace(CONFIG, cross=1)


@pytest.fixture(scope="module")
def test_part() -> Dataset:
    return draw(3_000, seed=2).dataset


def scores_of(test: Dataset, noise: float, seed: int) -> np.ndarray:
    """Scores that know who bought, through so much noise."""
    noisy = np.random.default_rng(seed).normal(0, noise, len(test)) - test.purchased
    return noisy.astype(np.float32)


def test_an_option_wins_only_ahead_with_every_seed_and_beyond_chance(test_part: Dataset) -> None:
    plain = [scores_of(test_part, 2.0, seed) for seed in range(3)]
    sharp = [scores_of(test_part, 0.5, seed) for seed in range(3)]
    won = options.lead_of(sharp, plain, test_part, draws=60)
    assert won.wins and won.interval[0] <= won.mean <= won.interval[1]
    assert won.mean == pytest.approx(np.mean(won.by_seed))
    one_behind = options.lead_of([*sharp[:2], scores_of(test_part, 9.0, 2)], plain, test_part, draws=60)
    assert one_behind.mean > 0 and not one_behind.wins


def test_what_chance_may_bring_does_not_win(test_part: Dataset) -> None:
    plain = [scores_of(test_part, 2.0, seed) for seed in range(3)]
    nudged = [scores - 0.002 * test_part.purchased.astype(np.float32) for scores in plain]
    lead = options.lead_of(nudged, plain, test_part, draws=60)
    assert min(lead.by_seed) >= 0
    few = test_part.where(np.cumsum(test_part.purchased) <= 4)
    by_chance = options.lead_of(
        [scores_of(few, 2.0, 10 + seed) for seed in range(3)], [scores[: len(few)] for scores in plain], few, draws=60
    )
    assert by_chance.interval[0] < 0 and not by_chance.wins
    assert not options.lead_of(plain, plain, test_part, draws=20).wins


def test_the_plain_network_ships_unless_the_option_wins() -> None:
    train = draw(2_000, seed=1).dataset
    blind = replace(CONFIG, epochs_max=1, learning_rate=1e-9)
    kept = options.best_network(train, CONFIG, replace(CROSSED, epochs_max=1, learning_rate=1e-9), draws=40)
    assert kept.kind == "network" and not kept.metadata["contest"]["wins"]
    assert kept.metadata["contest"]["clicks"] == 600 and kept.metadata["dataset"]["rows"] == 2_000
    taken = options.best_network(train, blind, replace(CROSSED, epochs_max=4), draws=40)
    assert taken.kind == "deep_cross" and taken.metadata["contest"]["wins"]
    assert models_.from_artefact(models_.to_artefact(taken)).metadata == taken.metadata


def test_an_option_that_ships_can_be_learnt_again_with_another_seed() -> None:
    """What the guard on seeds does with every challenger."""
    train = draw(1_500, seed=1).dataset
    shipped = models_.from_artefact(models_.to_artefact(training.train_deep_cross(train, CROSSED, seed=4)))
    twin = second_training.again(shipped, train)
    assert twin.kind == "deep_cross" and twin.metadata["seed"] == 5
    assert twin.metadata["config"] == shipped.metadata["config"] and len(twin.cross) == 1


def test_vectors_lie_on_the_grid_and_know_nothing_of_the_rare() -> None:
    features = draw(3_000, seed=3).dataset.features
    random = np.random.default_rng(0)
    slots = np.stack([random.integers(0, 30, 3_000), random.integers(100, 400, 3_000)], axis=1)
    slots[0] = (77, 777)
    vectors = entities.learn(features, slots)
    inputs = vectors.of(slots)
    assert inputs.shape == (3_000, 2 * entities.DIMENSIONS) and inputs[1:, :8].any(axis=1).all()
    assert np.array_equal(inputs, np.rint(inputs)) and np.abs(inputs).max() <= transform.INPUT_LIMIT * transform.GRID
    assert not inputs[0].any() and not vectors.of(np.array([[10**6, 10**6]])).any()
    again = entities.learn(features, slots).of(slots)
    assert again.tobytes() == inputs.tobytes()


def test_entities_that_keep_the_same_company_have_vectors_alike() -> None:
    traffic = draw(4_000, seed=4)
    agent = np.where(traffic.robotic, 0, 2) + np.arange(4_000) % 2  # robots use agents 0 and 1, people 2 and 3
    address = np.random.default_rng(4).integers(0, 50, 4_000)
    vectors = entities.learn(traffic.dataset.features, np.stack([agent, address], axis=1))
    zero, one, two, three = vectors.agent.of(np.arange(4))
    apart = min(np.linalg.norm(robot - person) for robot in (zero, one) for person in (two, three))
    assert max(np.linalg.norm(zero - one), np.linalg.norm(two - three)) < apart


def test_nothing_without_clicks_has_vectors() -> None:
    none = entities.learn(np.empty((0, len(feature_spec.FEATURES)), dtype=np.int32), np.empty((0, 2), dtype=np.int64))
    assert not none.of(np.array([[1, 2]])).any()


def test_all_options_are_compared_on_the_same_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic, _ = simulate(SimulationConfig(clicks=5_000, start_ms=1_759_104_000_000, duration_hours=24, seed=3))
    clicks = traffic.to_clicks(Pseudonyms(bytes(32)))
    recounted = offline_dataset.recount(clicks, traffic.to_outcomes(clicks))
    train, test, _ = offline_dataset.split_in_time(recounted, 0.4)
    one = tuning.Candidate({}, lambda part, seed: training.train_deep_cross(part, CROSSED, seed))
    monkeypatch.setattr(tuning, "cross_candidates", lambda: (one,))
    parts = options.parts(recounted.clicks, train, test)
    assert np.array_equal(np.concatenate([part.entities for part in parts]), entities.entities_of(clicks))
    fits: list[int] = []
    made = options.compare(*parts, CONFIG, (0, 1), draws=20, on_fit=lambda: fits.append(1))
    assert made["options"].keys() == {"deep_cross", "entity_vectors"} and len(fits) == options.fits(2)
    plain = [training.train_network(train, CONFIG, seed).score(test.features) for seed in (0, 1)]
    assert made["auc_of_network"] == [tuning.evaluate.auc(scores, ~test.purchased) for scores in plain]
    for told in made["options"].values():
        assert len(told["by_seed"]) == 2 and told["auc_lead_interval"][0] <= told["auc_lead_interval"][1]
