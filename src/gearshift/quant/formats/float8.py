"""8-bit floats, e4m3fn or e5m2, with a scale for each row ("FP8 Formats for Deep Learning", arXiv 2209.05433)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from gearshift.quant.formats.scales import usable

FORMATS = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


class Float8(NamedTuple):
    """A weight = values * scale.

    Attributes:
        values: float8_e4m3fn or float8_e5m2 [out, in].
        scale: float32 [out].
    """

    values: torch.Tensor
    scale: torch.Tensor


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
