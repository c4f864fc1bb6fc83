"""Scales and zeros of groups, fitted by half-quadratic splitting for errors with long tails.

All take groups [..., n] of float32 values and answer with scale and zero [...] for codes rounded to nearest.
"""

from __future__ import annotations

import torch

from gearshift.quant.formats.grouped import Grid
from gearshift.quant.rounding.least_squares import codes, decoded, fitted, least_squares, same

POWER = 0.7
ROUNDS = 20
SHARPER = 1.05  # by how much the splitting tightens each round


def half_quadratic(groups: torch.Tensor, bits: int) -> Grid:
    """The grid of the least sum of |error| ** 0.7 that was found; few large errors count less than in squares.

    Half-quadratic splitting as in HQQ (Badri and Shaji 2023, mobiusml.github.io/hqq_blog): the error is split into one
    part that may be anything, at a price of |part| ** 0.7, and the rest, whose square is made small by a new scale and
    zero. There only the zero is moved; moving the scale as well, from the grid of least squares, lowers both norms.
    """
    grid = least_squares(groups, bits)
    weight = grid[0][..., None].pow(POWER - 2)  # in steps of the grid
    for _ in range(ROUNDS):
        found = codes(groups, grid, bits)
        free = shrunk(groups - decoded(found, grid), weight)
        grid = fitted(groups - free, found, grid, same)
        weight = weight * SHARPER
    return grid


def shrunk(error: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The generalized soft threshold: about argmin over x of |x| ** POWER + weight / 2 * (x - error) ** 2."""
    size = error.abs()
    return error.sign() * (size - POWER * size.clamp_min(1e-30).pow(POWER - 1) / weight).clamp_min(0)
