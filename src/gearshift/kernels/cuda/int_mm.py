"""Int8 products on CUDA through torch._int_mm, per token; written from its documented limits, not run here."""

from __future__ import annotations

import torch

from gearshift.quant.formats.int8 import Quantized, as_signed

ROWS, MULTIPLE = 16, 8  # it takes more rows than that, and weights whose sizes are multiples of that


def takes(x: torch.Tensor, values: torch.Tensor) -> bool:
    """Whether torch._int_mm takes this product: on CUDA, more than 16 tokens, both widths multiples of 8."""
    return x.is_cuda and x.numel() > ROWS * values.shape[1] and odd_sizes(values) is None


def odd_sizes(values: torch.Tensor) -> str | None:
    """Why it cannot multiply by a weight [out, in], in words; None if it can."""
    if values.shape[0] % MULTIPLE or values.shape[1] % MULTIPLE:
        return f"it takes multiples of {MULTIPLE} inputs and outputs"
    return None


def linear(
    x: torch.Tensor,
    quantized: Quantized,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """x @ weight.T + bias with each token rounded to int8, symmetric: step = max |x| / 127.

    Args:
        x: floating point [..., in].
        quantized: the weight, values [out, in]; the share of its zero point has rank one and stays in float.
        bias: [out] or None.
    """
    values, scale, zero_point = quantized
    rows = x.reshape(-1, x.shape[-1]).float()
    step = (rows.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-30)
    codes = (rows / step).round().to(torch.int8)
    y = torch._int_mm(codes, as_signed(values).t()).float() * step * scale
    if zero_point is not None:
        y = y + rows.sum(-1, keepdim=True) * ((128 - zero_point) * scale)
    if bias is not None:
        y = y + bias.float()
    return y.to(x.dtype).reshape(*x.shape[:-1], -1)
