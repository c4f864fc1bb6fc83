"""Int8 layers that stand where nn.Linear and nn.Conv2d stood."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gearshift.kernels import ops
from gearshift.kernels.cpu import onednn
from gearshift.layers.base import QuantizedLayer
from gearshift.quant.formats.int8 import Quantized, dequantize, quantize_weight


class Int8Layer(QuantizedLayer):
    """What the int8 layers share: plain tensors that save and load like any others.

    Attributes:
        qweight: int8, or uint8 with a zero point; output channels first.
        scale: float32 [out]; stays float32 under .half() and the like.
        zero_point: int32 [out], or None.
        pair_safe: see quantize_weight; None: as this machine's CPU needs it.
    """

    pair_safe: bool | None = None

    qweight: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None

    def __init__(
        self, shape: tuple[int, ...], bias: bool, unsigned: bool, device: Any, dtype: torch.dtype | None
    ) -> None:
        nn.Module.__init__(self)  # not nn.Linear's or nn.Conv2d's, which would make a float weight
        self.dtype = dtype or torch.get_default_dtype()
        values = torch.uint8 if unsigned else torch.int8
        self.register_buffer("qweight", torch.zeros(shape, dtype=values, device=device))
        self.register_buffer("scale", torch.ones(shape[0], dtype=torch.float32, device=device))
        zero_point = torch.zeros(shape[0], dtype=torch.int32, device=device) if unsigned else None
        self.register_buffer("zero_point", zero_point)
        empty = nn.Parameter(torch.zeros(shape[0], dtype=self.dtype, device=device), requires_grad=False)
        self.register_parameter("bias", empty if bias else None)

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

    def fill(self, layer: nn.Linear | nn.Conv2d, pair_safe: bool | None) -> None:
        """Take over a float layer's weight, bias, mode and device."""
        self.pair_safe = pair_safe
        self.quantize(layer.weight)
        self.take(layer)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        onednn.forget(self.qweight)

    def _float_state(self, layer: nn.Module) -> Any:
        state = {"weight": self.read_weight()}
        layer.load_state_dict(state if self.bias is None else {**state, "bias": self.bias.detach()})
        return layer.train(self.training)


class Int8Linear(Int8Layer, nn.Linear):
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
    ) -> None:
        super().__init__((out_features, in_features), bias, unsigned, device, dtype)
        self.in_features, self.out_features = in_features, out_features

    @classmethod
    def from_float(cls, linear: nn.Linear, unsigned: bool = False, pair_safe: bool | None = None) -> Int8Linear:
        """Quantize a float layer, which stays as it was. `pair_safe`: see quantize_weight; None: as this CPU needs."""
        out_features, in_features = linear.weight.shape
        layer = cls(in_features, out_features, linear.bias is not None, "meta", linear.weight.dtype, unsigned)
        layer.fill(linear, pair_safe)
        return layer

    def to_float(self) -> nn.Linear:
        """An nn.Linear with the weight that the 8 bits stand for."""
        bias, device = self.bias is not None, self.qweight.device
        return self._float_state(nn.Linear(self.in_features, self.out_features, bias, device, self.dtype))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return ops.linear(input, self.quantized, self.bias)

    def extra_repr(self) -> str:
        kind = "quint8" if self.zero_point is not None else "qint8"
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, {kind}"
