"""Int8 layers whose activations have a range that calibration fixed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gearshift.kernels import static_int8
from gearshift.kernels.static_int8 import Fixed
from gearshift.layers.int8 import Int8Layer, Int8Linear
from gearshift.layers.int8_conv import Int8Conv2d


class StaticInt8Layer(Int8Layer):
    """What a range adds to an int8 layer.

    Attributes:
        step, zero: the range, as in `static_int8.Fixed`.
    """

    step: torch.Tensor
    zero: torch.Tensor

    @property
    def fixed(self) -> Fixed:
        return Fixed(self.step, self.zero)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        return static_int8.unfolded(self.quantized, self.step, dtype)

    def quantize(self, weight: torch.Tensor) -> None:
        super().quantize(static_int8.folded(weight.detach().float(), self.step))

    def activations(self) -> str | None:
        return "to 8 bits, in the ranges that calibration found"

    def fill_with(self, layer: nn.Linear | nn.Conv2d, fixed: Fixed) -> None:
        """Take over a float layer, its weight rounded as this machine's CPU needs it, and a range."""
        self.step, self.zero = fixed
        self.fill(layer, None)

    def _make_room(self, step: tuple[int, ...], zero: tuple[int, ...]) -> None:
        """Make the buffers of a range of these shapes."""
        device = self.qweight.device
        self.register_buffer("step", torch.ones(step, device=device))
        self.register_buffer("zero", torch.zeros(zero, dtype=torch.uint8, device=device))


class StaticInt8Linear(StaticInt8Layer, Int8Linear):
    """nn.Linear with 8-bit weights and activations in a fixed range, of all of them or of each input channel.

    Any floating input dtype and any leading dimensions; the gradient of the input is grad @ weight.

    Attributes:
        shift: int32 [out], what the zero of the range comes to in each output channel.
    """

    shift: torch.Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        unsigned: bool = False,
        per_channel: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype, unsigned)
        shape = (in_features,) if per_channel else ()
        self._make_room(shape, shape)
        self.register_buffer("shift", torch.zeros(out_features, dtype=torch.int32, device=device))

    @classmethod
    def of(cls, linear: nn.Linear, fixed: Fixed, unsigned: bool = False) -> StaticInt8Linear:
        """Quantize a float layer, which stays as it was."""
        layer = static_skeleton(linear, unsigned, bool(fixed.step.ndim))
        layer.fill_with(linear, fixed)
        return layer

    def quantize(self, weight: torch.Tensor) -> None:
        super().quantize(weight)
        self.shift = static_int8.offsets(self.quantized, self.fixed)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return static_int8.linear(input, self.quantized, self.fixed, self.shift, self.bias)


class StaticInt8Conv2d(StaticInt8Layer, Int8Conv2d):
    """nn.Conv2d with 8-bit weights and activations in a fixed range; steps of channels have one zero in common."""

    def __init__(self, *sizes: Any, per_channel: bool = False, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self._make_room((self.in_channels,) if per_channel else (), ())

    @classmethod
    def of(cls, conv: nn.Conv2d, fixed: Fixed, unsigned: bool = False) -> StaticInt8Conv2d:
        """Quantize a float layer for which supports(conv) is True, and which stays as it was."""
        layer = static_skeleton(conv, unsigned, bool(fixed.step.ndim))
        layer.fill_with(conv, fixed)
        return layer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return static_int8.conv2d(input, self.quantized, self.fixed, self.bias, list(self.stride), list(self.padding))


def static_skeleton(layer: nn.Linear | nn.Conv2d, unsigned: bool, per_channel: bool) -> Any:
    """The static int8 layer of a float layer's sizes and type, without storage."""
    options: dict[str, Any] = {"bias": layer.bias is not None, "device": "meta", "dtype": layer.weight.dtype}
    options |= {"unsigned": unsigned, "per_channel": per_channel}
    if isinstance(layer, nn.Linear):
        return StaticInt8Linear(layer.in_features, layer.out_features, **options).eval()
    sizes = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
    return StaticInt8Conv2d(*sizes, **options).eval()
