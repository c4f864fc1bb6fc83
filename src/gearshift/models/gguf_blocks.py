"""Blocks of GGUF, llama.cpp's format, as codes, scales and zeros and back: 32 inputs share a float16 scale.

A block holds its scale, an offset in some types, the fifth bits of its codes in some, and the codes: those of 4 bits
two a byte, the first 16 in the low halves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from gearshift.core.boundary import Misfit
from gearshift.models.packing import halves, regrouped
from gearshift.quant.formats.grouped import Grouped, unpack

Split = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]

BLOCK = 32  # inputs that share a scale
SIGNED = {"Q4_0": 4, "Q5_0": 5, "Q8_0": 8}  # types of signed numbers of so many bits, and their scale


def to_blocks(grouped: Grouped) -> tuple[str, np.ndarray]:
    """A weight [out, in] in the smallest type that holds it exactly: the type's name, and bytes [out, n].

    Raises:
        Misfit: as the end of a sentence about the layer, if there is no such type.
    """
    if grouped.width % BLOCK or min(grouped.group, grouped.width) % BLOCK:
        raise Misfit(f"{min(grouped.group, grouped.width)} of its {grouped.width} inputs share a scale, not {BLOCK}")
    scale, zero = (regrouped(part, grouped, BLOCK).float() for part in (grouped.scale, grouped.zero))
    half = halves(scale).numpy()[..., None].view(np.uint8)
    codes = unpack(grouped.codes, grouped.bits, grouped.width).unflatten(1, (-1, BLOCK))
    if torch.equal(zero, zero.round()):
        return _signed_blocks(half, (codes.float() - zero[..., None]).to(torch.int16).numpy())
    offset = (-scale * zero).half()
    again = torch.where(scale == 0, zero, -offset.float() / scale)
    if grouped.bits > 4 or not torch.equal(again, zero):
        raise Misfit("the zeros of its groups are neither whole numbers nor offsets in float16")
    parts = half, offset.numpy()[..., None].view(np.uint8), _pairs(codes.numpy())
    return "Q4_1", np.concatenate(parts, -1).reshape(len(codes), -1)


def _signed_blocks(scale: np.ndarray, numbers: np.ndarray) -> tuple[str, np.ndarray]:
    """The smallest type for signed numbers [out, blocks, 32] with these scales, uint8 [out, blocks, 2]."""
    low, high = int(numbers.min()), int(numbers.max())
    fits = (name for name, bits in SIGNED.items() if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1))
    kind = next(fits, None)
    if kind is None:
        raise Misfit(f"its codes less their zeros go from {low} to {high}, beyond 8 bits")
    if kind == "Q8_0":
        held = [scale, numbers.astype(np.int8).view(np.uint8)]
    else:
        codes = (numbers + 2 ** (SIGNED[kind] - 1)).astype(np.uint8)
        fifth = [np.packbits(codes >> 4, axis=-1, bitorder="little")] if kind == "Q5_0" else []
        held = [scale, *fifth, _pairs(codes & 15)]
    return kind, np.concatenate(held, -1).reshape(len(numbers), -1)


def _pairs(codes: np.ndarray) -> np.ndarray:
    """Bytes of 4-bit codes [..., 32]: [..., 16]."""
    return codes[..., : BLOCK // 2] | codes[..., BLOCK // 2 :] << 4


def _halves(blocks: np.ndarray, at: int) -> np.ndarray:
    """The float16 at this byte of every block [rows, blocks, bytes], in float32."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0].astype(np.float32)


def _nibbles(blocks: np.ndarray, at: int) -> np.ndarray:
    """32 codes of 4 bits from this byte on, the first 16 in the low halves of the bytes, as [rows, inputs]."""
    held = blocks[..., at : at + BLOCK // 2]
    return np.concatenate((held & 15, held >> 4), -1).reshape(len(blocks), -1)


def _q4_0(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """weight = scale * (code - 8)."""
    blocks = data.reshape(len(data), -1, 18)
    scale = _halves(blocks, 0)
    return _nibbles(blocks, 2), scale, np.full_like(scale, 8)


def _q4_1(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """weight = scale * code + offset; a block of one value has a scale of zero, and becomes offset * 1."""
    blocks = data.reshape(len(data), -1, 20)
    scale, offset = _halves(blocks, 0), _halves(blocks, 2)
    flat = scale == 0
    codes = np.where(np.repeat(flat, BLOCK, 1), 1, _nibbles(blocks, 4)).astype(np.uint8)
    zero = np.where(flat, 0, -offset / np.where(flat, 1, scale))
    return codes, np.where(flat, offset, scale), zero.astype(np.float32)


def _q5_0(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """weight = scale * (code - 16); the codes' fifth bits lie in four bytes before the rest."""
    blocks = data.reshape(len(data), -1, 22)
    scale = _halves(blocks, 0)
    fifth = np.unpackbits(np.ascontiguousarray(blocks[..., 2:6]), axis=-1, bitorder="little").reshape(len(data), -1)
    return _nibbles(blocks, 6) | fifth << 4, scale, np.full_like(scale, 16)


def _q8_0(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """weight = scale * signed code."""
    blocks = data.reshape(len(data), -1, 34)
    scale = _halves(blocks, 0)
    signed = np.ascontiguousarray(blocks[..., 2:]).view(np.int8).astype(np.int16)
    return (signed + 128).astype(np.uint8).reshape(len(data), -1), scale, np.full_like(scale, 128)


FORMATS: dict[str, tuple[int, Split]] = {  # bits that codes are kept in here, and what reads them
    "Q4_0": (4, _q4_0),
    "Q4_1": (4, _q4_1),
    "Q5_0": (8, _q5_0),
    "Q8_0": (8, _q8_0),
}
