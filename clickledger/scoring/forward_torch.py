"""The same forward pass in torch, for an accelerator; equal to `forward` to the bit, since sums are exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from clickledger.errors import InvalidInput
from clickledger.scoring import forward, transform
from clickledger.scoring.forward import ACTIVATION_LIMIT, WEIGHT_GRID, Floats, Layer

_Pair = tuple[torch.Tensor, torch.Tensor]


class Forward:
    """The layers of a model on a device. Raises InvalidInput where that is not there."""

    def __init__(self, layers: Sequence[Layer], cross: Sequence[Layer], device: str) -> None:
        if device != "cpu" and not torch.cuda.is_available():
            raise InvalidInput(f"device: expected 'cpu' (no CUDA device is present), got {device!r}")
        self._device = device
        self._layers, self._cross = self._pairs(layers), self._pairs(cross)

    @torch.inference_mode()
    def __call__(self, inputs: Floats) -> npt.NDArray[np.float32]:
        """Inputs (n, columns) in units of 2^-16 -> logits (n,)."""
        given = torch.from_numpy(inputs).to(self._device)
        values = given
        for pair in self._layers[:-1]:
            values = _activation(values, pair, 0)
        if self._cross:
            values = torch.cat([values, _crossed(given, self._cross)], dim=1)
        weight, bias = self._layers[-1]
        logits = torch.addmm(bias, values, weight) / (WEIGHT_GRID * transform.GRID)
        scores: npt.NDArray[np.float32] = logits.squeeze(1).to(torch.float32).cpu().numpy()
        return scores

    def _pairs(self, layers: Sequence[Layer]) -> list[_Pair]:
        whole = forward.whole(layers)
        return [(torch.from_numpy(w).to(self._device), torch.from_numpy(b).to(self._device)) for w, b in whole]


def _activation(values: torch.Tensor, pair: _Pair, least: int) -> torch.Tensor:
    """One layer, (n, in) -> (n, out), both in units of 2^-16, clipped to `least` and above, and to the limit."""
    weight, bias = pair
    sums = torch.addmm(bias, values, weight)  # exact, in units of 2^-36
    return (sums / WEIGHT_GRID).round_().clamp_(least * transform.GRID, ACTIVATION_LIMIT * transform.GRID)


def _crossed(inputs: torch.Tensor, cross: Sequence[_Pair]) -> torch.Tensor:
    """Cross layers over inputs (n, columns) -> (n, columns), in units of 2^-16."""
    limit = ACTIVATION_LIMIT * transform.GRID
    values = inputs
    for pair in cross:
        product = inputs * _activation(values, pair, -ACTIVATION_LIMIT)  # exact, in units of 2^-32
        values = ((product / transform.GRID).round_() + values).clamp_(-limit, limit)
    return values
