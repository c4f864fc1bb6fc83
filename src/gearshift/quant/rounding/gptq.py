"""Rounding a weight column by column, each one's error made up for by the columns that are still to come (GPTQ)."""

from __future__ import annotations

import torch

from gearshift.quant.formats.grouped import Grid, Grouped, assemble, grid, on_whole_zeros, spread
from gearshift.quant.rounding.least_squares import least_squares

BLOCK = 128  # columns whose corrections of all later ones are put together
DAMPING = (0.01, 0.1, 1.0, 10.0)  # shares of the mean diagonal, the first with which the matrix can be inverted


class Gram:
    """Sums over a layer's inputs.

    Attributes:
        matrix: float32 [in, in], the mean of x x^T: half of the Hessian of the squared output error.
        rows: how many inputs were seen.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.matrix, self.rows = torch.zeros(width, width, device=device), 0

    def see(self, rows: torch.Tensor) -> None:
        """Take in inputs, float32 [rows, in]."""
        count = rows.shape[0]
        self.rows += count
        if count:
            self.matrix.addmm_(rows.T, rows, beta=1 - count / self.rows, alpha=1 / self.rows)

    def error(self, difference: torch.Tensor) -> float:
        """Mean squared error of a layer's output when its weight [out, in] differs by this much."""
        return float(((difference @ self.matrix) * difference).sum())


def compensated(weight: torch.Tensor, gram: torch.Tensor, bits: int, group: int, whole_zeros: bool = False) -> Grouped:
    """Round a weight so that the layer's output errs little.

    GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns go by falling mean square of their inputs, on grids that are
    fixed before, so that groups stay runs of neighbours.

    Args:
        weight: floating point [out, in].
        gram: mean of x x^T over the layer's inputs, float32 [in, in].
        whole_zeros: see `on_whole_zeros`.
    """

    def fit(groups: torch.Tensor) -> Grid:
        return least_squares(groups, bits)

    width = weight.shape[1]
    scale, zero = grid(weight, group, on_whole_zeros(fit, bits) if whole_zeros else fit)
    order = gram.diagonal().argsort(descending=True)
    columns = weight.detach().float().T[order].contiguous()
    scales, zeros = (spread(part, group, width).T[order].contiguous() for part in (scale, zero))
    codes = _rounded(columns, scales, zeros, _factor(gram[order][:, order]), 2**bits - 1)
    back = torch.empty_like(codes)
    back[order] = codes
    return assemble(back.T.contiguous().to(torch.uint8), scale, zero, bits, group)


def _rounded(
    columns: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, factor: torch.Tensor, top: int
) -> torch.Tensor:
    """Codes [in, out] of weights [in, out], which are changed on the way."""
    codes = torch.empty_like(columns)
    for first in range(0, len(columns), BLOCK):
        last = min(first + BLOCK, len(columns))
        errors = torch.empty_like(columns[first:last])
        for n in range(first, last):
            codes[n] = (columns[n] / scale[n] + zero[n]).round_().clamp_(0, top)
            errors[n - first] = (columns[n] - (codes[n] - zero[n]) * scale[n]) / factor[n, n]
            columns[n + 1 : last].addr_(factor[n, n + 1 : last], errors[n - first], alpha=-1)
        columns[last:].addmm_(factor[first:last, last:].T, errors, alpha=-1)
    return codes


def _factor(gram: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of a Gram matrix, damped as much as it needs."""
    mean = gram.diagonal().mean().clamp_min(1e-30)
    unit = torch.eye(len(gram), device=gram.device)
    for share in DAMPING:
        lower, failed = torch.linalg.cholesky_ex(gram / mean + share * unit)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return upper
    return unit
