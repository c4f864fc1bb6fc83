"""Int8 products on x86 CPUs through oneDNN, which torch calls `torch.ops.onednn`.

Why these and not `torch.ops.quantized.linear_dynamic`: the matrix product inside is the same one, but here each token
gets a range of its own (a smaller error), nothing depends on `torch.backends.quantized.engine`, and no deprecated
quantized tensor is made. Activations must be uint8: given int8 ones the same operator has taken seconds on
CPUs with VNNI, and saturates without.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from gearshift.kernels.int8_pack import multiply, packed
from gearshift.kernels.int8_rows import codes_in_one_range, ends_of, from_codes, to_codes
from gearshift.quant.formats.int8 import Quantized, column


def linear(
    x: torch.Tensor,
    quantized: Quantized,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """x @ weight.T + bias with each token rounded to 8 bits (7, where this CPU and these weights would overflow).

    Args:
        x: floating point [..., in].
        quantized: the weight, values [out, in].
        bias: [out] or None.
    """
    values, scale, zero_point = quantized
    if not x.numel() or not values.numel():
        return x.new_zeros(*x.shape[:-1], values.shape[0]) + (0 if bias is None else bias.to(x.dtype))
    weight, sums, no_zero_points, levels = packed(values)
    rows = x.reshape(-1, x.shape[-1]).float()
    codes = to_codes(rows, levels)
    y = multiply(codes.values, weight, scale, no_zero_points)
    exact = None if bias is None else bias.float()
    if zero_point is None:
        from_codes(y, codes, sums * scale, exact)
    else:
        from_codes(y, codes, sums * scale, exact, (128 - zero_point) * scale, rows.sum(-1, keepdim=True))
    return y.to(x.dtype).reshape(*x.shape[:-1], -1)


def conv2d(
    x: torch.Tensor,
    quantized: Quantized,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
) -> torch.Tensor:
    """A convolution whose input is rounded to 8 (or 7) bits in one range for the whole batch.

    One range, because the kernel fills the border with the code for zero and takes one such code.

    Args:
        x: floating point [batch, in, height, width]; channels_last is the faster layout, and is answered in kind.
        quantized: the weight, values [out, in, kernel height, kernel width].
        bias: [out] or None.
        stride: as in torch.nn.Conv2d.
        padding: as in torch.nn.Conv2d.
    """
    values, scale, zero_point = quantized
    weight, _, no_zero_points, levels = packed(values)
    image = x.float()
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    image = image if channels_last else image.contiguous()
    low, high = ends_of(image)
    low, high = min(low, 0.0), max(high, 0.0)
    step = max((high - low) / (levels - 1), 1e-30)
    zero = round(-low / step) if high - low < float("inf") else 0
    codes = codes_in_one_range(image, step, zero).contiguous(memory_format=torch.channels_last)
    bias = None if bias is None else bias.float()
    rest: tuple[Any, ...] = (
        stride,
        padding,
        [1, 1],
        1,
        1.0,
        0,
        torch.float32,
        "none",
        [],
        "",
    )  # dilation, groups, output, no post-op
    y = torch.ops.onednn.qconv_pointwise(codes, step, zero, weight, scale, no_zero_points, bias, *rest)
    if zero_point is not None:
        window = torch.ones(1, 1, *values.shape[2:])
        sums = F.conv2d(image.sum(1, keepdim=True), window, None, stride, padding)
        y = torch.addcmul(y, sums, column((128 - zero_point) * scale, values)[None, :, 0])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return y.to(x.dtype).contiguous(memory_format=layout)
