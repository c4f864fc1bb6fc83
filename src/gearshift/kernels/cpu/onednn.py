"""Int8 products on x86 CPUs through oneDNN, which torch calls `torch.ops.onednn`.

Weights are kept in its own layout, made once and never saved.

Why these and not `torch.ops.quantized.linear_dynamic`: the matrix product inside is the same one, but here each token
gets a range of its own (a smaller error), nothing depends on `torch.backends.quantized.engine`, and no deprecated
quantized tensor is made. Activations must be uint8: given int8 ones the same operator has taken seconds on
CPUs with VNNI, and saturates without.
"""

from __future__ import annotations

import functools
import platform
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from gearshift.kernels.cpu.rows import codes_in_one_range, ends_of, from_codes, to_codes
from gearshift.kernels.derived import Derived
from gearshift.quant.formats.int8 import Quantized, as_signed, column, is_pair_safe

FULL_LEVELS, NARROW_LEVELS = 255, 127


class Packed(NamedTuple):
    """A weight in the kernel's own layout; derived, never saved.

    Attributes:
        weight: opaque oneDNN tensor.
        sums: float32 [out], the sum of each output channel's int8 values.
        no_zero_points: int32 zeros [out], which the kernels ask for.
        levels: the largest activation code that this CPU multiplies these values by without overflow.
    """

    weight: torch.Tensor
    sums: torch.Tensor
    no_zero_points: torch.Tensor
    levels: int


_packed = Derived()


def available() -> bool:
    """Whether this machine has the kernels: an x86 CPU and a torch built with oneDNN."""
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    return x86 and torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")


@functools.cache
def saturates() -> bool:
    """Whether this CPU adds pairs of int8 products in 16 bits (x86 without VNNI): tried, not read from a list."""
    if not available():
        return False
    weight = torch.full((16, 64), 127, dtype=torch.int8)
    codes = torch.full((16, 64), FULL_LEVELS, dtype=torch.uint8)
    product = multiply(
        codes, torch.ops.onednn.qlinear_prepack(weight, None), torch.ones(16), torch.zeros(16, dtype=torch.int32)
    )
    return bool((product != FULL_LEVELS * 127 * 64).any())


def packed(values: torch.Tensor) -> Packed:
    """The kernel's layout of an int8 or uint8 weight."""
    return _packed.get(values, lambda: _pack(values))


def forget(values: torch.Tensor) -> None:
    """Drop the layout of a weight; see `Derived.forget`."""
    _packed.forget(values)


def multiply(
    codes: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, no_zero_points: torch.Tensor
) -> torch.Tensor:
    """float32 codes @ int8 weight.T * scale; steps, lows and bias come after, they differ from token to token."""
    rest: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")  # bias, output, no post-op
    return torch.ops.onednn.qlinear_pointwise(codes, 1.0, 0, weight, scale, no_zero_points, *rest)


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


def _pack(values: torch.Tensor) -> Packed:
    signed = as_signed(values).contiguous()
    sums = signed.flatten(1).sum(-1, dtype=torch.float32)
    zeros = torch.zeros(signed.shape[0], dtype=torch.int32)
    levels = NARROW_LEVELS if saturates() and not is_pair_safe(signed) else FULL_LEVELS
    if signed.ndim == 2:
        return Packed(torch.ops.onednn.qlinear_prepack(signed, None), sums, zeros, levels)
    one = torch.ones(signed.shape[0])
    weight = torch.ops.onednn.qconv_prepack(signed, one, 1.0, 0, [1, 1], [0, 0], [1, 1], 1, None)
    return Packed(weight, sums, zeros, levels)
