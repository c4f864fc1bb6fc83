"""Moving scales of a linear layer's inputs into what makes these inputs: a norm, or a linear layer before it.

Which module that is, and which of its rows, is found by trying: the block has to answer as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gearshift.core.target import Written
from gearshift.layers.linear_view import is_linear, matrix
from gearshift.models.calibration import Block

PROVEN = 0.01  # what may be left of a change of the layers' inputs after it was made up for


class Rescaled(Written):
    """The change of weights whose rows or columns were scaled, so that together they do what they did before."""

    def rows(self, module: Any, rows: torch.Tensor, scales: torch.Tensor) -> None:
        """Divide rows of a norm's or a layer's weight and bias by scales; a row may come more than once."""
        size = matrix(module).shape[0] if is_linear(module) else module.weight.shape[0]
        factors = torch.ones(size, device=scales.device)
        factors[rows] = 1 / scales
        linear = is_linear(module)
        self._put(module, "weight", matrix(module).T * factors if linear else module.weight * factors, turned=linear)
        if getattr(module, "bias", None) is not None:
            self._put(module, "bias", module.bias * factors)

    def columns(self, layer: Any, scales: torch.Tensor) -> None:
        """Multiply the columns of a layer's weight, one for each input, by scales."""
        self._put(layer, "weight", (matrix(layer) * scales).T, turned=True)

    def _put(self, module: Any, name: str, values: torch.Tensor, turned: bool = False) -> None:
        """Set a parameter; a linear layer's weight comes as [in, out]."""
        if turned and isinstance(module, nn.Linear):
            values = values.T
        self.put(getattr(module, name), values.contiguous())


@dataclass
class InputSource:
    """What makes the inputs of some layers.

    Attributes:
        module: a norm or a linear layer.
        rows: int64 [in], the row of its weight that makes an input; heads that share keys and values share rows.
    """

    module: Any
    rows: torch.Tensor


@torch.no_grad()
def find_source(block: Block, layers: Sequence[Any], config: Any) -> InputSource | None:
    """Where scales of the inputs that the layers share can go; None if nothing in the block makes up for them.

    Args:
        config: the model's, which tells how many heads share keys and values.
    """
    width = matrix(layers[0]).shape[1]
    before = block.output()
    draw = torch.Generator().manual_seed(0)
    channels = (2 ** (2 * torch.rand(width, generator=draw) - 1)).to(before.device)
    for source in _candidates(block.module, layers, width, config):
        rows = source.rows.to(before.device)
        scales = channels[torch.unique(rows, return_inverse=True)[1]]
        trial = Rescaled("", keep=True)
        try:
            for layer in layers:
                trial.columns(layer, scales)
            moved = (block.output() - before).float().norm()
            trial.rows(source.module, rows, scales)
            left = (block.output() - before).float().norm()
        finally:
            trial.revert()
        if left < PROVEN * moved:
            return InputSource(source.module, rows)
    return None


def _candidates(block: nn.Module, layers: Sequence[Any], width: int, config: Any) -> Iterator[InputSource]:
    """Norms of the right width, then linear layers from the last: their last rows, where they make more than that."""
    own = torch.arange(width)
    others = [module for module in block.modules() if module not in set(layers)]
    for module in others:
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.shape == (width,):
            yield InputSource(module, own)
    maps = [own, *_shared_heads(own, config)]
    for module in reversed(others):
        if is_linear(module):
            made = matrix(module).shape[0]
            yield from (
                InputSource(module, rows + made - used) for rows in maps if (used := int(rows.max()) + 1) <= made
            )


def _shared_heads(own: torch.Tensor, config: Any) -> Iterator[torch.Tensor]:
    """Which of the values' channels each channel of the attention's output is made from."""
    heads, of_values = (getattr(config, f"num_{kind}_heads", None) for kind in ("attention", "key_value"))
    if heads and of_values and of_values < heads and len(own) % heads == 0:
        size = len(own) // heads
        yield own // size // (heads // of_values) * size + own % size
