"""Bands of spatial frequency: a latent's structure settles earlier than its detail, so each has weights of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

BANDS = 4


def groups(shape: Sequence[int]) -> int:
    """How many groups of coefficients a latent of this shape has.

    Images [n, channels, height, width] have BANDS for each channel; videos, whose channels are in one place or another,
    BANDS; all else, packed tokens for one, and what is smaller than the bands, has one.
    """
    if len(shape) not in (4, 5) or min(shape[-2:]) < BANDS:
        return 1
    return BANDS * (shape[1] if len(shape) == 4 else 1)


def labels(shape: Sequence[int]) -> torch.Tensor:
    """The group of each coefficient of one sample: int64 [channels, height, width], or [height, width] for videos."""
    height, width = shape[-2:]
    rows, columns = torch.arange(height) / height, torch.arange(width) / width
    radius = torch.sqrt(rows[:, None] ** 2 + columns**2)
    bands = (radius * BANDS).long().clamp_max(BANDS - 1)
    return bands if len(shape) == 5 else bands + BANDS * torch.arange(shape[1])[:, None, None]


def shares(shape: Sequence[int]) -> np.ndarray:
    """The part of all coefficients that each group has, [groups]."""
    count = groups(shape)
    return np.bincount(labels(shape).flatten(), minlength=count) / labels(shape).numel() if count > 1 else np.ones(1)


def analysed(x: torch.Tensor) -> torch.Tensor:
    """Cosine transform (DCT-II, orthonormal) of the last two dimensions, in float32 or wider."""
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    down, across = _basis(x.shape[-2], x.dtype, x.device), _basis(x.shape[-1], x.dtype, x.device)
    return down @ x @ across.T


def synthesised(coefficients: torch.Tensor) -> torch.Tensor:
    """The inverse of `analysed`."""
    down, across = (_basis(n, coefficients.dtype, coefficients.device) for n in coefficients.shape[-2:])
    return down.T @ coefficients @ across


def mixed(sources: Sequence[torch.Tensor], weights: Sequence[Sequence[float]]) -> torch.Tensor:
    """The sum of tensors of one shape, each weighted group by group, in the first one's dtype."""
    first = sources[0]
    wide = torch.float32 if first.dtype in (torch.float16, torch.bfloat16) else first.dtype
    table = torch.tensor(weights, dtype=wide).to(first.device)
    factors = table[:, _labels(tuple(first.shape[1:]), first.device)]
    coefficients = analysed(torch.stack([s.to(wide) for s in sources]))
    return synthesised(torch.einsum("sn...,s...->n...", coefficients, factors)).to(first.dtype)


@lru_cache(maxsize=32)
def _labels(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return labels((1, *shape)).to(device)


@lru_cache(maxsize=32)
def _basis(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[size, size], one frequency a row."""
    place = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * (place + 0.5) * place[:, None]) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis.to(device, dtype)
