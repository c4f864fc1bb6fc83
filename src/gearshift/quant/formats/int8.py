"""Int8 weights with one scale for each output channel.

One thing differs from the textbook, for x86 CPUs without VNNI: their int8 kernels add the products of two neighbors in
16 bits, so that 255 * 127 + 255 * 127 is answered with 32767. `pair_safe` weights never get there; beside any others
the activations have to stay below 128.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

from gearshift.quant.formats.grouped import Grouped, assemble
from gearshift.quant.formats.scales import SMALLEST, usable

PAIR_LIMIT = 128


class Quantized(NamedTuple):
    """A weight in 8 bits: float weight = scale * (values - zero_point).

    Attributes:
        values: int8, or uint8 when a zero point is used; the float weight's shape, output channels first.
        scale: float32 [out].
        zero_point: int32 [out] in the range of uint8, or None for symmetric weights.
    """

    values: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None = None


def quantize_weight(weight: torch.Tensor, unsigned: bool = False, pair_safe: bool = False) -> Quantized:
    """Round a weight to 8 bits, one scale (and with `unsigned` one zero point) for each output channel.

    Args:
        weight: floating point [out, in] or [out, in, height, width].
        unsigned: uint8 and a zero point instead of symmetric int8.
        pair_safe: widen the scale until no two neighbors can overflow 16 bits against activations of 255. Costs about
            2 dB on Gaussian weights, none on CPUs with VNNI, where it need not be asked for.
    """
    rows = _rows(weight.detach().float())
    pairs = _pair_sums(rows)
    scale, zero_point = (_affine if unsigned else _symmetric)(rows, pairs, pair_safe)
    signed = (weight.detach().float() / column(scale, weight) + column(zero_point, weight)).round().clamp(-128, 127)
    if not unsigned:
        return Quantized(signed.to(torch.int8), scale)
    return Quantized((signed + 128).to(torch.uint8), scale, (zero_point + 128).to(torch.int32))


def dequantize(quantized: Quantized, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The weight that the 8 bits stand for, in `dtype`."""
    values, scale, zero_point = quantized
    weight = values.float()
    if zero_point is not None:
        weight = weight - column(zero_point, weight)
    return (weight * column(scale, weight)).to(dtype)


def as_grouped(quantized: Quantized) -> Grouped:
    """The same weight [out, in] in the format of groups: one group for each output channel."""
    values, scale, zero_point = quantized
    codes = values if values.dtype == torch.uint8 else values.view(torch.uint8) ^ 128
    zero = torch.full_like(scale, 128) if zero_point is None else zero_point.float()
    return assemble(codes, scale[:, None], zero[:, None], 8, values.shape[1])


def as_signed(values: torch.Tensor) -> torch.Tensor:
    """What the kernels take: int8. A uint8 value moves down by 128, and its zero point with it."""
    return values if values.dtype == torch.int8 else (values ^ 128).view(torch.int8)


def is_pair_safe(signed: torch.Tensor) -> bool:
    """Whether int8 weights keep within 16 bits against activations of 255; convolutions pair along their channels."""
    if signed.ndim > 2 and signed.shape[1] % 2:  # pairs may then straddle kernel positions
        return int(signed.abs().amax()) <= PAIR_LIMIT // 2
    sums = _pair_sums(_rows(signed).to(torch.int16))
    return not sums.numel() or bool(sums.abs().amax() <= PAIR_LIMIT)


def _symmetric(rows: torch.Tensor, pairs: torch.Tensor, pair_safe: bool) -> tuple[torch.Tensor, torch.Tensor]:
    peak = rows.abs().amax(-1)
    if pair_safe:  # 127, one less than the limit: two roundings can add up to 1
        peak = torch.maximum(peak, pairs.abs().amax(-1))
    return usable(peak / 127), torch.zeros_like(peak)


def _affine(rows: torch.Tensor, pairs: torch.Tensor, pair_safe: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Signed zero point and scale: values within -128..127, halves of pair sums within -64..64 (less the roundings)."""
    low, high = rows.amin(-1).clamp_max(0), rows.amax(-1).clamp_min(0)
    scale = (high - low) / 255
    empty = scale < SMALLEST  # a channel of zeros: with codes of zero at a zero point of zero, products are exact
    if not pair_safe:
        scale = usable(scale)
        return scale, (-128 - low / scale).round().masked_fill_(empty, 0)
    floor, ceiling = pairs.amin(-1).clamp_max(0) / 2, pairs.amax(-1).clamp_min(0) / 2
    widths = [(high - low) / 254, (ceiling - floor) / 126, (ceiling - low) / 190, (high - floor) / 189]
    scale = usable(torch.stack(widths).amax(0))
    least = torch.maximum(-128 - low / scale, -63 - floor / scale)
    most = torch.minimum(127 - high / scale, 63 - ceiling / scale)
    return scale, ((least + most) / 2).round().masked_fill_(empty, 0)


def _rows(weight: torch.Tensor) -> torch.Tensor:
    return weight.movedim(1, -1).reshape(weight.shape[0], -1)


def _pair_sums(rows: torch.Tensor) -> torch.Tensor:
    return F.pad(rows, (0, rows.shape[-1] % 2)).unflatten(-1, (-1, 2)).sum(-1)


def column(per_channel: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return per_channel.reshape(-1, *[1] * (like.ndim - 1))
