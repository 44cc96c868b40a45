"""Learning: the same set gives the same model, and withheld labels give a bad one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from labelled_traffic import MONDAY_MS, WEEK_MS, Traffic, draw
from sklearn.linear_model import LogisticRegression

from clickledger.errors import InvalidInput
from clickledger.scoring import calibration, dataset, evaluate, feature_spec, model, training, transform, velocity

CONFIG = training.TrainingConfig(epochs_max=8)


@pytest.fixture(scope="module")
def taught() -> Traffic:
    return draw(12_000, seed=1)


@pytest.fixture(scope="module")
def unseen() -> Traffic:
    return draw(8_000, seed=2)


@pytest.fixture(scope="module")
def network(taught: Traffic) -> model.Model:
    return training.train_network(taught.dataset, CONFIG, seed=5)


def test_trained_twice_the_artefact_is_the_same(taught: Traffic, network: model.Model) -> None:
    again = training.train_network(taught.dataset, CONFIG, seed=5)
    assert model.digest(model.to_artefact(again)) == model.digest(model.to_artefact(network))
    short = dataclasses.replace(CONFIG, epochs_max=1, cross=2)
    first, second = (training.train_deep_cross(taught.dataset, short, seed=5) for _ in range(2))
    assert model.digest(model.to_artefact(first)) == model.digest(model.to_artefact(second))


def test_the_number_of_threads_does_not_change_a_digest(taught: Traffic, network: model.Model) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = training.train_network(taught.dataset, CONFIG, seed=5)
    finally:
        torch.set_num_threads(threads)
    assert model.digest(model.to_artefact(again)) == model.digest(model.to_artefact(network))


def test_the_last_clicks_stop_a_training_early_where_asked_to(taught: Traffic) -> None:
    config = dataclasses.replace(CONFIG, validation_share=0.15, patience=1, epochs_max=40, learning_rate=0.05)
    course = training.train_network(taught.dataset, config).metadata
    assert course["training"]["best_epoch"] <= course["training"]["epochs"] < 40
    assert course["training"]["validation_loss"] > 0 and course["validation"]["rows"] == 1_800


def test_a_deep_cross_model_has_layers_of_both_sorts(taught: Traffic) -> None:
    with pytest.raises(InvalidInput, match="cross: expected at least one cross layer, got 0"):
        training.train_deep_cross(taught.dataset, CONFIG)
    judge = training.train_deep_cross(taught.dataset, dataclasses.replace(CONFIG, epochs_max=1, cross=1))
    columns = len(transform.COLUMNS)
    assert [weight.shape for weight, _ in judge.layers] == [(columns, 64), (64, 32), (32 + columns, 1)]
    assert [weight.shape for weight, _ in judge.cross] == [(columns, columns)] and judge.kind == "deep_cross"
    assert judge.cross[0][0].any()


def test_another_seed_is_another_model(taught: Traffic, network: model.Model) -> None:
    other = training.train_network(taught.dataset, CONFIG, seed=6)
    assert not np.array_equal(other.layers[0][0], network.layers[0][0])


def test_training_leaves_threads_and_the_global_random_stream_alone(taught: Traffic) -> None:
    before, state = torch.get_num_threads(), torch.get_rng_state()
    training.train_logistic_regression(taught.dataset, dataclasses.replace(CONFIG, epochs_max=1))
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_every_kind_tells_robots_from_people(taught: Traffic, unseen: Traffic, network: model.Model) -> None:
    regression = training.train_logistic_regression(taught.dataset, CONFIG)
    crossed = training.train_deep_cross(taught.dataset, dataclasses.replace(CONFIG, cross=1))
    judges = ((network, 0.97), (crossed, 0.97), (regression, 0.97), (velocity.velocity_model(), 0.9))
    for judge, least in judges:
        assert evaluate.auc(judge.score(unseen.dataset.features), unseen.robotic) > least, judge.kind


def test_the_regression_is_as_good_a_baseline_as_that_of_a_library(taught: Traffic, unseen: Traffic) -> None:
    """Early stopping or a slow learning rate would make it a weak one, which a network beats without any merit."""
    ours = training.train_logistic_regression(
        taught.dataset, dataclasses.replace(training.REGRESSION_CONFIG, epochs_max=8)
    )
    known = taught.dataset
    learned = transform.fit(known.features)
    weights = training.sample_weights(known.features, known.human, CONFIG.weight_cap)
    library = LogisticRegression(max_iter=500).fit(
        learned.inputs(known.features) / transform.GRID, ~known.human, weights
    )
    theirs = library.decision_function(learned.inputs(unseen.dataset.features) / transform.GRID)
    scores = ours.score(unseen.dataset.features)
    assert evaluate.auc(scores, unseen.robotic) > evaluate.auc(theirs.astype(np.float32), unseen.robotic) - 0.005


def test_a_rule_is_made_of_a_counter() -> None:
    with pytest.raises(InvalidInput, match=r"counter: expected one of user_clicks_10s, .*, got 'logged_in'"):
        velocity.velocity_rule("logged_in")


def test_velocity_scores_rise_with_velocity_and_reach_zero_at_the_limit() -> None:
    clicks = np.zeros((33, len(feature_spec.FEATURES)), dtype=np.int32)
    clicks[:, feature_spec.INDEX["user_clicks_1h"]] = np.arange(33)
    scores = velocity.velocity_model(clicks_per_hour=20).score(clicks)
    assert (np.diff(scores) > 0).all() and scores[20] == 0


def test_labels_withheld_for_some_hours_teach_a_model_to_invalidate_people_there(unseen: Traffic) -> None:
    nights = tuple(dataset.hours_of_each_day(0, 6, MONDAY_MS, MONDAY_MS + WEEK_MS))
    good, faulty = draw(12_000, seed=1), draw(12_000, seed=1, withheld=nights)
    at_night = unseen.dataset.event_time_ms // feature_spec.HOUR_MS % 24 < 6
    people = ~unseen.robotic & at_night
    lost = {}
    for name, traffic in (("good", good), ("faulty", faulty)):
        judge = training.train_network(traffic.dataset, dataclasses.replace(CONFIG, epochs_max=16))
        known = traffic.dataset
        thresholds = {"*": calibration.threshold_within(judge.score(known.features), known.purchased, 0.01)}
        scores = judge.score(unseen.dataset.features[people])
        lost[name] = calibration.rates(scores, people[people], unseen.dataset.slice[people].tolist(), thresholds)
    assert lost["faulty"]["*"]["ivr"] > 5 * lost["good"]["*"]["ivr"]


def test_weights_make_every_cell_count_alike() -> None:
    traffic = draw(4_000).dataset
    weights = training.sample_weights(traffic.features, traffic.human, cap=1e9)
    hour = traffic.features[:, feature_spec.INDEX["minute_of_week"]] // 60
    login = traffic.features[:, feature_spec.INDEX["logged_in"]]
    cell = np.unique(np.stack([hour, login, traffic.human]), axis=1, return_inverse=True)[1].ravel()
    totals = np.bincount(cell, weights)
    assert totals == pytest.approx(np.full(len(totals), totals[0]), rel=1e-4)
    assert weights.mean() == pytest.approx(1, rel=1e-5)


def test_no_weight_is_above_the_cap() -> None:
    traffic = draw(4_000).dataset
    weights = training.sample_weights(traffic.features, traffic.human, cap=1.5)
    assert weights.max() <= 1.5001 * np.median(weights)


def test_a_model_states_what_it_was_made_of(taught: Traffic, network: model.Model) -> None:
    made_of = network.metadata
    assert made_of["seed"] == 5 and made_of["config"]["hidden"] == [64, 32]
    assert made_of["dataset"]["digest"] == taught.dataset.digest() and made_of["dataset"]["rows"] == 12_000
    assert made_of["training"]["epochs"] == 8 and made_of["validation"] is None
    assert made_of["profile"].keys() == {"torch", "numpy", "machine", "cpu_capability"}
    assert made_of["profile"]["torch"] == str(torch.__version__)
    assert model.from_artefact(model.to_artefact(network)).metadata["profile"] == made_of["profile"]


def test_a_set_of_one_label_is_refused(taught: Traffic) -> None:
    nobody = dataclasses.replace(taught.dataset, human=np.zeros(len(taught.dataset), dtype=bool))
    with pytest.raises(InvalidInput, match="expected clicks of both labels, got 0 human of 12000"):
        training.train_network(nobody)
