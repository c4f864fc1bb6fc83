"""Rounding Gaussian numbers to the points of least mean square error, one by one or two at a time.

The grids were computed by tools/grids.py and lie in data/grids.safetensors. Two neighbours always make one code of
2 * bits bits: a point of a plane grid (p=2), or two indices into a line grid (p=1).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional as F

from gearshift.quant.formats.scales import usable

FILE = Path(__file__).parent / "data" / "grids.safetensors"
REACH, CELLS = 5.0, 1024  # the square that `_cells` maps, in standard deviations, and its cells a side
SCALES = [0.8 + 0.05 * n for n in range(9)]  # times the root mean square: finer or wider gains nothing to speak of
PIECE = 2**22  # numbers that are searched at a time
WIDE = {4: torch.int32, 8: torch.float64, 16: torch.complex128}  # what a table's row of so many bytes can be read as


class Pairs(NamedTuple):
    """A weight [out, in] whose codes stand for two numbers each, times the scale of their group.

    Attributes:
        codes: uint8 [out, in * bits / 8], packed.
        scale: floating point [out, groups].
        table: float32 [4 ** bits, 2], what the codes stand for.
        bits: of a weight: 2, 3 or 4.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    table: torch.Tensor
    bits: int


@functools.cache
def grid(bits: int, p: int) -> torch.Tensor:
    """The points of least mean square error for N(0, I): float32 [2 ** (bits * p), p]; not to be written to."""
    from safetensors.torch import load_file

    with torch.inference_mode(False):
        return load_file(FILE)[f"gauss-{bits}bit-p{p}"]


@functools.cache
def pairs(bits: int, p: int) -> torch.Tensor:
    """What the codes stand for: float32 [4 ** bits, 2]; not to be written to."""
    points = grid(bits, p)
    if p == 2:
        return points
    with torch.inference_mode(False):
        return torch.cartesian_prod(points[:, 0], points[:, 0])


def nearest(x: torch.Tensor, bits: int, p: int) -> torch.Tensor:
    """Codes uint8 [..., n / 2] of the nearest points for numbers float32 [..., n].

    In the plane a number's cell on a fine map decides, which is a hundred times faster than comparing distances and
    makes the mean square error .1 % larger.
    """
    if p == 2:
        cell = x.add(REACH).mul_(CELLS / (2 * REACH)).clamp_(0, CELLS - 1).int().unflatten(-1, (-1, 2))
        return _cells(bits, x.device)[cell[..., 0] * CELLS + cell[..., 1]]
    points = grid(bits, 1)[:, 0].to(x.device)
    index = torch.bucketize(x, (points[1:] + points[:-1]) / 2, out_int32=True).unflatten(-1, (-1, 2))
    return (index[..., 0] << bits | index[..., 1]).to(torch.uint8)


def fit(groups: torch.Tensor, bits: int, p: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of groups of numbers, so that `pairs[codes] * scale` comes near them.

    Several scales about the root mean square are tried, each bettered by least squares.

    Args:
        groups: float32 [..., group].

    Returns:
        codes uint8 [..., group / 2], and scales [...]: float16, or float32 where float16 cannot hold them well.
    """
    flat = groups.reshape(-1, groups.shape[-1])
    pieces = flat.split(max(1, PIECE // flat.shape[-1]))
    scale = _stored(torch.cat([_best_scale(piece, bits, p) for piece in pieces]))
    codes = torch.cat(
        [
            nearest(piece / usable(of_piece.float())[:, None], bits, p)
            for piece, of_piece in zip(pieces, scale.split(len(pieces[0])), strict=True)
        ]
    )
    return codes.view(*groups.shape[:-1], -1), scale.view(groups.shape[:-1])


def packed_width(width: int, bits: int) -> int:
    """Bytes of a row of `width` numbers, which is a multiple of 8."""
    return width * bits // 8


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes uint8 [out, n] of 2 * bits bits each as bytes [out, n * bits / 4], low bits first; n is a multiple of 4."""
    if bits == 4:
        return codes
    if bits == 2:
        return codes[:, ::2] | codes[:, 1::2] << 4
    a, b, c, d = codes.unflatten(1, (-1, 4)).unbind(-1)
    return torch.stack([a | b << 6, b >> 2 | c << 4, c >> 4 | d << 2], -1).flatten(1)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """The codes of packed bytes."""
    if bits == 4:
        return packed
    if bits == 2:
        return torch.stack([packed & 15, packed >> 4], -1).flatten(1)
    x, y, z = packed.unflatten(1, (-1, 3)).unbind(-1)
    return torch.stack([x & 63, x >> 6 | (y & 15) << 2, y >> 4 | (z & 3) << 4, z >> 2], -1).flatten(1)


def numbers(
    packed: torch.Tensor, scale: torch.Tensor, table: torch.Tensor, bits: int, dtype: torch.dtype
) -> torch.Tensor:
    """The numbers [out, in] that packed codes stand for.

    Args:
        packed: uint8 [out, in * bits / 8].
        scale: floating point [out, groups].
        table: floating point [4 ** bits, 2].
    """
    table = table.to(dtype)
    if bits == 2:  # a byte is two codes: four numbers at once
        byte = torch.arange(256, device=table.device)
        table = torch.cat([table[byte & 15], table[byte >> 4]], -1)
    index = unpack(packed, 3) if bits == 3 else packed
    values = _rows(table, index.flatten().int()).view(*scale.shape, -1)
    return values.mul_(scale.to(dtype)[..., None]).flatten(1)


def _rows(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """table[index]; on a CPU a row is read as one wide number, which is several times as fast."""
    wide = WIDE.get(table.shape[1] * table.element_size())
    if wide is None or table.device.type != "cpu" or torch.compiler.is_compiling():
        return F.embedding(index, table)
    return table.view(wide)[:, 0].index_select(0, index).view(table.dtype)


def _best_scale(x: torch.Tensor, bits: int, p: int) -> torch.Tensor:
    table = pairs(bits, p).to(x.device)
    deviation = x.square().mean(-1, keepdim=True).sqrt()
    best, score = deviation, torch.zeros_like(deviation)
    for factor in SCALES:
        values = table[nearest(x / usable(deviation * factor), bits, p).int()].flatten(-2)
        shared, length = (x * values).sum(-1, keepdim=True), values.square().sum(-1, keepdim=True)
        better = shared.square() / length > score  # what least squares takes off the squared error
        best = torch.where(better, shared / length, best)
        score = torch.where(better, shared.square() / length, score)
    return best[:, 0]


def _stored(scale: torch.Tensor) -> torch.Tensor:
    """In float16 where that holds most of them to 11 bits."""
    info = torch.finfo(torch.float16)
    return scale.half() if scale.median() >= info.smallest_normal and scale.max() <= info.max else scale


@functools.cache
def _cells(bits: int, device: torch.device) -> torch.Tensor:
    """The nearest point of a plane grid from the middle of each cell: uint8 [CELLS ** 2]."""
    points = grid(bits, 2)
    axis = (torch.arange(CELLS) + 0.5) * (2 * REACH / CELLS) - REACH
    closer = points.square().sum(1) / 2
    with torch.inference_mode(False), torch.no_grad():
        rows = [torch.cartesian_prod(x[None], axis) @ points.T for x in axis]
        return torch.cat([(closer - row).argmin(1).to(torch.uint8) for row in rows]).to(device)
