"""What linear layers share whose weight a library keeps in its own numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from gearshift.kernels.lazy_weight import LazyWeight


class FrozenLinear(nn.Linear):
    """A linear layer whose weight is held in buffers of any format; it is read as floats and never written.

    A subclass registers its buffers and has `product` and `dequantized`. An nn.Linear, so that adapters (peft) attach;
    any floating input dtype and any leading dimensions; the gradient of the input is grad @ weight.

    Attributes:
        transposed: whether `weight` is written [in, out], as in transformers' Conv1D (GPT-2).
        dtype: of the float layer that this one replaces, and of `weight`.
        bias: [out] or None; trainable if asked to be.
    """

    transposed: ClassVar[bool] = False

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

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight that the buffers stand for, [out, in]."""
        raise NotImplementedError

    def take(self, linear: nn.Linear) -> None:
        """Take over a float layer's bias, mode and whatever else is not the weight."""
        if linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=linear.bias.requires_grad)
        self.train(linear.training)

    @property
    def weight(self) -> torch.Tensor:
        """The float weight that the buffers stand for: to read, not to write."""
        if torch.compiler.is_compiling():
            return self._written()
        place = next(b.device for b in self._buffers.values() if b is not None)
        sizes = (self.in_features, self.out_features) if self.transposed else (self.out_features, self.in_features)
        return LazyWeight(self._written, torch.Size(sizes), self.dtype, place)

    def _written(self) -> torch.Tensor:
        weight = self.dequantized(self.dtype)
        return weight.T if self.transposed else weight

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

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> FrozenLinear:
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        for name, before in exact.items():  # .half() is for floats that are computed with, not for what is stored
            now = self._buffers[name]
            if before is not None and now is not None and now.dtype != before.dtype:
                self._buffers[name] = before.to(now.device)
        return self


class _Product(torch.autograd.Function):
    """A layer's product, with the gradient of the float weight that it stands for."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, layer: FrozenLinear) -> torch.Tensor:
        ctx.layer = layer
        return layer.product(rows)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad @ ctx.layer.dequantized(grad.dtype), None
