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

A deep-and-cross model (Wang et al., DCN V2, WWW 2021, the parallel form) also multiplies activations by inputs: a cross
layer is x0 * (W x + b) + x, element by element, and ends beside the dense layers in the last one. There W x + b is
rounded to the activations' grid and clipped like them, on both sides of zero, before it is multiplied: a factor of at
most 2^22 steps times one of 2^20 is a whole number of at most 2^42, exact; it is rounded to the grid, added to x and
clipped. Each step is one number's own, so it has no order either. This is arithmetic `exact/2`; it sums its layers as
`exact/1` does, and models without cross layers are still written and read as `exact/1`.

Price: float64 in place of float32 (forward of 256 rows in torch: 150 us against 60 us); gain: one row 40 us against a
tile's 60 us, replay or audit to the bit on any host, and no need of torch to score (`forward`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from clickledger.errors import InvalidInput
from clickledger.scoring import feature_spec, forward, transform

Kind = Literal["network", "logistic_regression", "velocity", "deep_cross"]
Layer = forward.Layer
Pass = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float32]]  # inputs (n, columns) -> logits (n,)

ARITHMETIC = "exact/1"  # grids and limits below; part of every artefact
CROSS_ARITHMETIC = "exact/2"  # the same, and products of cross layers
WEIGHT_GRID, ACTIVATION_LIMIT = forward.WEIGHT_GRID, forward.ACTIVATION_LIMIT
WEIGHT_LIMIT = 8  # a float32 holds every multiple of 2^-20 up to here
BLOCK_ROWS = 2048  # bounds memory; has no effect on scores
_EXACT_END = 1 << 53  # float64 holds every whole number up to here
_METADATA_KEY = "clickledger"  # one key: safetensors writes several in random order


@dataclass(frozen=True, eq=False)
class Model:
    """Fully connected layers with ReLU between them, over the inputs of a transform.

    `cross` layers, of a deep-and-cross model alone, go from the inputs to as many columns; the last of `layers` then
    takes what is before it and what the cross layers end in, in this order. `metadata` is what is known of its making:
    training window, metrics, seed, execution profile. JSON values only.
    Raises InvalidInput when the layers do not fit each other or cannot be summed exactly.
    """

    kind: Kind
    transform: transform.Transform
    layers: tuple[Layer, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    feature_schema: int = feature_spec.SCHEMA_VERSION
    cross: tuple[Layer, ...] = ()
    _pass: Pass = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "_pass", _passing(self.layers, self.cross, self.device))

    def score(self, features: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Logits that the clicks are robotic: snapshots int32 (n, k) -> float32 (n,), higher = more robotic.

        Of snapshots that have more than its schema it reads the beginning. Raises InvalidInput for shorter ones.
        """
        read = len(feature_spec.SCHEMAS[self.feature_schema])
        features = features[:, :read] if features.ndim == 2 else features
        if features.ndim != 2 or features.shape[1] != read:
            raise InvalidInput(f"features: expected shape (n, {read} or more), got {features.shape}")
        scores = np.empty(len(features), dtype=np.float32)
        for start in range(0, len(features), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            scores[rows] = self._pass(self.transform.inputs(features[rows]))
        return scores

    def telling(self, more: Mapping[str, Any]) -> Model:
        """The same model with more metadata."""
        return replace(self, metadata={**self.metadata, **more})


def logits(inputs: npt.NDArray[np.float64], layers: Sequence[Layer]) -> npt.NDArray[np.float32]:
    """Scores of layers that no artefact holds, over inputs (n, columns) in units of 1 / GRID: for trying things out."""
    return forward.Forward(layers)(inputs)


def _passing(layers: Sequence[Layer], cross: Sequence[Layer], device: str) -> Pass:
    if device == "cpu":
        return forward.Forward(layers, cross)
    from clickledger.scoring import forward_torch  # noqa: PLC0415 - loads torch, which a CPU need not

    return forward_torch.Forward(layers, cross, device)


def on_grid(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """The nearest weights that exact sums allow: multiples of 2^-20 within +-`WEIGHT_LIMIT`."""
    return np.clip(np.rint(values.astype(np.float64) * WEIGHT_GRID) / WEIGHT_GRID, -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(
        np.float32
    )


def _check(model: Model) -> None:
    if model.kind not in get_args(Kind):
        raise InvalidInput(f"model kind: expected one of {', '.join(get_args(Kind))}, got {model.kind!r}")
    width = len(transform.columns_of(model.feature_schema))
    for name, vector in (("center", model.transform.center), ("scale", model.transform.scale)):
        if vector.shape != (width,) or vector.dtype != np.float32 or not np.isfinite(vector).all():
            raise InvalidInput(f"{name}: expected {width} finite float32, got {vector.dtype} {vector.shape}")
    if (model.kind == "deep_cross") != bool(model.cross):
        raise InvalidInput(
            f"cross layers: expected them in a deep_cross model only, got {len(model.cross)} in {model.kind}"
        )
    limit = transform.INPUT_LIMIT
    for number, layer in enumerate(model.cross):
        _check_layer(f"cross layer {number}", layer, width, limit)
        if layer[0].shape[1] != width:
            raise InvalidInput(
                f"cross layer {number}: expected as many columns out as in ({width}), got {layer[0].shape[1]}"
            )
        limit = ACTIVATION_LIMIT
    _check_dense(model, width)


def _check_dense(model: Model, columns: int) -> None:
    width, limit = columns, transform.INPUT_LIMIT
    for number, layer in enumerate(model.layers):
        if model.cross and number == len(model.layers) - 1:
            width, limit = width + columns, ACTIVATION_LIMIT
        _check_layer(f"layer {number}", layer, width, limit)
        width, limit = layer[0].shape[1], ACTIVATION_LIMIT
    if not model.layers or width != 1:
        raise InvalidInput(f"layers: expected the last to end in one logit, got {len(model.layers)} ending in {width}")


def _check_layer(name: str, layer: Layer, width: int, limit: int) -> None:
    """Shapes fit, numbers lie on the grid, and no partial sum can leave what float64 counts exactly."""
    weight, bias = layer
    if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
        raise InvalidInput(f"{name}: expected weight ({width}, out), bias (out,), got {weight.shape}, {bias.shape}")
    for part, values in (("weight", weight), ("bias", bias)):
        if values.dtype != np.float32 or not np.array_equal(on_grid(values), values):
            raise InvalidInput(f"{name} {part}: expected float32 multiples of 2^-20 within +-{WEIGHT_LIMIT}")
    largest = (np.abs(weight.astype(np.float64)).sum(axis=0) * limit + np.abs(bias.astype(np.float64))).max(initial=0)
    if largest * WEIGHT_GRID * transform.GRID >= _EXACT_END:
        raise InvalidInput(f"{name}: expected sums below 2^17, got up to {largest:g}; they would round")


def to_artefact(model: Model) -> bytes:
    """The model as one safetensors file, metadata inside. Same model, same bytes."""
    tensors = {"transform.center": model.transform.center, "transform.scale": model.transform.scale}
    for name, layers in (("layer", model.layers), ("cross", model.cross)):
        for number, (weight, bias) in enumerate(layers):
            tensors |= {f"{name}{number}.weight": weight, f"{name}{number}.bias": bias}
    header = {
        "kind": model.kind,
        "arithmetic": arithmetic_of(model.kind),
        "feature_schema": model.feature_schema,
        "columns": transform.columns_of(model.feature_schema),
        "metadata": dict(model.metadata),
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return bytes(save({name: np.ascontiguousarray(t) for name, t in tensors.items()}, {_METADATA_KEY: text}))


def from_artefact(artefact: bytes, device: str = "cpu") -> Model:
    """Read a model back, ready to score on `device` ("cpu", "cuda"). Raises InvalidInput naming what does not fit."""
    header = _read_header(artefact)
    _expect("arithmetic", arithmetic_of(header.get("kind")), header.get("arithmetic"))
    _expect("columns", list(transform.columns_of(schema_of(artefact))), header.get("columns"))
    try:
        tensors = load(artefact)
        layers, cross = (_read_layers(tensors, name) for name in ("layer", "cross"))
        learned = transform.Transform(tensors["transform.center"], tensors["transform.scale"])
        kind, schema, metadata = header["kind"], header["feature_schema"], header["metadata"]
    except (SafetensorError, KeyError) as error:
        raise InvalidInput(f"model artefact {digest(artefact)[:12]}: {error}") from error
    return Model(kind, learned, layers, metadata, device, schema, cross)


def _read_layers(tensors: Mapping[str, npt.NDArray[np.float32]], name: str) -> tuple[Layer, ...]:
    count = sum(each.startswith(name) for each in tensors) // 2
    return tuple((tensors[f"{name}{i}.weight"], tensors[f"{name}{i}.bias"]) for i in range(count))


def arithmetic_of(kind: object) -> str:
    """The arithmetic that the scores of a kind are defined by."""
    return CROSS_ARITHMETIC if kind == "deep_cross" else ARITHMETIC


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
