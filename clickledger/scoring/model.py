"""A model: snapshots in, logits out, and the file it travels in.

Invariants:
- `score` gives a row the same bits alone, in any batch, order or block, with any number of threads, on any processor;
- the same training gives the same artefact bytes; what `from_artefact` accepts can be scored exactly.

How the bits are held. Float32 sums depend on their order, and a BLAS changes the order with the batch: with torch
2.13 on an AVX-512 CPU, MKL and oneDNN alike, the rows left over by the kernel's block of 16 differed in about a third
of the cases (batches of 1, 2, 7, 31, 255), and another instruction set orders them otherwise again. Padding to a fixed
tile hides that on one kind of machine only, and costs a full tile for one click. So the sums are made exact instead:
inputs and activations are whole multiples of 2^-16 of at most `ACTIVATION_LIMIT`, weights whole multiples of 2^-20,
and every partial sum of a layer stays below 2^53 of their product's unit (checked when a model is made), which float64
holds without rounding. An exact sum has no order. What remains are roundings of single numbers, which IEEE 754 fixes.
Price: float64 in place of float32 (forward of 256 rows: 150 us against 60 us); gain: one row 40 us against a tile's
60 us, and replay or audit to the bit on any host.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from clickledger.errors import InvalidInput
from clickledger.scoring import feature_spec, transform

Kind = Literal["network", "logistic_regression", "velocity"]
Layer = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]  # weight (in, out), bias (out,)

_Prepared = tuple[tuple[torch.Tensor, torch.Tensor], ...]  # whole numbers in float64: weights, and biases in sum units

ARITHMETIC = "exact/1"  # grids and limits below; part of every artefact
WEIGHT_GRID = 1 << 20
WEIGHT_LIMIT = 8  # a float32 holds every multiple of 2^-20 up to here
ACTIVATION_LIMIT = 64
BLOCK_ROWS = 2048  # bounds memory; has no effect on scores
_EXACT_END = 1 << 53  # float64 holds every whole number up to here
_METADATA_KEY = "clickledger"  # one key: safetensors writes several in random order


@dataclass(frozen=True, eq=False)
class Model:
    """Fully connected layers with ReLU between them, over the inputs of a transform.

    `metadata` is what is known of its making: training window, metrics, seed, execution profile. JSON values only.
    Raises InvalidInput when the layers do not fit each other or cannot be summed exactly.
    """

    kind: Kind
    transform: transform.Transform
    layers: tuple[Layer, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    feature_schema: int = feature_spec.SCHEMA_VERSION
    _prepared: _Prepared = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "_prepared", _prepare(self.layers, self.device))

    def score(self, features: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Logits that the clicks are robotic: snapshots int32 (n, k) -> float32 (n,), higher = more robotic."""
        scores = np.empty(len(features), dtype=np.float32)
        for start in range(0, len(features), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            inputs = torch.from_numpy(self.transform.inputs(features[rows])).to(self.device)
            scores[rows] = _forward(inputs, self._prepared).cpu().numpy()
        return scores


@torch.inference_mode()
def _forward(inputs: torch.Tensor, layers: _Prepared) -> torch.Tensor:
    """Inputs float64 (n, columns) in units of 2^-16 -> logits float32 (n,)."""
    for weight, bias in layers[:-1]:
        sums = torch.addmm(bias, inputs, weight)  # (n, out), exact, in units of 2^-36
        inputs = (sums / WEIGHT_GRID).round_().clamp_(0, ACTIVATION_LIMIT * transform.GRID)
    weight, bias = layers[-1]
    return (torch.addmm(bias, inputs, weight) / (WEIGHT_GRID * transform.GRID)).squeeze(1).to(torch.float32)


def _prepare(layers: Sequence[Layer], device: str) -> _Prepared:
    if device != "cpu" and not torch.cuda.is_available():
        raise InvalidInput(f"device: expected 'cpu' (no CUDA device is present), got {device!r}")
    return tuple(
        (
            torch.from_numpy(weight.astype(np.float64) * WEIGHT_GRID).to(device),
            torch.from_numpy(bias.astype(np.float64) * WEIGHT_GRID * transform.GRID).to(device),
        )
        for weight, bias in layers
    )


def on_grid(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """The nearest weights that exact sums allow: multiples of 2^-20 within +-`WEIGHT_LIMIT`."""
    return np.clip(np.rint(values.astype(np.float64) * WEIGHT_GRID) / WEIGHT_GRID, -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(
        np.float32
    )


def _check(model: Model) -> None:
    if model.kind not in get_args(Kind):
        raise InvalidInput(f"model kind: expected one of {', '.join(get_args(Kind))}, got {model.kind!r}")
    if model.feature_schema != feature_spec.SCHEMA_VERSION:
        raise InvalidInput(f"feature schema: expected {feature_spec.SCHEMA_VERSION}, got {model.feature_schema}")
    width = len(transform.COLUMNS)
    for name, vector in (("center", model.transform.center), ("scale", model.transform.scale)):
        if vector.shape != (width,) or vector.dtype != np.float32 or not np.isfinite(vector).all():
            raise InvalidInput(f"{name}: expected {width} finite float32, got {vector.dtype} {vector.shape}")
    limit = transform.INPUT_LIMIT
    for number, (weight, bias) in enumerate(model.layers):
        _check_layer(number, weight, bias, width, limit)
        width, limit = weight.shape[1], ACTIVATION_LIMIT
    if not model.layers or width != 1:
        raise InvalidInput(f"layers: expected the last to end in one logit, got {len(model.layers)} ending in {width}")


def _check_layer(
    number: int, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], width: int, limit: int
) -> None:
    """Shapes fit, numbers lie on the grid, and no partial sum can leave what float64 counts exactly."""
    if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
        raise InvalidInput(
            f"layer {number}: expected weight ({width}, out), bias (out,), got {weight.shape}, {bias.shape}"
        )
    for name, values in (("weight", weight), ("bias", bias)):
        if values.dtype != np.float32 or not np.array_equal(on_grid(values), values):
            raise InvalidInput(f"layer {number} {name}: expected float32 multiples of 2^-20 within +-{WEIGHT_LIMIT}")
    largest = (np.abs(weight.astype(np.float64)).sum(axis=0) * limit + np.abs(bias.astype(np.float64))).max(initial=0)
    if largest * WEIGHT_GRID * transform.GRID >= _EXACT_END:
        raise InvalidInput(f"layer {number}: expected sums below 2^17, got up to {largest:g}; they would round")


def to_artefact(model: Model) -> bytes:
    """The model as one safetensors file, metadata inside. Same model, same bytes."""
    tensors = {"transform.center": model.transform.center, "transform.scale": model.transform.scale}
    for number, (weight, bias) in enumerate(model.layers):
        tensors |= {f"layer{number}.weight": weight, f"layer{number}.bias": bias}
    header = {
        "kind": model.kind,
        "arithmetic": ARITHMETIC,
        "feature_schema": model.feature_schema,
        "columns": transform.COLUMNS,
        "metadata": dict(model.metadata),
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return bytes(save({name: np.ascontiguousarray(t) for name, t in tensors.items()}, {_METADATA_KEY: text}))


def from_artefact(artefact: bytes, device: str = "cpu") -> Model:
    """Read a model back, ready to score on `device` ("cpu", "cuda"). Raises InvalidInput naming what does not fit."""
    header = _read_header(artefact)
    _expect("arithmetic", ARITHMETIC, header.get("arithmetic"))
    _expect("columns", list(transform.COLUMNS), header.get("columns"))
    try:
        tensors = load(artefact)
        layers = [(tensors[f"layer{i}.weight"], tensors[f"layer{i}.bias"]) for i in range(len(tensors) // 2 - 1)]
        learned = transform.Transform(tensors["transform.center"], tensors["transform.scale"])
        kind, schema, metadata = header["kind"], header["feature_schema"], header["metadata"]
    except (SafetensorError, KeyError) as error:
        raise InvalidInput(f"model artefact {digest(artefact)[:12]}: {error}") from error
    return Model(kind, learned, tuple(layers), metadata, device, schema)


def schema_of(artefact: bytes) -> int:
    """The schema of the snapshots a model reads, one unknown here included. Raises InvalidInput for no artefact."""
    schema = _read_header(artefact).get("feature_schema")
    if not isinstance(schema, int):
        raise InvalidInput(f"model artefact {digest(artefact)[:12]}: expected a feature schema, got {schema!r}")
    return schema


def digest(artefact: bytes) -> str:
    """SHA-256 of an artefact, hex: its name in the ledger."""
    return hashlib.sha256(artefact).hexdigest()


def _read_header(artefact: bytes) -> dict[str, Any]:
    """Our JSON from the file's header: 8 bytes of length, then JSON with `__metadata__` (`load` drops it)."""
    try:
        size = int.from_bytes(artefact[:8], "little")
        header = json.loads(json.loads(artefact[8 : 8 + size])["__metadata__"][_METADATA_KEY])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"model artefact {digest(artefact)[:12]}: expected a clickledger safetensors file"
        ) from error
    if not isinstance(header, dict):
        raise InvalidInput(f"model artefact {digest(artefact)[:12]}: expected an object as metadata, got {header!r}")
    return header


def _expect(name: str, expected: object, got: object) -> None:
    if got != expected:
        raise InvalidInput(f"model {name}: expected {expected!r}, got {got!r}")
