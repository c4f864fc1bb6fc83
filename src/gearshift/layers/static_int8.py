"""Int8 layers whose activations have a range that calibration fixed."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from gearshift.kernels import static_int8
from gearshift.layers.int8 import Int8Conv2d, Int8Layer, Int8Linear
from gearshift.quant.formats import fixed_range
from gearshift.quant.formats.fixed_range import Fixed

Static = TypeVar("Static", bound="StaticInt8Layer")


class StaticInt8Layer(Int8Layer):
    """What a range adds to an int8 layer.

    Attributes:
        step, zero: the range, as in `fixed_range.Fixed`; of all activations or, `per_channel`, of each input channel.
    """

    step: torch.Tensor
    zero: torch.Tensor

    def __init__(self, *sizes: Any, per_channel: bool = False, **options: Any) -> None:
        super().__init__(*sizes, **options)
        step, zero = self._range_shapes() if per_channel else ((), ())
        device = self.qweight.device
        self.register_buffer("step", torch.ones(step, device=device))
        self.register_buffer("zero", torch.zeros(zero, dtype=torch.uint8, device=device))

    @classmethod
    def of(cls: type[Static], layer: nn.Linear | nn.Conv2d, fixed: Fixed, unsigned: bool = False) -> Static:
        """Quantize a float layer, which stays as it was, to this machine's CPU's needs, for activations in a range."""
        made = cls.empty_like(layer, unsigned=unsigned, per_channel=bool(fixed.step.ndim))
        made.step, made.zero = fixed
        made.quantize(layer.weight)
        made.take(layer)
        return made

    def format(self) -> dict[str, Any]:
        return {**super().format(), "per_channel": bool(self.step.ndim)}

    def _range_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of a step and a zero for each input channel."""
        return (self.qweight.shape[1],), (self.qweight.shape[1],)

    @property
    def fixed(self) -> Fixed:
        return Fixed(self.step, self.zero)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        return fixed_range.unfolded(self.quantized, self.step, dtype)

    def quantize(self, weight: torch.Tensor) -> None:
        super().quantize(fixed_range.folded(weight.detach().float(), self.step))

    def activations(self) -> str | None:
        return "to 8 bits, in the ranges that calibration found"


class StaticInt8Linear(StaticInt8Layer, Int8Linear):
    """nn.Linear with 8-bit weights and activations in a fixed range, of all of them or of each input channel.

    Any floating input dtype and any leading dimensions; the gradient of the input is grad @ weight.

    Attributes:
        shift: int32 [out], what the zero of the range comes to in each output channel.
    """

    shift: torch.Tensor

    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, **options)
        shift = torch.zeros(self.out_features, dtype=torch.int32, device=self.qweight.device)
        self.register_buffer("shift", shift)

    def quantize(self, weight: torch.Tensor) -> None:
        super().quantize(weight)
        self.shift = fixed_range.offsets(self.quantized, self.fixed)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return static_int8.linear(input, self.quantized, self.fixed, self.shift, self.bias)


class StaticInt8Conv2d(StaticInt8Layer, Int8Conv2d):
    """nn.Conv2d with 8-bit weights and activations in a fixed range; steps of channels have one zero in common."""

    def _range_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.in_channels,), ()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return static_int8.conv2d(input, self.quantized, self.fixed, self.bias, list(self.stride), list(self.padding))
