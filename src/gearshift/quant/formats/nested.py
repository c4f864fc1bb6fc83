"""Nested weights: one 16-bit store that holds a 4-bit weight, its refinement to 8 bits, and that one's to 16.

A weight is `scale * (coarse * multiplier + offset + fine + rest / 256)`: `coarse` and `fine` have 4 bits, `rest` has 8,
there is one scale for each output channel, and for each group of inputs a small integer multiplier and an integer
offset. Without `rest`, and without `fine`, that is an int8 weight with the channel's scale, so that the 4-bit and the
8-bit weight run on the same int8 kernels, and each is an exact refinement of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gearshift.quant.formats.int8 import Quantized, column
from gearshift.quant.formats.scales import usable

GROUP = 64
PEAK = 119  # the largest value that sixteen 4-bit steps of 16 and a 4-bit rest reach on both sides
MOST = 16


@dataclass(eq=False)
class Nested:
    """The planes of one weight. A plane that is None was dropped; what needs it is out of reach until it comes back.

    Attributes:
        shape: of the weight, output channels first.
        scale: float32 [out].
        multiplier: uint8 [out, groups], 1 to 16.
        offset: int8 [out, groups].
        coarse, fine: uint8 [out, half of the inputs]: two 4-bit values a byte, plus 8.
        rest: int8 [out, inputs].
    """

    shape: torch.Size
    scale: torch.Tensor
    multiplier: torch.Tensor
    offset: torch.Tensor
    coarse: torch.Tensor
    fine: torch.Tensor | None
    rest: torch.Tensor | None

    def four_bits(self) -> Quantized:
        """The 4-bit weight, as int8 values with a scale for each output channel."""
        return Quantized(self._shaped(self._four_bits()), self.scale)

    def eight_bits(self) -> Quantized:
        """The 8-bit weight."""
        if self.fine is None:
            raise ValueError("The plane that refines 4 bits to 8 was dropped.")
        return Quantized(self._shaped(self._four_bits() + _unpacked(self.fine)), self.scale)

    def sixteen_bits(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weight in floating point, from all planes."""
        if self.rest is None:
            raise ValueError("The plane that refines 8 bits to 16 was dropped.")
        values = self.eight_bits().values.float() + self.rest.reshape(self.shape).float() / 256
        return (values * column(self.scale, values)).to(dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the planes that are there, scales and multipliers included."""
        planes = (self.scale, self.multiplier, self.offset, self.coarse, self.fine, self.rest)
        return sum(p.numel() * p.element_size() for p in planes if p is not None)

    def to(self, device: torch.device | str) -> Nested:
        """The same planes on another device."""
        planes = (self.scale, self.multiplier, self.offset, self.coarse, self.fine, self.rest)
        moved: list[Any] = [None if p is None else p.to(device) for p in planes]
        return Nested(self.shape, *moved)

    def _four_bits(self) -> torch.Tensor:
        length = 2 * self.coarse.shape[1]
        return _unpacked(self.coarse) * _spread(self.multiplier, length) + _spread(self.offset, length)

    def _shaped(self, values: torch.Tensor) -> torch.Tensor:
        return values[:, : self.shape[1:].numel()].reshape(self.shape).contiguous()


def nest(weight: torch.Tensor) -> Nested:
    """Round a weight to the nested store; what `sixteen_bits` of one gives in float32 is rounded to the same planes.

    Args:
        weight: floating point, output channels first; what follows them is one row.
    """
    rows = weight.detach().float().flatten(1)
    scale = usable(_short(rows.abs().amax(1) / PEAK))
    exact = (rows / scale[:, None] * 256).round().clamp_(-256 * PEAK, 256 * PEAK).int()
    near = torch.div(exact + 128, 256, rounding_mode="floor")
    rest = (exact - 256 * near).to(torch.int8)
    padded = torch.nn.functional.pad(near, (0, -near.shape[1] % 2)).to(torch.int16)
    multiplier, offset, coarse = _coarse(padded)
    length = padded.shape[1]
    fine = padded - coarse * _spread(multiplier, length).short() - _spread(offset, length)
    return Nested(weight.shape, scale, multiplier, offset, _packed(coarse), _packed(fine), rest)


def _short(scale: torch.Tensor) -> torch.Tensor:
    """To 16 significant bits, so that PEAK scales are a float32 and a weight made of them has this scale again."""
    mantissa, exponent = torch.frexp(scale)
    return torch.ldexp((mantissa * 65536).round() / 65536, exponent)


def _coarse(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Multipliers and offsets [out, groups] with the least error among those that 4 bits refine exactly; the 4 bits."""
    groups = torch.nn.functional.pad(values, (0, -values.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    twice_middle = groups.amax(-1) + groups.amin(-1)
    least = torch.full(twice_middle.shape, torch.inf, device=values.device)
    best = torch.zeros(2, *twice_middle.shape, dtype=torch.int16, device=values.device)
    for step in range(1, MOST + 1):
        middle = torch.div(twice_middle + step, 2, rounding_mode="floor")  # levels reach one step farther down
        for offset in (torch.zeros_like(middle), middle):
            shifted = groups - offset[..., None]
            left = shifted - _steps(shifted, step) * step
            within = ((left >= -8) & (left <= 7)).all(-1)
            error = torch.where(within, left.float().square().sum(-1), torch.inf)
            better = error < least
            best[0].masked_fill_(better, step)
            best[1] = torch.where(better, offset, best[1])
            least = torch.minimum(error, least)
    multiplier, offset = best
    coarse = _steps(groups - offset[..., None], multiplier[..., None]).flatten(1)[:, : values.shape[1]]
    return multiplier.to(torch.uint8), offset.to(torch.int8), coarse


def _steps(values: torch.Tensor, multiplier: torch.Tensor | int) -> torch.Tensor:
    """The nearest 4-bit number of steps; halfway goes up, which leaves -8 to 7 at a multiplier of 16."""
    return torch.div(values + multiplier // 2, multiplier, rounding_mode="floor").clamp_(-8, 7)


def _spread(of_groups: torch.Tensor, length: int) -> torch.Tensor:
    return of_groups.to(torch.int8).repeat_interleave(GROUP, 1)[:, :length]


def _packed(values: torch.Tensor) -> torch.Tensor:
    """Two values of -8 to 7 a byte, the first in the low half."""
    nibbles = (values + 8).to(torch.uint8)
    return nibbles[:, ::2] | (nibbles[:, 1::2] << 4)


def _unpacked(planes: torch.Tensor) -> torch.Tensor:
    return (torch.stack([planes & 15, planes >> 4], -1).flatten(1)).to(torch.int8) - 8
