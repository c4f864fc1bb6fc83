"""Grids of groups fitted by least squares, for codes rounded to nearest.

All take groups [..., n] of float32 values and answer with scale and zero [...].
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from gearshift.quant.formats.grouped import Grid, Grouped, quantize, usable

SHARES = (1.0, 0.93, 0.86, 0.79, 0.72, 0.65, 0.58, 0.51)  # of a group's range, that the levels are first spread over
POLISH = 3  # rounds of rounding and fitting that follow
Metric = Callable[[torch.Tensor], torch.Tensor]
QUICK_SHARES = (1.0, 0.957, 0.914, 0.871, 0.829, 0.786, 0.743, 0.7)  # of a group's range, for 16 levels


def least_squares(groups: torch.Tensor, bits: int, metric: Metric | None = None) -> Grid:
    """The grid of the least squared error that was found, from levels over several shares of each group's range.

    Args:
        metric: multiplies [..., n] by a positive matrix M, which makes the error e . M e, the same for all rows (the
            first dimension); None: the identity.
    """
    metric = metric or same
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


def same(values: torch.Tensor) -> torch.Tensor:
    return values


def pack4(weight: torch.Tensor, group: int = 64, whole_zeros: bool = False) -> Grouped:
    """Round a weight to 4 bits, on grids of the least squared error that was found.

    Args:
        weight: floating point [out, in].
        group: inputs that share a scale and a zero.
        whole_zeros: see `on_whole_zeros`.
    """
    return quantize(weight, 4, group, quick_least_squares, whole_zeros)


def quick_least_squares(groups: torch.Tensor) -> Grid:
    """Scale and zero [..., groups] of 4-bit levels for weights [..., groups, group].

    The weights are rounded to levels over eight shares of their range, scale and zero are fitted to each rounding, and
    the best fit is taken: .8 dB better than levels from lowest to highest on Gaussian weights, groups of 64.
    """
    low, high, mean = groups.amin(-1, True), groups.amax(-1, True), groups.mean(-1, True)
    gained, scale, zero = torch.full_like(mean, -1), torch.ones_like(mean), torch.zeros_like(mean)
    for share in QUICK_SHARES:
        step = usable(share * (high - low)[..., 0] / 15, groups)[..., None]
        codes = (groups / step + (7.5 - (low + high) / 2 / step)).round_().clamp_(0, 15)
        middle = codes.mean(-1, True)
        spread = codes - middle
        product, square = (groups * spread).sum(-1, True), spread.square().sum(-1, True)
        fit = usable((product / square.clamp_min(1e-30))[..., 0], groups)[..., None]
        less = fit * (2 * product - fit * square)  # squared error than with the mean alone
        scale, zero = torch.where(less > gained, fit, scale), torch.where(less > gained, middle - mean / fit, zero)
        gained = torch.maximum(less, gained)
    return scale[..., 0], zero[..., 0]
