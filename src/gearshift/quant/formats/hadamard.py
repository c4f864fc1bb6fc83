"""Rotations by Hadamard matrices and random signs: they spread what stands out, and undo themselves.

A vector is cut into blocks of a power of two; each is multiplied by signs and by the orthonormal Sylvester matrix of
its size. Lengths and angles stay, so weights rotated one way and activations rotated the same way multiply to the same,
and a rotated block's numbers are nearly Gaussian whatever they were (QuIP#, arXiv 2402.04396; HIGGS, arXiv 2411.17525).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

LEAST = 8  # a smaller block mixes too few numbers, and packed signs fill whole bytes from here on
AT_ONCE = 64  # up to this size one product with the whole matrix is the fastest way


def block_size(width: int, most: int) -> int | None:
    """The largest power of two up to `most` that divides `width`; None below 8."""
    size = min(width & -width, 1 << most.bit_length() - 1)
    return size if size >= LEAST else None


def matrix(size: int, device: torch.device | None = None, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The orthonormal Hadamard matrix [size, size] for a power of two: symmetric, its own inverse."""
    return _constant(_hadamard, size, device, dtype or torch.get_default_dtype())


def transform(x: torch.Tensor, size: int) -> torch.Tensor:
    """Each block of `size` numbers along the last dimension times `matrix(size)`; done twice, it gives x again.

    The matrix of a large block is the Kronecker product of two small ones: two products with some 2 * sqrt(size)
    multiplications a number, which run several times as fast as the additions of the textbook's butterflies.
    """
    if size <= AT_ONCE:
        return (x.reshape(-1, size) @ matrix(size, x.device, x.dtype)).reshape(x.shape)
    inner = 1 << size.bit_length() // 2
    outer = size // inner
    y = (x.reshape(-1, inner) @ matrix(inner, x.device, x.dtype)).view(-1, outer, inner)
    return (matrix(outer, x.device, x.dtype) @ y).reshape(x.shape)


def random_signs(width: int, seed: int) -> torch.Tensor:
    """`width` random bits, eight a byte: uint8 [width / 8]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (width // 8,), generator=generator, dtype=torch.uint8)


def spread(signs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Bits as 1 and -1, lowest bit of each byte first: [8 * bytes]."""
    return _constant(_bytes, 8, signs.device, dtype).index_select(0, signs.int()).flatten()


def rotate(x: torch.Tensor, signs: torch.Tensor, size: int) -> torch.Tensor:
    """Signs, then the transform, along the last dimension of x [..., 8 * bytes of signs]."""
    return transform(x * spread(signs, x.dtype), size)


def rotate_back(x: torch.Tensor, signs: torch.Tensor, size: int) -> torch.Tensor:
    """What `rotate` made of, from what it answered."""
    return transform(x, size) * spread(signs, x.dtype)


def _constant(build: Callable[..., torch.Tensor], *key: object) -> torch.Tensor:
    """A small tensor that is made once; within a compiled program it is part of that."""
    return build(*key) if torch.compiler.is_compiling() else _kept(build, *key)


@functools.cache
def _kept(build: Callable[..., torch.Tensor], *key: object) -> torch.Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return build(*key)


def _hadamard(size: int, device: torch.device | None, dtype: torch.dtype) -> torch.Tensor:
    """Row i, column j is negative where i and j share an odd number of bits."""
    index = torch.arange(size, device=device)
    shared, parity = index[:, None] & index, torch.zeros(size, size, dtype=torch.long, device=device)
    for bit in range(size.bit_length() - 1):
        parity = parity ^ (shared >> bit & 1)
    return (1 - 2 * parity).to(dtype) * size**-0.5


def _bytes(bits: int, device: torch.device | None, dtype: torch.dtype) -> torch.Tensor:
    """All bytes as signs: [256, 8]."""
    values, places = torch.arange(1 << bits, device=device), torch.arange(bits, device=device)
    return (1 - 2 * (values[:, None] >> places & 1)).to(dtype)
