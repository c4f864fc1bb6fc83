"""Int8 layers that stand where nn.Linear and nn.Conv2d stood."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gearshift.kernels import dispatch, ops
from gearshift.kernels.cpu import onednn
from gearshift.layers.base import QuantizedLayer, QuantizedLinear
from gearshift.quant.formats.grouped import Grouped
from gearshift.quant.formats.int8 import Quantized, as_grouped, dequantize, quantize_weight

Pair = int | tuple[int, int]


class Int8Layer(QuantizedLayer):
    """What the int8 layers share: plain tensors that save and load like any others.

    Attributes:
        qweight: int8, or uint8 with a zero point; output channels first.
        scale: float32 [out]; stays float32 under .half() and the like.
        zero_point: int32 [out], or None.
        pair_safe: see quantize_weight; None: as this machine's CPU needs it.
    """

    qweight: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None

    def _make_room(self, shape: tuple[int, ...], unsigned: bool, pair_safe: bool | None, device: Any) -> None:
        """Make the buffers of a weight of this shape."""
        self.pair_safe = pair_safe
        values = torch.uint8 if unsigned else torch.int8
        self.register_buffer("qweight", torch.zeros(shape, dtype=values, device=device))
        self.register_buffer("scale", torch.ones(shape[0], dtype=torch.float32, device=device))
        zero_point = torch.zeros(shape[0], dtype=torch.int32, device=device) if unsigned else None
        self.register_buffer("zero_point", zero_point)

    def format(self) -> dict[str, Any]:
        return {"unsigned": self.zero_point is not None, "pair_safe": self.pair_safe}

    @property
    def quantized(self) -> Quantized:
        return Quantized(self.qweight, self.scale, self.zero_point)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        return dequantize(self.quantized, dtype)

    def quantize(self, weight: torch.Tensor) -> None:
        pair_safe = onednn.saturates() if self.pair_safe is None else self.pair_safe
        self.qweight, self.scale, self.zero_point = quantize_weight(weight, self.zero_point is not None, pair_safe)

    def weight_shape(self) -> tuple[int, ...]:
        return tuple(self.qweight.shape)

    def activations(self) -> str | None:
        return "to 8 bits, token by token"

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        onednn.forget(self.qweight)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {'qint8' if self.zero_point is None else 'quint8'}"


class Int8Linear(Int8Layer, QuantizedLinear):
    """nn.Linear with 8-bit weights; activations are rounded to 8 bits token by token as they come.

    A subclass of it, so that adapters (peft) attach; ask `type(layer) is nn.Linear` to find float ones.

    Any floating input dtype and any leading dimensions; the gradient of the input is grad @ weight.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        unsigned: bool = False,
        pair_safe: bool | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self._make_room((out_features, in_features), unsigned, pair_safe, device)

    def in_groups(self) -> Grouped:
        """The weight in the format of groups, one for each output channel."""
        return as_grouped(self.quantized)

    def activations(self) -> str | None:
        return dispatch.rounding(self.quantized, dispatch.Wish(rounds=True), self.qweight.device)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return ops.linear(input, self.quantized, self.bias)


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
        pair_safe: bool | None = None,
    ) -> None:
        super().__init__(out_channels, bias, device, dtype)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, _two(kernel_size)
        self.stride, self.padding = _two(stride), _two(padding)
        self.dilation, self.groups, self.padding_mode = (1, 1), 1, "zeros"
        self.transposed, self.output_padding = False, (0, 0)
        self._make_room((out_channels, in_channels, *self.kernel_size), unsigned, pair_safe, device)

    def activations(self) -> str | None:
        return "to 8 bits, in one range for a batch"

    @staticmethod
    def sizes_of(layer: Any) -> tuple[Any, ...]:
        """A convolution's sizes; raises ValueError where supports(layer) is False."""
        if not supports(layer):
            raise ValueError(
                f"Int8Conv2d cannot stand for {layer}: it takes an nn.Conv2d with groups=1, dilation=1 and a number of "
                "zeros as padding. Ask supports(conv) first and leave this one in float."
            )
        return layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return ops.conv2d(input, self.quantized, self.bias, list(self.stride), list(self.padding))


def int8_class(layer: nn.Module) -> type[Int8Linear | Int8Conv2d] | None:
    """The int8 layer for an nn.Linear or nn.Conv2d (with their own forward), or None if there is none for it."""
    if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
        return Int8Linear
    return Int8Conv2d if supports(layer) else None


def _two(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
