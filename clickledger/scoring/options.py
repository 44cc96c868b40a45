"""Options of the network, which must win to be used: a deep-and-cross network, and vectors of agents and addresses.

The rule, in one place (`lead_of`): both sides are trained with several seeds on the same clicks and judged on later
ones that neither has seen, by the AUC of clicks that led to an outcome against the others. An option wins if it is
ahead with every seed, and the 95% interval of its mean lead, whole users drawn, lies above zero. Otherwise the plain
network stays. What is judged so is the way of training, not the luck of one seed; a tie is no reason for more parts.

The vectors (`entities`) are measured only: a decision is a function of the snapshot, which holds neither the agent nor
the address of a click. Were they to win, the snapshot's schema would have to carry their slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clickledger.errors import InvalidInput
from clickledger.scoring import entities as entities_
from clickledger.scoring import intervals, model, training, transform, tuning
from clickledger.scoring.click import Click
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.model import Model
from clickledger.scoring.training import TrainingConfig

SEEDS = (0, 1, 2)
DRAWS = 1000
HELD_OUT_SHARE = 0.3  # of the clicks that a model is learned from, the last in time
Scores = npt.NDArray[np.float32]
OnFit = Callable[[], None]  # called after each training


@dataclass(frozen=True)
class Part:
    """Labelled clicks with the slots of their agents and addresses, (n, 2)."""

    dataset: Dataset
    entities: npt.NDArray[np.int64]


def parts(clicks: Sequence[Click], train: Dataset, test: Dataset) -> tuple[Part, Part]:
    """The parts of one run of clicks, which end with those of `test` and have those of `train` just before."""
    slots = entities_.entities_of(clicks[len(clicks) - len(test) - len(train) :])
    return Part(train, slots[: len(train)]), Part(test, slots[len(train) :])


@dataclass(frozen=True)
class Lead:
    """How far one side is ahead of the plain network on clicks that neither has seen: differences of AUC."""

    mean: float
    interval: list[float]  # of the mean
    by_seed: list[float]

    @property
    def wins(self) -> bool:
        """The rule of this module."""
        return self.interval[0] > 0.0 and min(self.by_seed) > 0.0

    def as_json(self) -> dict[str, Any]:
        """For entries, artefacts and answers."""
        return {"auc_lead": self.mean, "auc_lead_interval": self.interval, "by_seed": self.by_seed, "wins": self.wins}


def lead_of(option: Sequence[Scores], plain: Sequence[Scores], test: Dataset, draws: int = DRAWS) -> Lead:
    """The lead of scores over those of the plain network, both of the same seeds, one array (n,) a seed."""
    rankings = [[intervals.Ranking(scores, test.purchased) for scores in side] for side in (option, plain)]

    def leads(weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        mine, others = ([ranking.auc(weight) for ranking in side] for side in rankings)
        return np.subtract(mine, others)

    by_seed = leads(np.ones(len(test)))
    drawn = [leads(weight).mean() for weight in intervals.draws(test.user, test.purchased, draws, seed=0)]
    return Lead(float(by_seed.mean()), intervals.interval(drawn), by_seed.tolist())


def best_network(
    train: Dataset,
    plain: TrainingConfig = training.DEFAULT_CONFIG,
    crossed: TrainingConfig = training.CROSS_CONFIG,
    draws: int = DRAWS,
) -> Model:
    """The deep-and-cross network if it wins on the last of these clicks, else the plain one, taught by all of them.

    What the contest said is in the model's metadata. Raises InvalidInput where it cannot be held.
    """
    order = np.argsort(train.event_time_ms, kind="stable")
    late = np.zeros(len(train), dtype=np.bool_)
    late[order[len(order) - int(len(order) * HELD_OUT_SHARE) :]] = True
    taught, held_out = train.where(~late), train.where(late)
    mine, others = (
        [learn(taught, config, seed).score(held_out.features) for seed in SEEDS]
        for learn, config in ((training.train_deep_cross, crossed), (training.train_network, plain))
    )
    lead = lead_of(mine, others, held_out, draws)
    made = training.train_deep_cross(train, crossed) if lead.wins else training.train_network(train, plain)
    told = {
        "option": "deep_cross",
        "clicks": len(held_out),
        "outcomes": int(held_out.purchased.sum()),
        **lead.as_json(),
    }
    return made.telling({"contest": told})


def compare(
    train: Part,
    test: Part,
    config: TrainingConfig,
    seeds: Sequence[int] = SEEDS,
    draws: int = DRAWS,
    on_fit: OnFit = lambda: None,
    crossed: Sequence[tuning.Candidate] | None = None,
) -> dict[str, Any]:
    """Every option beside the plain network with its settings `config`. JSON values.

    The deep-and-cross network chooses its settings on the training part, as other kinds do, unless there is but one to
    choose; vectors take the network's.
    """
    if not seeds:
        raise InvalidInput("seeds: expected at least one, got none")
    listed = tuning.cross_candidates() if crossed is None else crossed
    choice = tuning.choose(listed, train.dataset, seeds[0], on_fit=on_fit)
    ways: Mapping[str, Callable[[int], Scores]] = {
        "network": lambda seed: training.train_network(train.dataset, config, seed).score(test.dataset.features),
        "deep_cross": lambda seed: choice.candidate.train(train.dataset, seed).score(test.dataset.features),
        "entity_vectors": lambda seed: _with_vectors(train, test, config, seed),
    }
    scores: dict[str, list[Scores]] = {name: [] for name in ways}
    for name, score in ways.items():
        for seed in seeds:
            scores[name].append(score(seed))
            on_fit()
    plain = scores.pop("network")
    made = {name: lead_of(own, plain, test.dataset, draws).as_json() for name, own in scores.items()}
    made["deep_cross"] |= {"settings": dict(choice.candidate.settings), "tried": choice.tried}
    return {"seeds": list(seeds), "auc_of_network": _aucs(plain, test.dataset), "options": made}


def fits(seeds: int) -> int:
    """How often `compare` will train to choose settings, and then with so many seeds: the length of a progress bar."""
    return 3 * seeds + tuning.trainings({"deep_cross": tuning.cross_candidates()})


def _with_vectors(train: Part, test: Part, config: TrainingConfig, seed: int) -> Scores:
    """The network on snapshots and vectors, summed exactly like any other."""
    known = train.dataset
    learned, vectors = transform.fit(known.features), entities_.learn(known.features, train.entities)

    def inputs(part: Part) -> npt.NDArray[np.float64]:
        return np.concatenate([learned.inputs(part.dataset.features), vectors.of(part.entities)], axis=1)

    weights = training.sample_weights(known.features, known.human, config.weight_cap)
    rows = training.rows(inputs(train), known.human, weights)
    layers, _ = training.descend(rows, rows.at(torch.arange(0)), config, seed)
    return model.logits(inputs(test), layers.dense)


def _aucs(scores: Sequence[Scores], test: Dataset) -> list[float]:
    return [intervals.Ranking(own, test.purchased).auc(np.ones(len(test))) for own in scores]
