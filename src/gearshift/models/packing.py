"""Weights in groups as other programs' tensors: GPTQ's, AWQ's and compressed-tensors'. Nothing is rounded.

What such a format cannot hold is refused with `Misfit`, as the end of a sentence about the layer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from gearshift.core.boundary import Misfit
from gearshift.quant.formats.grouped import Grouped, unpack

State = dict[str, torch.Tensor]

WORD = 32  # bits
AWQ_BITS, AWQ_ORDER = 4, (0, 2, 4, 6, 1, 3, 5, 7)  # which of eight output channels each 4 bits of a word are of


class Whole(NamedTuple):
    """A weight [out, in] in whole numbers: weight = scale * (codes - zero).

    Attributes:
        codes: uint8 [out, in].
        scale: float16 or float32 [out, groups].
        zero: uint8 [out, groups].
        bits: of a code and of a zero.
        group: inputs that share a scale; it divides the inputs.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    bits: int
    group: int

    @property
    def symmetric(self) -> bool:
        """Whether all zeros are the middle code."""
        return bool((self.zero == 2 ** (self.bits - 1)).all())


def dividing_group(grouped: Grouped) -> int:
    """The largest group that the inputs can be divided into without changing a weight."""
    return math.gcd(min(grouped.group, grouped.width), grouped.width)


def in_whole_numbers(grouped: Grouped, group: int | None = None) -> Whole:
    """A weight in whole numbers.

    Args:
        group: one that divides the weight's own; None: `dividing_group` it.

    Raises:
        Misfit: if its zeros are not whole numbers of its bits.
    """
    zero, top = grouped.zero.float(), 2**grouped.bits - 1
    if not bool(((zero == zero.round()) & (zero >= 0) & (zero <= top)).all()):
        raise Misfit(f"the zeros of its groups are not whole numbers from 0 to {top}")
    group = group or dividing_group(grouped)
    scale, zero = (regrouped(part, grouped, group).contiguous() for part in (grouped.scale, zero))
    codes = unpack(grouped.codes, grouped.bits, grouped.width)
    return Whole(codes, scale, zero.to(torch.uint8), grouped.bits, group)


def regrouped(of_groups: torch.Tensor, grouped: Grouped, group: int) -> torch.Tensor:
    """Values of a weight's groups [out, groups] for smaller groups, each with those of the one that it was part of."""
    times = max(1, min(grouped.group, grouped.width) // group)
    return of_groups.repeat_interleave(times, 1)[:, : grouped.width // group]


def to_packed(weight: Whole) -> State:
    """compressed-tensors' pack-quantized: weight_packed, weight_scale, weight_shape, and zeros if they differ."""
    parts = {
        "weight_packed": pack_words(weight.codes, weight.bits),
        "weight_scale": weight.scale,
        "weight_shape": torch.tensor(weight.codes.shape),
    }
    if not weight.symmetric:
        parts["weight_zero_point"] = pack_words(weight.zero.T, weight.bits).T.contiguous()
    return parts


def to_int8(weight: Whole) -> State:
    """compressed-tensors' int-quantized: weight int8 [out, in], weight_scale, and zeros if they differ."""
    parts = {"weight": _signed(weight.codes), "weight_scale": weight.scale}
    return parts if weight.symmetric else {**parts, "weight_zero_point": _signed(weight.zero)}


def to_gptq(weight: Whole, less: int) -> State:
    """GPTQ's qweight [in * bits / 32, out], qzeros [groups, out * bits / 32], scales [groups, out] and g_idx [in].

    Args:
        less: what zeros are stored less: 1 in the format's first version, 0 in its second.

    Raises:
        Misfit: if inputs or outputs are not a multiple of 32, or a scale is no float16.
    """
    out, width = weight.codes.shape
    if out % WORD or width % WORD:
        raise Misfit(f"its sizes, {out} x {width}, are not multiples of {WORD}")
    stored = weight.zero - less & 2**weight.bits - 1
    return {
        "qweight": pack_words(weight.codes, weight.bits).T.contiguous(),
        "qzeros": pack_words(stored.T, weight.bits),
        "scales": halves(weight.scale).T.contiguous(),
        "g_idx": (torch.arange(width) // weight.group).int(),
    }


def to_awq(weight: Whole) -> State:
    """AWQ's qweight [in, out / 8], qzeros [groups, out / 8] and scales [groups, out].

    Raises:
        Misfit: unless it has 4 bits and a multiple of 8 outputs, and its scales are float16.
    """
    out = weight.codes.shape[0]
    if weight.bits != AWQ_BITS:
        raise Misfit(f"its weight has {weight.bits} bits, not {AWQ_BITS}")
    if out % len(AWQ_ORDER):
        raise Misfit(f"its {out} outputs are not a multiple of {len(AWQ_ORDER)}")
    scales = halves(weight.scale).T.contiguous()
    return {"qweight": _interleaved(weight.codes.T), "qzeros": _interleaved(weight.zero.T), "scales": scales}


def halves(scale: torch.Tensor) -> torch.Tensor:
    """Scales as float16.

    Raises:
        Misfit: if that would round one.
    """
    half = scale.half()
    if not torch.equal(half.float(), scale.float()):
        raise Misfit("its scales are not exact in float16")
    return half


def pack_words(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """Unsigned numbers of so many bits, uint8 [n, m], end to end in little-endian int32 words [n, words]."""
    m = numbers.shape[1]
    padded = torch.nn.functional.pad(numbers, (0, -m % WORD))
    single = (padded[..., None] >> torch.arange(bits, dtype=torch.uint8) & 1).flatten(1)
    octets = (single.unflatten(1, (-1, 8)) << torch.arange(8, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)
    return octets.view(torch.int32)[:, : -(-m * bits // WORD)].contiguous()


def _interleaved(numbers: torch.Tensor) -> torch.Tensor:
    """AWQ's words of 4-bit numbers [n, out]."""
    return pack_words(numbers.unflatten(1, (-1, len(AWQ_ORDER)))[..., list(AWQ_ORDER)].flatten(1), AWQ_BITS)


def _signed(codes: torch.Tensor) -> torch.Tensor:
    """Codes of 8 bits less 128."""
    return (codes ^ 128).view(torch.int8)
