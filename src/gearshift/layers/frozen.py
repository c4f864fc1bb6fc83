"""What linear layers share whose weight a library keeps in its own numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gearshift.layers.base import QuantizedLayer


class FrozenLinear(QuantizedLayer, nn.Linear):
    """A linear layer whose weight is held in buffers of any format.

    A subclass registers its buffers and has `product`, `dequantized` and `quantize`. An nn.Linear, so that adapters
    (peft) attach; any floating input dtype and any leading dimensions; the gradient of the input is grad @ weight.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        nn.Module.__init__(self)  # not nn.Linear's, which would make a float weight
        self.in_features, self.out_features = in_features, out_features
        self.dtype = dtype or torch.get_default_dtype()
        empty = nn.Parameter(torch.zeros(out_features, dtype=self.dtype, device=device), requires_grad=False)
        self.register_parameter("bias", empty if bias else None)

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """rows @ weight.T for rows [n >= 1, in] of this layer's dtype or any other, answered in theirs."""
        raise NotImplementedError

    def weight_shape(self) -> tuple[int, ...]:
        return self.out_features, self.in_features

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.reshape(-1, self.in_features)
        if not torch.jit.is_tracing() and not rows.shape[0]:
            y = rows @ self.dequantized(rows.dtype).t()
        elif torch.is_grad_enabled() and rows.requires_grad:
            y = _Product.apply(rows, self)
        else:
            y = self.product(rows)
        y = y.reshape(*input.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Product(torch.autograd.Function):
    """A layer's product, with the gradient of the float weight that it stands for."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, layer: FrozenLinear) -> torch.Tensor:
        ctx.layer = layer
        return layer.product(rows)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad @ ctx.layer.dequantized(grad.dtype), None
