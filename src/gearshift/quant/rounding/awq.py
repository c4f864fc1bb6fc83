"""Scales of input channels, and grids, that keep a layer's output when its weight is rounded (AWQ)."""

from __future__ import annotations

import torch

from gearshift.quant.formats.grouped import Grid, Grouped, dequantize, groups_of, quantize
from gearshift.quant.rounding.least_squares import least_squares

ALPHAS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)  # powers of the activations that are tried as scales
SAMPLE = 64  # inputs of each batch that outputs are compared on
SAMPLES = 1024
DAMPING = 0.01


class Activity:
    """What is kept of a layer's inputs.

    Attributes:
        size: mean magnitude of each input channel, float32 [in].
        grams: mean of x x^T within the groups, [groups, n, n] by n: whole groups, and the shorter last one.
        sample: some of the inputs, [rows, in].
    """

    def __init__(self, width: int, group: int, device: torch.device) -> None:
        self.group, self.rows = group, 0
        self.size = torch.zeros(width, device=device)
        self.grams: dict[int, torch.Tensor] = {}
        self.samples: list[torch.Tensor] = []

    def see(self, rows: torch.Tensor) -> None:
        """Take in inputs, float32 [rows, in]."""
        count = rows.shape[0]
        self.rows += count
        self.size += (rows.abs().sum(0) - count * self.size) / max(self.rows, 1)
        for part in groups_of(rows, self.group):
            new = torch.einsum("rgi,rgj->gij", part, part)
            old = self.grams.get(part.shape[-1], torch.zeros_like(new))
            self.grams[part.shape[-1]] = old + (new - count * old) / max(self.rows, 1)
        if SAMPLE * len(self.samples) < SAMPLES:
            self.samples.append(rows[:: max(1, count // SAMPLE)])

    @property
    def sample(self) -> torch.Tensor:
        return torch.cat(self.samples)

    def error(self, difference: torch.Tensor) -> float:
        """Mean squared error of a layer's output on the sample when its weight [out, in] differs by this much."""
        return float((self.sample @ difference.T).square().mean())


def found_scales(
    weight: torch.Tensor, activity: Activity, bits: int, shared: torch.Tensor | None, whole_zeros: bool = False
) -> torch.Tensor:
    """The scales of input channels, float32 [in], with which rounding changes a layer's output least.

    AWQ (Lin et al. 2023, arXiv 2306.00978): powers of the channels' mean magnitudes, the power searched for; ones if
    none helps.

    Args:
        weight: float32 [out, in] of all layers with this input.
        shared: for each channel the number of the scale it has in common with others; None: each has its own.
        whole_zeros: see `on_whole_zeros`.
    """
    best, least = torch.ones_like(activity.size), float("inf")
    size = activity.size.clamp_min(1e-4 * float(activity.size.max()) + 1e-30)
    if shared is not None:
        size = mean_by(size, shared)[shared]
    for alpha in ALPHAS:
        scales = size**alpha
        scales = scales / (scales.max() * scales.min()).sqrt()
        found = rounded(weight * scales, activity, scales, bits, whole_zeros)
        error = activity.error(dequantize(found) / scales - weight)
        if error < least:
            best, least = scales, error
    return best


def rounded(
    weight: torch.Tensor, activity: Activity, scales: torch.Tensor, bits: int, whole_zeros: bool = False
) -> Grouped:
    """Round a scaled weight [out, in] on grids that are clipped and fitted for the least error of the output.

    Errors are counted within groups of inputs, with what inputs of a group have in common.
    """
    by_size = {part.shape[-1]: part[0] for part in groups_of(scales[None], activity.group)}

    def fit(groups: torch.Tensor) -> Grid:
        n = groups.shape[-1]
        gram = activity.grams[n] / (by_size[n][:, :, None] * by_size[n][:, None, :])
        share = DAMPING * gram.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None].clamp_min(1e-30)
        gram = gram + share * torch.eye(n, device=gram.device)
        return least_squares(groups, bits, lambda values: (values.transpose(0, 1) @ gram).transpose(0, 1))

    return quantize(weight, bits, activity.group, fit, whole_zeros)


def mean_by(values: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Means of the values [n] that have the same number."""
    sums = torch.zeros(int(number.max()) + 1, device=values.device).index_add_(0, number, values)
    return sums / torch.bincount(number).clamp_min(1)
