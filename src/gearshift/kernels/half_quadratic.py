"""Scales and zeros of groups, fitted: by least squares, and by half-quadratic splitting for errors with long tails.

All take groups [..., n] of float32 values and answer with scale and zero [...] for codes rounded to nearest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from gearshift.quant.formats.grouped import Grid, usable

SHARES = (1.0, 0.93, 0.86, 0.79, 0.72, 0.65, 0.58, 0.51)  # of a group's range, that the levels are first spread over
POLISH = 3  # rounds of rounding and fitting that follow
POWER = 0.7
ROUNDS = 20
SHARPER = 1.05  # by how much the splitting tightens each round

Metric = Callable[[torch.Tensor], torch.Tensor]


def least_squares(groups: torch.Tensor, bits: int, metric: Metric | None = None) -> Grid:
    """The grid of the least squared error that was found, from levels over several shares of each group's range.

    Args:
        metric: multiplies [..., n] by a positive matrix M, which makes the error e . M e, the same for all rows (the
            first dimension); None: the identity.
    """
    metric = metric or _same
    low, high = groups.amin(-1), groups.amax(-1)
    best = torch.full_like(low, torch.inf)
    scale, zero = torch.ones_like(low), torch.zeros_like(low)
    for share in SHARES:
        step = usable(share * (high - low) / (2**bits - 1), groups)
        found = step, (2**bits - 1) / 2 - (low + high) / 2 / step
        for _ in range(POLISH):
            found = fitted(groups, codes(groups, found, bits), found, metric)
        error = residue(groups, found, bits)
        cost = (error * metric(error)).sum(-1)
        better = cost < best
        best = torch.where(better, cost, best)
        scale, zero = torch.where(better, found[0], scale), torch.where(better, found[1], zero)
    return scale, zero


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
        grid = fitted(groups - free, found, grid, _same)
        weight = weight * SHARPER
    return grid


def shrunk(error: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The generalized soft threshold: about argmin over x of |x| ** POWER + weight / 2 * (x - error) ** 2."""
    size = error.abs()
    return error.sign() * (size - POWER * size.clamp_min(1e-30).pow(POWER - 1) / weight).clamp_min(0)


def fitted(groups: torch.Tensor, codes: torch.Tensor, before: Grid, metric: Metric) -> Grid:
    """Scale and zero of least squared error for codes that stay; as before where the codes are all the same."""
    of_codes, of_ones = metric(codes), metric(torch.ones_like(groups[:1]))
    cc, co, oo = (of_codes * codes).sum(-1), of_codes.sum(-1), of_ones.sum(-1)
    cw, ow = (of_codes * groups).sum(-1), (of_ones * groups).sum(-1)
    spread, along = cc * oo - co * co, cw * oo - co * ow
    moves = (spread > 1e-6 * cc * oo) & (along > 0)
    scale = usable(torch.where(moves, along / spread.clamp_min(1e-30), before[0]), groups)
    return scale, (co - ow / scale) / oo.clamp_min(1e-30)


def codes(groups: torch.Tensor, grid: Grid, bits: int) -> torch.Tensor:
    """Nearest codes, as float32."""
    scale, zero = grid
    return (groups / scale[..., None] + zero[..., None]).round_().clamp_(0, 2**bits - 1)


def decoded(codes: torch.Tensor, grid: Grid) -> torch.Tensor:
    scale, zero = grid
    return (codes - zero[..., None]) * scale[..., None]


def residue(groups: torch.Tensor, grid: Grid, bits: int) -> torch.Tensor:
    """What rounding to nearest leaves."""
    return groups - decoded(codes(groups, grid, bits), grid)


def _same(values: torch.Tensor) -> torch.Tensor:
    return values
