"""Codes of pairs of numbers, packed, and the numbers that they stand for."""

from __future__ import annotations

import torch
from torch.nn import functional as F

WIDE = {4: torch.int32, 8: torch.float64, 16: torch.complex128}  # what a table's row of so many bytes can be read as


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
