"""Weights in 8-bit floating point, e4m3fn or e5m2, with a scale for each output channel.

Formats from "FP8 Formats for Deep Learning", arXiv 2209.05433. Where the hardware multiplies them (CUDA from compute
capability 8.9 on), activations are rounded to e4m3fn too, with a scale for each token; elsewhere the weights are only
stored in 8 bits, and multiplied in the type of the input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gearshift.layers.frozen import FrozenLinear
from gearshift.quant.formats.scales import usable

FORMATS = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
MULTIPLE = 16  # of both sizes of a weight that torch._scaled_mm takes on CUDA
TOKENS = "to 8-bit floats, token by token"
ADA = (8, 9)  # the first compute capability that multiplies 8-bit floats


class Fp8Linear(FrozenLinear):
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

    @classmethod
    def from_float(cls, linear: nn.Linear, format: str = "e4m3fn") -> Fp8Linear:
        """Quantize a float layer, which stays as it was."""
        sizes = (linear.in_features, linear.out_features, linear.bias is not None, "meta", linear.weight.dtype)
        layer = cls(*sizes, format)
        layer.quantize(linear.weight.detach())
        layer.take(linear)
        return layer

    def quantize(self, weight: torch.Tensor) -> None:
        self.qweight, scale = rounded(weight, self.qweight.dtype)
        self.scale = scale.squeeze(1)

    def activations(self) -> str | None:
        return TOKENS if multiplies(self.qweight.device) else None

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        if takes(rows, self.qweight):
            return scaled_product(rows, self.qweight, self.scale)
        return F.linear(rows, self.dequantized(rows.dtype))

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        return widened(self.qweight, self.scale).to(dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {str(self.qweight.dtype).removeprefix('torch.')}"


def rounded(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest 8-bit floats of x [n, in], and the float32 scale [n, 1] of each row, which fills the range."""
    peak = torch.finfo(dtype).max
    scale = usable(x.abs().amax(-1, keepdim=True).float() / peak)
    return (x.float() / scale).clamp(-peak, peak).to(dtype), scale


def widened(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """float32 values [out, in] * scale [out].

    On a CPU by way of float16, whose bits both formats are part of: torch's own cast takes four times as long there.
    """
    if values.device.type != "cpu":
        return values.float() * scale[:, None]
    bits = values.view(torch.int8).to(torch.int16)
    if values.dtype == torch.float8_e5m2:
        return (bits << 8).view(torch.float16).float().mul_(scale[:, None])
    half = (bits << 7 & ~(1 << 14)).view(torch.float16)  # exponents are 8 too small; no code is NaN
    return half.float().mul_(256 * scale[:, None])


def takes(rows: torch.Tensor, values: torch.Tensor) -> bool:
    """Whether the device multiplies rows [n, in] and weights [out, in] in 8-bit floating point."""
    return rows.is_cuda and not (values.shape[0] % MULTIPLE or values.shape[1] % MULTIPLE) and multiplies(rows.device)


@torch.compiler.assume_constant_result
def multiplies(device: torch.device) -> bool:
    """Whether a device multiplies 8-bit floats."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= ADA


def scaled_product(rows: torch.Tensor, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """rows @ weight.T, each row rounded to e4m3fn with a scale of its own; accumulated in float32.

    CUDA answers products with a scale for each row in bfloat16 and in nothing else. A CPU does the same arithmetic, not
    faster than in float32; tests run it there.
    """
    codes, steps = rounded(rows, torch.float8_e4m3fn)
    answer = torch.bfloat16 if rows.is_cuda else torch.float32
    y = torch._scaled_mm(codes, values.t(), steps, scale[None], out_dtype=answer, use_fast_accum=rows.is_cuda)
    return y.to(rows.dtype)
