"""Linear layers with 8-bit or 4-bit weights and activations as they come, for decoding on CPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gearshift.kernels import dispatch
from gearshift.layers.base import QuantizedLinear
from gearshift.layers.grouped import GroupedLinear
from gearshift.quant.formats.grouped import Grouped
from gearshift.quant.formats.int8 import Quantized, as_grouped, dequantize, quantize_weight
from gearshift.quant.rounding.least_squares import pack4

GROUPS = (128, 64, 32)


class Int8WeightLinear(QuantizedLinear):
    """nn.Linear with an int8 weight, one scale for each output channel.

    Attributes:
        bits: 8.
        qweight: int8 [out, in].
        scale: float32 [out].
    """

    bits = 8
    qweight: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.register_buffer("qweight", torch.zeros(out_features, in_features, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.ones(out_features, dtype=torch.float32, device=device))

    def quantize(self, weight: torch.Tensor) -> None:
        self.qweight, self.scale, _ = quantize_weight(weight)

    @property
    def quantized(self) -> Quantized:
        return Quantized(self.qweight, self.scale)

    def in_groups(self) -> Grouped:
        """The weight in the format of groups, one for each output channel."""
        return as_grouped(self.quantized)

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        return dispatch.matmul(rows, self.quantized)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        return dequantize(self.quantized, dtype)


def fitting_group(in_features: int, group: int) -> int:
    """The group itself if it divides the inputs, else the largest smaller one of GROUPS that does, if there is one."""
    return max((g for g in GROUPS if g <= group and in_features % g == 0), default=group)


def from_float(
    linear: nn.Linear, bits: int, group: int = 64, whole_zeros: bool = False
) -> Int8WeightLinear | GroupedLinear:
    """A layer of 8 or 4 bits in the place of a float one, which stays as it was.

    Args:
        group: at 4 bits, inputs that share a scale, or fewer as `fitting_group` has it.
        whole_zeros: at 4 bits, see `on_whole_zeros`.
    """
    if bits == 8:
        return Int8WeightLinear.from_float(linear)
    return GroupedLinear.of(linear, pack4(linear.weight, fitting_group(linear.in_features, group), whole_zeros))


def empty(linear: Any, bits: int, group: int = 64) -> QuantizedLinear:
    """The layer without storage that `from_float` of these sizes made, for a state dict to be assigned to."""
    if bits == 8:
        return Int8WeightLinear.empty_like(linear)
    return GroupedLinear.empty_like(linear, 4, fitting_group(linear.in_features, group))
