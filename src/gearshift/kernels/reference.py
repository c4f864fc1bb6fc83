"""What kernels compute that round activations on the fly, in plain torch with sums in float64.

Written to be read and compared with, not to be fast.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from gearshift.quant.formats.grouped import Grouped, dequantize
from gearshift.quant.formats.int8 import Quantized, as_signed, column


def linear_reference(
    x: torch.Tensor,
    quantized: Quantized,
    bias: torch.Tensor | None = None,
    levels: int = 255,
    per_token: bool = True,
) -> torch.Tensor:
    """A linear layer in W8A8 arithmetic with activations rounded on the fly; exact sums in float64.

    x is read as step * code + low with unsigned codes up to `levels`, both found for each token or for all of x. The
    zero point's share, zero_point * scale * sum(x), has rank one and stays in float.

    Args:
        x: floating point [..., in].
        quantized: the weight, [out, in].
        bias: [out] or None.
        levels: 255 or 127, the largest code.
        per_token: a range for each token, instead of one for all.
    """
    rows = x.double()
    low, high = (rows.amin(-1, True), rows.amax(-1, True)) if per_token else (rows.amin(), rows.amax())
    step = ((high - low) / levels).clamp_min(1e-30)
    codes = ((rows - low) / step).round().clamp(0, levels)
    signed, scale = as_signed(quantized.values).double(), quantized.scale.double()
    y = step * (codes @ signed.T) * scale + low * (signed.sum(-1) * scale)
    if quantized.zero_point is not None:
        y = y - rows.sum(-1, True) * ((quantized.zero_point - 128) * scale)
    return (y if bias is None else y + bias.double()).to(x.dtype)


def conv_reference(
    x: torch.Tensor,
    quantized: Quantized,
    bias: torch.Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    levels: int = 255,
) -> torch.Tensor:
    """A convolution in W8A8 arithmetic, one activation range (that has zero in it, for the padding) for all of x.

    Args:
        x: floating point [batch, in, height, width].
        quantized: the weight, [out, in, kernel height, kernel width].
        bias: [out] or None.
        stride: as in torch.nn.Conv2d.
        padding: zeros on both sides, as in torch.nn.Conv2d.
        levels: 255 or 127, the largest code.
    """
    low, high = x.double().amin().clamp_max(0), x.double().amax().clamp_min(0)
    step = ((high - low) / (levels - 1)).clamp_min(1e-30)
    rounded = (x.double() / step).round() * step
    signed = as_signed(quantized.values).double() * column(quantized.scale, quantized.values).double()
    y = F.conv2d(rounded, signed, None, stride, padding)
    if quantized.zero_point is not None:
        shift = ((quantized.zero_point - 128) * quantized.scale).double()
        y = y - F.conv2d(x.double(), column(shift, signed).expand_as(signed), None, stride, padding)
    return (y if bias is None else y + bias.double()[:, None, None]).to(x.dtype)


def rounded_reference(x: torch.Tensor, weight: Grouped, run: int) -> torch.Tensor:
    """A linear layer whose input is rounded to 8 bits, symmetric, in runs within the weight's groups.

    Args:
        x: floating point [..., in].
        run: inputs with a step in common, at most.
    """
    parts = []
    for group in x.float().split(weight.group, -1):
        for some in group.split(run, -1):
            step = (some.abs().amax(-1, True) / 127).clamp_min(1e-30)
            parts.append((some / step).round() * step)
    return F.linear(torch.cat(parts, -1).double(), dequantize(weight).double()).to(x.dtype)
