"""The int8 stand-in for nn.Conv2d."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gearshift.kernels import ops
from gearshift.layers.int8 import Int8Layer, Int8Linear

Pair = int | tuple[int, int]


def supports(conv: nn.Module) -> bool:
    """Whether Int8Conv2d can stand for this: nn.Conv2d's own forward, one group, no dilation, padded with zeros."""
    return (
        isinstance(conv, nn.Conv2d)
        and type(conv).forward is nn.Conv2d.forward
        and conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


class Int8Conv2d(Int8Layer, nn.Conv2d):
    """nn.Conv2d with 8-bit weights; activations are rounded to 8 bits in one range for the whole batch."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        unsigned: bool = False,
    ) -> None:
        height, width = _two(kernel_size)
        super().__init__((out_channels, in_channels, height, width), bias, unsigned, device, dtype)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, (height, width)
        self.stride, self.padding = _two(stride), _two(padding)
        self.dilation, self.groups, self.padding_mode = (1, 1), 1, "zeros"
        self.transposed, self.output_padding = False, (0, 0)

    def activations(self) -> str | None:
        return "to 8 bits, in one range for a batch"

    @classmethod
    def from_float(cls, conv: nn.Conv2d, unsigned: bool = False, pair_safe: bool | None = None) -> Int8Conv2d:
        """Quantize a float layer, which stays as it was; raises ValueError where supports(conv) is False."""
        if not supports(conv):
            raise ValueError(
                f"Int8Conv2d cannot stand for {conv}: it takes an nn.Conv2d with groups=1, dilation=1 and a number of "
                "zeros as padding. Ask supports(conv) first and leave this one in float."
            )
        weight = conv.weight
        sizes = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
        layer = cls(*sizes, conv.bias is not None, "meta", weight.dtype, unsigned)
        layer.fill(conv, pair_safe)
        return layer

    def to_float(self) -> nn.Conv2d:
        """An nn.Conv2d with the weight that the 8 bits stand for."""
        sizes = (self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding)
        there: dict[str, Any] = {"device": self.qweight.device, "dtype": self.dtype}
        return self._float_state(nn.Conv2d(*sizes, bias=self.bias is not None, **there))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return ops.conv2d(input, self.quantized, self.bias, list(self.stride), list(self.padding))

    def extra_repr(self) -> str:
        kind = "quint8" if self.zero_point is not None else "qint8"
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, bias={self.bias is not None}, {kind}"
        )


def int8_twin(layer: nn.Module, unsigned: bool = False) -> Int8Linear | Int8Conv2d | None:
    """The int8 layer for an nn.Linear or nn.Conv2d (with their own forward), or None if there is none for it."""
    if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
        return Int8Linear.from_float(layer, unsigned)
    if isinstance(layer, nn.Conv2d) and supports(layer):
        return Int8Conv2d.from_float(layer, unsigned)
    return None


def _two(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
