"""Weights in 8-bit floating point, e4m3fn or e5m2, with a scale for each output channel.

Formats from "FP8 Formats for Deep Learning", arXiv 2209.05433. Where the hardware multiplies them (CUDA from compute
capability 8.9 on), activations are rounded to e4m3fn too, with a scale for each token; elsewhere the weights are only
stored in 8 bits, and multiplied in the type of the input.
"""

from __future__ import annotations

from typing import Any

import torch

from gearshift.kernels import dispatch
from gearshift.layers.base import QuantizedLinear
from gearshift.quant.formats.float8 import FORMATS, Float8, rounded, widened


class Fp8Linear(QuantizedLinear):
    """A linear layer with 8-bit floating-point weights.

    Attributes:
        qweight: float8_e4m3fn or float8_e5m2 [out, in].
        scale: float32 [out]: weight = qweight * scale.
    """

    qweight: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        device: Any = None,
        dtype: torch.dtype | None = None,
        format: str = "e4m3fn",
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.register_buffer("qweight", torch.zeros(out_features, in_features, dtype=FORMATS[format], device=device))
        self.register_buffer("scale", torch.ones(out_features, device=device))

    def format(self) -> dict[str, Any]:
        return {"format": next(name for name, dtype in FORMATS.items() if dtype == self.qweight.dtype)}

    def quantize(self, weight: torch.Tensor) -> None:
        self.qweight, scale = rounded(weight, self.qweight.dtype)
        self.scale = scale.squeeze(1)

    def activations(self) -> str | None:
        return dispatch.rounding(self.held, dispatch.Wish(), self.qweight.device)

    @property
    def held(self) -> Float8:
        return Float8(self.qweight, self.scale)

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        return dispatch.matmul(rows, self.held)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        return widened(self.qweight, self.scale).to(dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {str(self.qweight.dtype).removeprefix('torch.')}"
