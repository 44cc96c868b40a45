"""The forward pass on a CPU: inputs in, logits out, by exact sums (see `model`, which says why they have no order).

NumPy alone: a process that scores need not load torch, which takes 2 s and some 200 MB, and a call of one click costs a
third of torch's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clickledger.scoring import transform

Layer = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]  # weight (in, out), bias (out,)
Floats = npt.NDArray[np.float64]
Pair = tuple[Floats, Floats]  # whole numbers: weights in units of 2^-20, biases in units of sums, 2^-36

WEIGHT_GRID = 1 << 20
ACTIVATION_LIMIT = 64


def whole(layers: Sequence[Layer]) -> tuple[Pair, ...]:
    """The numbers of layers as whole numbers."""
    return tuple(
        (weight.astype(np.float64) * WEIGHT_GRID, bias.astype(np.float64) * WEIGHT_GRID * transform.GRID)
        for weight, bias in layers
    )


class Forward:
    """The layers of a model, ready to be passed through; `cross` layers end beside the dense ones in the last."""

    def __init__(self, layers: Sequence[Layer], cross: Sequence[Layer] = ()) -> None:
        self._layers, self._cross = whole(layers), whole(cross)

    def __call__(self, inputs: Floats) -> npt.NDArray[np.float32]:
        """Inputs (n, columns) in units of 2^-16 -> logits (n,)."""
        values = inputs
        for pair in self._layers[:-1]:
            values = _activation(values, pair, 0)
        if self._cross:
            values = np.concatenate([values, _crossed(inputs, self._cross)], axis=1)
        sums = _sums(values, self._layers[-1])
        sums /= WEIGHT_GRID * transform.GRID
        return sums[:, 0].astype(np.float32)


def _sums(values: Floats, pair: Pair) -> Floats:
    """(n, in) -> (n, out), exact, in units of 2^-36."""
    weight, bias = pair
    sums: Floats = values @ weight
    sums += bias
    return sums


def _activation(values: Floats, pair: Pair, least: int) -> Floats:
    """One layer, (n, in) -> (n, out), both in units of 2^-16, clipped to `least` and above, and to the limit."""
    sums = _sums(values, pair)
    sums /= WEIGHT_GRID
    np.rint(sums, out=sums)
    return np.clip(sums, least * transform.GRID, ACTIVATION_LIMIT * transform.GRID, out=sums)


def _crossed(inputs: Floats, cross: Sequence[Pair]) -> Floats:
    """Cross layers over inputs (n, columns) -> (n, columns), in units of 2^-16."""
    limit = ACTIVATION_LIMIT * transform.GRID
    values = inputs
    for pair in cross:
        product = _activation(values, pair, -ACTIVATION_LIMIT)
        product *= inputs  # exact, in units of 2^-32
        product /= transform.GRID
        np.rint(product, out=product)
        product += values
        values = np.clip(product, -limit, limit, out=product)
    return values
