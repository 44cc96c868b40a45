"""Comparing models: settings chosen on the training part alone, figures with intervals, the truth kept for the end."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from labelled_traffic import Traffic, draw

from clickledger.errors import InvalidInput
from clickledger.scoring import evaluate, model_comparison, simulated_comparison, training, tuning, velocity
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.model import Kind

CONFIG = training.TrainingConfig(epochs_max=6)
SHORT: dict[Kind, tuple[tuning.Candidate, ...]] = {
    "network": (tuning.Candidate({}, lambda part, seed: training.train_network(part, CONFIG, seed)),),
    "logistic_regression": (
        tuning.Candidate({}, lambda part, seed: training.train_logistic_regression(part, CONFIG, seed)),
    ),
    "velocity": tuning.candidates()["velocity"][:4],
}


@pytest.fixture(scope="module")
def taught() -> Traffic:
    return draw(6_000, seed=1)


@pytest.fixture(scope="module")
def entrants(taught: Traffic) -> list[model_comparison.Entrant]:
    return model_comparison.enter(taught.dataset, SHORT, seeds=(4, 5))


def test_the_best_candidate_by_blocks_it_was_not_trained_on_is_chosen(taught: Traffic) -> None:
    flat = tuning.Candidate({"counter": "none"}, lambda _part, _seed: velocity.velocity_rule("user_ips"), learns=False)
    blind = dataclasses.replace(taught.dataset, features=_without(taught.dataset, "user_ips"))
    choice = tuning.choose((flat, *SHORT["velocity"]), blind)
    assert choice.candidate.settings["counter"] != "none"
    assert choice.tried[0]["auc"] == 0.5 and all(each["auc"] > 0.6 for each in choice.tried[1:])


def test_a_candidate_is_never_judged_on_clicks_it_was_trained_on(taught: Traffic) -> None:
    seen: list[Dataset] = []

    def train(part: Dataset, seed: int) -> training.Model:
        seen.append(part)
        return velocity.velocity_model()

    tuning.choose((tuning.Candidate({}, train), SHORT["velocity"][0]), taught.dataset, blocks=3)
    assert sum(len(taught.dataset) - len(part) for part in seen) == len(taught.dataset)
    everything = set(taught.dataset.event_time_ms.tolist())
    left_out = [everything - set(part.event_time_ms.tolist()) for part in seen]
    assert max(left_out[0]) < min(left_out[1]) and max(left_out[1]) < min(left_out[2])


def test_too_few_outcomes_for_the_blocks_are_refused(taught: Traffic) -> None:
    nobody = dataclasses.replace(taught.dataset, purchased=np.zeros(len(taught.dataset), dtype=bool))
    with pytest.raises(InvalidInput, match="expected at least 3 clicks with an outcome, got 0"):
        tuning.choose(SHORT["velocity"], nobody)


def test_the_progress_bar_is_as_long_as_the_tuning(taught: Traffic) -> None:
    listed: dict[Kind, tuple[tuning.Candidate, ...]] = {"logistic_regression": SHORT["logistic_regression"] * 2}
    fits: list[int] = []
    tuning.choose(listed["logistic_regression"], taught.dataset, on_fit=lambda: fits.append(1))
    assert len(fits) == tuning.trainings(listed)


def test_figures_are_of_the_first_seed_inside_their_intervals_with_the_others_beside(
    entrants: list[model_comparison.Entrant],
) -> None:
    test = draw(4_000, seed=2).dataset
    made = model_comparison.judge(entrants, test, draws=40)
    assert list(made["models"]) == ["network", "logistic_regression", "velocity"]
    for entrant in entrants:
        told = made["models"][entrant.kind]
        scores = entrant.model.score(test.features)
        assert told["auc"] == pytest.approx(evaluate.auc(scores, ~test.purchased))
        assert told["auc_interval"][0] <= told["auc"] <= told["auc_interval"][1]
        for fpr, ivr in told["ivr_at_fpr"].items():
            assert ivr == pytest.approx(evaluate.ivr_at_fpr(scores, test.purchased, float(fpr)))
            assert ivr == pytest.approx(np.mean(scores >= np.float32(told["threshold_at_fpr"][fpr])))
    assert [each["seed"] for each in made["models"]["network"]["seeds"]] == [4, 5]
    assert made["models"]["network"]["seeds"][0]["auc"] == pytest.approx(made["models"]["network"]["auc"])
    assert len(made["models"]["velocity"]["seeds"]) == 1


def test_a_model_differs_from_itself_by_nothing_on_every_draw(entrants: list[model_comparison.Entrant]) -> None:
    twin = dataclasses.replace(entrants[0], kind="logistic_regression")
    made = model_comparison.judge([entrants[0], twin], draw(3_000, seed=2).dataset, draws=20)
    difference = made["differences"]["network - logistic_regression"]
    assert difference["auc"] == 0.0 and difference["auc_interval"] == [0.0, 0.0]


def test_robots_are_told_by_kind_at_the_false_positive_rate_asked_for() -> None:
    config = simulated_comparison.config_of(8_000, days=3.0, seed=11)
    made = simulated_comparison.compete([config], listed=SHORT, fpr=0.05)
    run = made["runs"][0]
    assert run["seed"] == 11 and sum(run["test_kinds"].values()) == run["test"]["rows"]
    for told in run["models"].values():
        assert told["fpr"] <= 0.05
        caught = {
            kind: told["recall_by_kind"][kind] for kind, count in run["test_kinds"].items() if kind != "human" and count
        }
        weighed = sum(share * run["test_kinds"][kind] for kind, share in caught.items())
        assert told["recall"] == pytest.approx(weighed / (run["test"]["rows"] - run["test_kinds"]["human"]))
    assert made["summary"]["network_recall_min"] == run["models"]["network"]["recall"]


def _without(dataset: Dataset, counter: str) -> np.ndarray:
    features = dataset.features.copy()
    features[:, training.feature_spec.INDEX[counter]] = 1
    return features


def test_large_parts_are_judged_on_some_users_with_all_their_clicks(
    taught: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped = dataclasses.replace(taught.dataset, user=np.arange(len(taught.dataset)) // 3)
    monkeypatch.setattr(tuning, "CLICKS_MAX", 2_000)
    seen: list[Dataset] = []

    def train(part: Dataset, seed: int) -> training.Model:
        seen.append(part)
        return velocity.velocity_model()

    tuning.choose((tuning.Candidate({}, train, learns=False), SHORT["velocity"][0]), grouped)
    assert 1_800 < len(seen[0]) < 2_200
    assert set(np.bincount(seen[0].user)[np.unique(seen[0].user)]) == {3}
