"""Training: a labelled set in, a model out.

Invariants:
- the same dataset, configuration and seed give the same artefact bytes on the same kind of machine (one thread, own
  random stream, fixed order of sums within one build of torch); scoring is exact on every kind, see `model`;
- a model ships with the weights its sums are exact with, and its metrics are measured with those;
- no feature is made of labels: the columns are those of `transform`, nothing else goes in.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from clickledger.errors import InvalidInput
from clickledger.scoring import evaluate, feature_spec, model, transform
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.model import Kind, Model

Floats = npt.NDArray[np.float32]
HOURS_PER_WEEK = 7 * 24


@dataclass(frozen=True)
class TrainingConfig:
    """Choices of a training. 100k clicks take a few seconds on one core with the defaults."""

    hidden: tuple[int, ...] = (64, 32)
    cross: int = 0  # cross layers beside the fully connected ones
    l2: float = 1e-3  # on the weights of the intermediate layers; on the only layer of a regression
    learning_rate: float = 5e-3  # of the first step; falls to zero as a cosine
    batch_rows: int = 4096
    batches_min: int = 10  # of an epoch: batches are smaller where there are few clicks
    epochs_max: int = 30
    validation_share: float = 0.0  # the last clicks in time, which stop the training early instead of teaching; 0: none
    patience: int = 5  # epochs without a better validation loss before stopping
    weight_cap: float = 50.0  # times the median weight


DEFAULT_CONFIG = TrainingConfig()
REGRESSION_CONFIG = TrainingConfig(hidden=(), l2=0.0, learning_rate=3e-2)
CROSS_CONFIG = TrainingConfig(cross=1)


def train_network(dataset: Dataset, config: TrainingConfig = DEFAULT_CONFIG, seed: int = 0) -> Model:
    """Three fully connected layers with ReLU, on all clicks or stopped early by the last. Raises InvalidInput."""
    return _train("network", dataset, config, seed)


def train_deep_cross(dataset: Dataset, config: TrainingConfig = CROSS_CONFIG, seed: int = 0) -> Model:
    """The network with cross layers beside it (DCN V2, see `model`), stopped alike. Raises InvalidInput."""
    if config.cross < 1:
        raise InvalidInput(f"cross: expected at least one cross layer, got {config.cross}")
    return _train("deep_cross", dataset, config, seed)


def train_logistic_regression(dataset: Dataset, config: TrainingConfig = REGRESSION_CONFIG, seed: int = 0) -> Model:
    """The baseline: one layer on the same inputs, weights and stopping rule."""
    return _train("logistic_regression", dataset, replace(config, hidden=()), seed)


def sample_weights(features: npt.NDArray[np.int32], human: npt.NDArray[np.bool_], cap: float) -> Floats:
    """Weights (n,), mean 1, that make cells of hour x weekday x login x label count alike (SLIDR row 11).

    None is above `cap` x the median. Uncapped, the few humans of a sparse night hour would outvote everything else.
    """
    hour = features[:, feature_spec.INDEX["minute_of_week"]] // 60  # -1, no value, stays -1
    status = features[:, feature_spec.INDEX["logged_in"]]
    cell = ((hour + 1) * 3 + (status + 1)) * 2 + human
    rarity = 1.0 / np.bincount(cell, minlength=(HOURS_PER_WEEK + 1) * 6)[cell]
    capped = np.minimum(rarity, cap * np.median(rarity))
    weights: Floats = (capped / capped.mean()).astype(np.float32)
    return weights


def profile() -> dict[str, str]:
    """What training bits depend on besides the inputs."""
    return {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


@dataclass(frozen=True)
class Rows:
    """One part of a training set as tensors."""

    inputs: torch.Tensor  # (n, columns) float32
    robotic: torch.Tensor  # (n,) float32, 0 or 1
    weight: torch.Tensor  # (n,) float32

    def __len__(self) -> int:
        return len(self.inputs)

    def at(self, index: torch.Tensor) -> Rows:
        """Some of the rows, by their numbers."""
        return Rows(self.inputs[index], self.robotic[index], self.weight[index])


def rows(inputs: npt.NDArray[np.float64], human: npt.NDArray[np.bool_], weights: Floats) -> Rows:
    """Inputs (n, columns) in units of 1 / GRID, labels (n,) and weights (n,), to train on."""
    return Rows(
        torch.from_numpy((inputs / transform.GRID).astype(np.float32)),
        torch.from_numpy((~human).astype(np.float32)),
        torch.from_numpy(weights),
    )


def _train(kind: Kind, dataset: Dataset, config: TrainingConfig, seed: int) -> Model:
    _check(dataset, config)
    order = np.argsort(dataset.event_time_ms, kind="stable")
    early, late = np.split(order, [len(order) - int(len(order) * config.validation_share)])
    learned = transform.fit(dataset.features[early])
    weights = sample_weights(dataset.features, dataset.human, config.weight_cap)
    known = rows(learned.inputs(dataset.features), dataset.human, weights)
    (layers, cross), course = descend(known.at(torch.from_numpy(early)), known.at(torch.from_numpy(late)), config, seed)
    schema = feature_spec.schema_of(dataset.features)
    judged = Model(kind, learned, layers, feature_schema=schema, cross=cross)
    metadata = {
        "seed": seed,
        "config": {**asdict(config), "hidden": list(config.hidden)},
        "dataset": dataset.summary(),
        "effective_sample": float(weights.sum() ** 2 / (weights**2).sum() / len(weights)),
        "training": course,
        "validation": _validation(judged, dataset, late) if len(late) else None,
        "profile": profile(),
    }
    return judged.telling(metadata)


def _check(dataset: Dataset, config: TrainingConfig) -> None:
    humans = int(dataset.human.sum())
    if not 0 < humans < len(dataset):
        raise InvalidInput(f"training set: expected clicks of both labels, got {humans} human of {len(dataset)}")
    if not 0.0 <= config.validation_share < 1.0:
        raise InvalidInput(f"validation_share: expected 0 to below 1, got {config.validation_share}")


class Layers(NamedTuple):
    """What `model` sums exactly."""

    dense: tuple[model.Layer, ...]
    cross: tuple[model.Layer, ...]


def descend(fit: Rows, tail: Rows, config: TrainingConfig, seed: int) -> tuple[Layers, dict[str, Any]]:
    """Adam on weighted batches -> layers, and how it went: those of the last epoch, or of the tail's best.

    On one thread: sums split over threads depend on their number, and so would the digest.
    """
    with _one_thread():
        return _descend(fit, tail, config, seed)


def _descend(fit: Rows, tail: Rows, config: TrainingConfig, seed: int) -> tuple[Layers, dict[str, Any]]:
    stream = torch.Generator().manual_seed(seed)
    parameters = _initial(fit.inputs.shape[1], config, stream)
    optimiser = torch.optim.Adam([p for layer in chain(*parameters) for p in layer], lr=config.learning_rate)
    size = max(1, min(config.batch_rows, len(fit) // config.batches_min))
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs_max * -(-len(fit) // size))
    best, best_loss, best_epoch = _layers(parameters), float("inf"), 0
    for epoch in range(1, config.epochs_max + 1):
        order = torch.randperm(len(fit), generator=stream)
        for start in range(0, len(fit), size):
            optimiser.zero_grad()
            loss = _loss(fit.at(order[start : start + size]), parameters) + config.l2 * _penalty(parameters)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            falling.step()
        tail_loss = _tail_loss(tail, parameters) if len(tail) else -epoch  # without a tail, later is better
        if tail_loss < best_loss:
            best, best_loss, best_epoch = _layers(parameters), tail_loss, epoch
        elif epoch - best_epoch >= config.patience:
            break
    return best, {"epochs": epoch, "best_epoch": best_epoch, "validation_loss": best_loss if len(tail) else None}


@torch.no_grad()
def _tail_loss(tail: Rows, parameters: _Parameters) -> float:
    return float(_loss(tail, parameters))


_Weights = list[tuple[torch.Tensor, torch.Tensor]]


class _Parameters(NamedTuple):
    dense: _Weights
    cross: _Weights


def _initial(columns: int, config: TrainingConfig, stream: torch.Generator) -> _Parameters:
    """He initialisation, biases zero. A cross layer begins near passing its input on (its weights are small).

    A regression begins at zero: it has one optimum, and weights that little teaches would stay as chance made them.
    """
    widths = [columns, *config.hidden]
    shapes = [*pairwise(widths), (widths[-1] + (columns if config.cross else 0), 1)]
    size = 2.0 if config.hidden else 0.0
    dense = [_weights(fan_in, fan_out, (size / fan_in) ** 0.5, stream) for fan_in, fan_out in shapes]
    cross = [_weights(columns, columns, 0.1 / columns**0.5, stream) for _ in range(config.cross)]
    return _Parameters(dense, cross)


def _weights(fan_in: int, fan_out: int, size: float, stream: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.randn(fan_in, fan_out, generator=stream) * size
    return weight.requires_grad_(), torch.zeros(fan_out, requires_grad=True)


def _loss(part: Rows, parameters: _Parameters) -> torch.Tensor:
    """Weighted mean logistic loss."""
    logits = _logits(part.inputs, parameters)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, part.robotic, reduction="none")
    return (losses * part.weight).sum() / part.weight.sum()


def _logits(inputs: torch.Tensor, parameters: _Parameters) -> torch.Tensor:
    """The model's forward pass, (batch, columns) -> (batch,); activations limited alike but not rounded."""
    limit = model.ACTIVATION_LIMIT
    values = inputs
    for weight, bias in parameters.dense[:-1]:
        values = torch.addmm(bias, values, weight).clamp(0.0, limit)
    crossed = inputs
    for weight, bias in parameters.cross:
        factor = torch.addmm(bias, crossed, weight).clamp(-limit, limit)
        crossed = (inputs * factor + crossed).clamp(-limit, limit)
    if parameters.cross:
        values = torch.cat([values, crossed], dim=1)
    weight, bias = parameters.dense[-1]
    return torch.addmm(bias, values, weight).squeeze(1)


def _penalty(parameters: _Parameters) -> torch.Tensor:
    """Sum of squares of the intermediate layers' weights; of the only layer's where there is one."""
    intermediate = [*parameters.dense[:-1], *parameters.cross] or parameters.dense
    return torch.stack([weight.square().sum() for weight, _ in intermediate]).sum()


def _layers(parameters: _Parameters) -> Layers:
    return Layers(*(tuple(_shipped(*layer) for layer in layers) for layers in parameters))


def _shipped(weight: torch.Tensor, bias: torch.Tensor) -> model.Layer:
    return model.on_grid(weight.detach().numpy()), model.on_grid(bias.detach().numpy())


def _validation(judged: Model, dataset: Dataset, tail: npt.NDArray[np.intp]) -> dict[str, Any]:
    scores = judged.score(dataset.features[tail])
    return evaluate.metrics(scores, dataset.human[tail], dataset.purchased[tail])


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
