"""Weights of 2, 3, 4 or 8 bits with a scale and a zero for each group of inputs: weight = scale * (code - zero).

Codes lie in blocks of 32 inputs, bit planes one after the other, so that 3 bits take 12 bytes a block and no more. The
4-bit block has code j in the low half of byte j and code j + 16 in its high half. Rows are padded to whole blocks with
zero codes; a group size that does not divide the inputs leaves a shorter last group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch.nn import functional as F

from gearshift.quant.formats.scales import SMALLEST

BLOCK = 32
PLANES = {2: (2,), 3: (2, 1), 4: (4,), 8: (8,)}  # widths of the planes, low bits first
WHOLE_ROUNDS = 3  # of rounding and fitting, once the zeros are whole
FINEST = 1024  # a step is at least this part of its group's peak: zeros then stay small enough to be exact in float16

CHUNK = 2**20  # weights that are floats at a time: the fastest, from one row to hundreds, and little memory
PIECE = 2**22  # weights whose grids are made at a time

Grid = tuple[torch.Tensor, torch.Tensor]
Fit = Callable[[torch.Tensor], Grid]


class Grouped(NamedTuple):
    """A weight [out, width].

    Attributes:
        codes: uint8 [out, 4 * bits for each block of 32 inputs].
        scale, zero: [out, groups], both float16 (or float32, see `stored`): 4.5 bits a weight at 4 bits, group 64.
        bits: 2, 3, 4 or 8.
        group: inputs that share a scale and a zero; the last group may have fewer.
        width: inputs.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    bits: int
    group: int
    width: int


def quantize(weight: torch.Tensor, bits: int, group: int, fit: Fit | None = None, whole_zeros: bool = False) -> Grouped:
    """Round a weight to the nearest codes of each group's grid.

    Args:
        weight: floating point [out, in].
        fit: gives scale and zero [...] for groups [..., n] of float32 values; None: from lowest to highest value.
        whole_zeros: see `on_whole_zeros`.
    """
    fit = fit or (lambda groups: span(groups, bits))
    scale, zero = grid(weight, group, on_whole_zeros(fit, bits) if whole_zeros else fit)
    return assemble(encode(weight, scale, zero, bits, group), scale, zero, bits, group)


def assemble(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int, group: int) -> Grouped:
    """A Grouped of codes uint8 [out, in] that are not packed yet."""
    return Grouped(pack(codes, bits), scale, zero, bits, group, codes.shape[1])


def grid(weight: torch.Tensor, group: int, fit: Fit) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero [out, groups] of a weight, as they are stored."""
    pieces = weight.detach().split(max(1, PIECE // weight.shape[1]))
    found = [_side_by_side([_fitted(part, fit) for part in groups_of(rows.float(), group)]) for rows in pieces]
    return stored(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _fitted(groups: torch.Tensor, fit: Fit) -> Grid:
    """A group of zeros has a zero of zero, so that its codes are zeros and products with them are exact."""
    scale, zero = fit(groups)
    return scale, zero.masked_fill(groups.abs().amax(-1) < FINEST * SMALLEST, 0)


def span(groups: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The grid from the lowest to the highest value of each group: rounding to nearest on it is the textbook's."""
    low, high = groups.amin(-1), groups.amax(-1)
    scale = usable((high - low) / (2**bits - 1), groups)
    return scale, -low / scale


def on_whole_zeros(fit: Fit, bits: int) -> Fit:
    """A fit whose zeros are moved to the nearest codes, and its scales then to the least squared error.

    At 8 bits all zeros are the middle code, which costs little there: codes less zeros then have 8 bits too.
    """
    top = 2**bits - 1
    least, most = (128, 128) if bits == 8 else (0, top)

    def fitted(groups: torch.Tensor) -> Grid:
        scale, zero = fit(groups)
        inside, zero = (zero >= least) & (zero <= most), zero.round().clamp(least, most)
        scale = torch.where(inside, scale, usable(groups.abs().amax(-1) / (127 if bits == 8 else top), groups))
        for _ in range(WHOLE_ROUNDS):
            steps = (groups / scale[..., None] + zero[..., None]).round_().clamp_(0, top) - zero[..., None]
            along, square = (steps * groups).sum(-1), steps.square().sum(-1)
            scale = usable(torch.where(along > 0, along / square.clamp_min(1), scale), groups)
        return scale, zero

    return fitted


def usable(scale: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Steps that are not too fine for their group [..., n]; 1 for a group of zeros (see `scales.usable`)."""
    least = groups.abs().amax(-1) / FINEST
    return torch.where(least >= SMALLEST, torch.maximum(scale, least), torch.ones_like(least))


def stored(scale: torch.Tensor, zero: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in float16, or in float32 where float16 cannot hold the scales of this weight to 11 bits."""
    half = torch.finfo(torch.float16)
    if bool(scale.median() >= half.smallest_normal) and bool(scale.max() <= half.max):
        return scale.clamp_min(half.smallest_normal * half.eps).half(), zero.half()
    return scale.clamp_min(torch.finfo(torch.float32).smallest_normal), zero


def encode(weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """The nearest codes, uint8 [out, in]."""
    width = weight.shape[1]
    steps = weight.detach().float() / spread(scale, group, width) + spread(zero, group, width)
    return steps.round_().clamp_(0, 2**bits - 1).to(torch.uint8)


def dequantize(grouped: Grouped, dtype: torch.dtype = torch.float32, rows: slice = slice(None)) -> torch.Tensor:
    """The weight, or some of its rows, in `dtype`; computed in float32."""
    codes, scale, zero, bits, group, width = grouped
    scale, zero = scale[rows].float(), zero[rows].float()
    values = unpack(codes[rows], bits, width)
    missing = scale.shape[1] * group - width
    if missing:
        values = F.pad(values, (0, missing))
    values = values.unflatten(1, (-1, group)).float()
    return values.sub_(zero[..., None]).mul_(scale[..., None]).flatten(1)[:, :width].to(dtype)


def multiply(rows: torch.Tensor, grouped: Grouped) -> torch.Tensor:
    """rows [n, in] @ weight.T in the rows' floating dtype, by widening some channels of the weight after the other."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return F.linear(rows, dequantize(grouped, rows.dtype))
    out = grouped.codes.shape[0]
    step = max(1, CHUNK // grouped.width)
    pieces = [F.linear(rows, dequantize(grouped, rows.dtype, slice(r, r + step))) for r in range(0, out, step)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)


def nbytes(grouped: Grouped) -> int:
    """Bytes of the codes, scales and zeros."""
    return sum(t.numel() * t.element_size() for t in grouped[:3])


def row_bytes(width: int, bits: int) -> int:
    """Bytes of a row of packed codes."""
    return -(-width // BLOCK) * BLOCK * bits // 8


def groups_of(values: torch.Tensor, group: int) -> Iterator[torch.Tensor]:
    """[out, in] as [out, whole groups, group], then the shorter last group as [out, 1, n], where there are such."""
    whole = values.shape[1] - values.shape[1] % group
    if whole:
        yield values[:, :whole].unflatten(1, (-1, group))
    if whole < values.shape[1]:
        yield values[:, None, whole:]


def spread(of_groups: torch.Tensor, group: int, width: int) -> torch.Tensor:
    """Values of groups [out, groups] as float32 [out, width]."""
    return of_groups.float().repeat_interleave(group, 1)[:, :width]


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 codes [..., in] below 2 ** bits as bytes, see above."""
    blocks = F.pad(codes, (0, -codes.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    planes, low = [], 0
    for size in PLANES[bits]:
        parts = (blocks >> low & (2**size - 1)).unflatten(-1, (8 // size, -1)).unbind(-2)
        planes.append(_joined(parts, size))
        low += size
    return torch.cat(planes, -1).flatten(-2)


def unpack(packed: torch.Tensor, bits: int, width: int) -> torch.Tensor:
    """The uint8 codes [..., width] of packed bytes."""
    sizes = PLANES[bits]
    blocks = packed.unflatten(-1, (-1, BLOCK * bits // 8)).split([BLOCK * size // 8 for size in sizes], -1)
    codes, low = torch.zeros((), dtype=torch.uint8, device=packed.device), 0
    for plane, size in zip(blocks, sizes, strict=True):
        if size == 8:
            return packed[..., :width]
        parts = torch.stack([plane >> shift & (2**size - 1) for shift in range(0, 8, size)], -2).flatten(-2)
        codes = codes | parts << low if low else parts
        low += size
    return codes.flatten(-2)[..., :width]


def _side_by_side(found: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    return [torch.cat(parts, 1) for parts in zip(*found, strict=True)]


def _joined(parts: tuple[torch.Tensor, ...], size: int) -> torch.Tensor:
    joined = parts[0].clone()
    for place, part in enumerate(parts[1:], 1):
        joined |= part << place * size
    return joined
