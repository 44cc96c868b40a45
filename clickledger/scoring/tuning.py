"""Settings of each kind of model, chosen on the training part alone and by one rule for all kinds.

A baseline that was not tuned proves nothing, so the network gets no more choice than the others: every kind has a
short list of candidates, each judged by clicks it was not trained on. The training part is cut into blocks of time; a
candidate is trained on all but one of them, scores that one, and the mean of the AUCs decides (blocked
cross-validation; Bergmeir and Benitez, Information Sciences 191, 2012). Blocks, not single clicks: a user's next click
tells the label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clickledger.errors import InvalidInput
from clickledger.scoring import evaluate, training, velocity
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.model import Kind, Model

BLOCKS = 3
CLICKS_MAX = 60_000  # judged on; more would tell the candidates apart little better, and take their time
VELOCITY_COUNTERS = (
    *("user_clicks_10s", "user_clicks_1m", "user_clicks_10m", "user_clicks_1h", "user_clicks_24h"),
    *("user_campaign_clicks_1h", "user_session_clicks_1h", "ip_clicks_1m", "ip_clicks_1h", "ip_clicks_24h"),
)
Trainer = Callable[[Dataset, int], Model]  # a data set and a seed
OnFit = Callable[[], None]  # called after each training


@dataclass(frozen=True)
class Candidate:
    """One way to make a model, and the settings that name it (JSON values)."""

    settings: Mapping[str, Any]
    train: Trainer
    learns: bool = True  # a rule need not be made again for each block


@dataclass(frozen=True)
class Choice:
    """The best candidate of a kind, and the mean AUC of every one (JSON values)."""

    candidate: Candidate
    tried: list[dict[str, Any]]


def candidates() -> dict[Kind, tuple[Candidate, ...]]:
    """The candidates of every kind, as many settings to choose from for the regression as for the network."""
    return {
        "network": tuple(_network(l2, rate) for rate in (5e-3, 2e-3) for l2 in (1e-4, 1e-3, 1e-2)),
        "logistic_regression": tuple(_regression(l2, rate) for rate in (3e-2, 1e-2) for l2 in (0.0, 1e-5, 1e-4)),
        "velocity": tuple(_velocity(counter) for counter in VELOCITY_COUNTERS),
    }


def network_config(settings: Mapping[str, Any]) -> training.TrainingConfig:
    """The configuration that the settings of a network's candidate name."""
    named = {**settings, "hidden": tuple(settings.get("hidden", training.DEFAULT_CONFIG.hidden))}
    return replace(training.DEFAULT_CONFIG, **named)


def cross_candidates() -> tuple[Candidate, ...]:
    """Those of the deep-and-cross network, an option."""
    return tuple(_deep_cross(l2, layers) for layers in (1, 2) for l2 in (1e-3, 1e-2))


def cross_candidate(settings: Mapping[str, Any]) -> Candidate:
    """The one of these settings."""
    return _deep_cross(settings["l2"], settings["cross"])


def trainings(listed: Mapping[Kind, Sequence[Candidate]], blocks: int = BLOCKS) -> int:
    """How often `choose` will train for all kinds together: the length of a progress bar."""
    return sum(blocks for own in listed.values() if len(own) > 1 for candidate in own if candidate.learns)


def choose(
    listed: Sequence[Candidate], part: Dataset, seed: int = 0, blocks: int = BLOCKS, on_fit: OnFit = lambda: None
) -> Choice:
    """Judge candidates on `part` and return the best, the first of equals. One candidate alone is not judged.

    Of a large part some users are drawn, with all their clicks.
    """
    if not listed:
        raise InvalidInput("candidates: expected at least one, got none")
    if len(listed) == 1:
        return Choice(listed[0], [])
    judged = _some_users(part, seed)
    means = [float(np.mean(list(_judged(each, judged, seed, blocks, on_fit)))) for each in listed]
    tried = [{**each.settings, "auc": mean} for each, mean in zip(listed, means, strict=True)]
    return Choice(listed[int(np.argmax(means))], tried)


def _judged(candidate: Candidate, part: Dataset, seed: int, blocks: int, on_fit: OnFit) -> Iterator[float]:
    """The AUC of each block that has clicks with and without outcome, by a model that was not trained on it."""
    block = _blocks(part, blocks)
    for number in range(blocks):
        mine = block == number
        purchased = part.purchased[mine]
        if candidate.learns:
            model = candidate.train(part.where(~mine), seed)
            on_fit()
        else:
            model = candidate.train(part, seed)
        if purchased.any() and not purchased.all():
            yield evaluate.auc(model.score(part.features[mine]), ~purchased)


def _some_users(part: Dataset, seed: int) -> Dataset:
    """All clicks of randomly drawn users, about `CLICKS_MAX` at most."""
    if len(part) <= CLICKS_MAX:
        return part
    place = np.random.default_rng(seed).permutation(int(part.user.max()) + 1)
    return part.where(place[part.user] < len(place) * CLICKS_MAX // len(part))


def _blocks(part: Dataset, blocks: int) -> Any:
    """The block of each click (n,), by time, with about as many purchases in each: they are what is scarce."""
    order = np.argsort(part.event_time_ms, kind="stable")
    bought = np.cumsum(part.purchased[order])
    if not len(bought) or bought[-1] < blocks:
        raise InvalidInput(
            f"training part: expected at least {blocks} clicks with an outcome, got {part.purchased.sum()}"
        )
    block = np.empty(len(order), dtype=np.intp)
    block[order] = np.minimum((np.maximum(bought, 1) - 1) * blocks // bought[-1], blocks - 1)
    return block


def _network(l2: float, learning_rate: float) -> Candidate:
    settings = {"hidden": list(training.DEFAULT_CONFIG.hidden), "l2": l2, "learning_rate": learning_rate}
    config = network_config(settings)
    return Candidate(settings, lambda part, seed: training.train_network(part, config, seed))


def _deep_cross(l2: float, layers: int) -> Candidate:
    config = replace(training.CROSS_CONFIG, l2=l2, cross=layers)
    return Candidate({"l2": l2, "cross": layers}, lambda part, seed: training.train_deep_cross(part, config, seed))


def _regression(l2: float, learning_rate: float) -> Candidate:
    config = replace(training.REGRESSION_CONFIG, l2=l2, learning_rate=learning_rate)
    return Candidate(
        {"l2": l2, "learning_rate": learning_rate},
        lambda part, seed: training.train_logistic_regression(part, config, seed),
    )


def _velocity(counter: str) -> Candidate:
    return Candidate({"counter": counter}, lambda _part, _seed: velocity.velocity_rule(counter), learns=False)
