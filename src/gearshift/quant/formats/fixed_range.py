"""Activations in a range that was fixed beforehand, as uint8 codes, and weights that have its steps folded in.

An activation is read as step * (code - zero), with one step and one zero for all, or with one of each for every input
channel of a linear layer; then the weight was multiplied by the steps before it was rounded. Codes are uint8, the only
ones that the kernels take; a signed code is the unsigned one less 128, and so is its zero, which changes no product.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from gearshift.quant.formats.int8 import Quantized, as_signed, dequantize

CENTER = 128
MIDDLE = 127.5
NARROWEST = 256  # times that a channel's range may be smaller than the widest one's


class Fixed(NamedTuple):
    """A range of activations: real value = step * (code - zero).

    Attributes:
        step: float32 [], or [in].
        zero: uint8 [], or [in] for a linear layer with a step for each of its channels.
    """

    step: torch.Tensor
    zero: torch.Tensor


def encode(x: torch.Tensor, fixed: Fixed, images: bool = False) -> torch.Tensor:
    """uint8 codes of x, halves up; values outside of the range take its ends.

    Args:
        x: floating point [..., in], or [batch, in, height, width] for `images`.
    """
    center = fixed.zero + 0.5
    if not fixed.step.ndim and x.device.type == "cpu":
        shifted = torch.add(center, x.float(), alpha=1 / float(fixed.step))
    else:
        step = fixed.step[:, None, None] if images and fixed.step.ndim else fixed.step
        shifted = (x.float() * step.reciprocal()).add_(center)
    return shifted.clamp_(0, 255).to(torch.int16).to(torch.uint8)  # by way of int16: three times as fast


def balanced(fixed: Fixed, weight: torch.Tensor) -> Fixed:
    """Wider steps of channels, so that the weight [out, in, ...] is no harder to round than the activations are.

    Each step is raised, none is lowered: to a common one, times the root of what the channel's own is over the peak of
    its weights. That is the even split of SmoothQuant, arXiv 2211.10438. What a channel gains is room on both sides.
    """
    peak = weight.detach().float().abs().transpose(0, 1).flatten(1).amax(-1)
    share = (fixed.step / peak.clamp_min(peak.max() / NARROWEST).clamp_min(1e-30)).sqrt()
    share = share.clamp_min(share.max() / NARROWEST)
    step = share * (fixed.step / share).max()
    if not fixed.zero.ndim:
        return Fixed(step, fixed.zero)
    middle = (MIDDLE - fixed.zero) * fixed.step
    return Fixed(step, (MIDDLE - middle / step).round().clamp(0, 255).to(torch.uint8))


def folded(weight: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """What is rounded in a weight's place [out, in, ...]: times the steps, where each input channel has its own."""
    return weight * _of_inputs(step, weight) if step.ndim else weight


def unfolded(quantized: Quantized, step: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The float weight that a folded one in 8 bits stands for."""
    weight = dequantize(quantized)
    return (weight / _of_inputs(step, weight) if step.ndim else weight).to(dtype)


def offsets(quantized: Quantized, fixed: Fixed) -> torch.Tensor:
    """What codes of 128 lack to codes at zero, in whole numbers: int32 [out]; fixed with the weight and the range."""
    values, _, zero_point = quantized
    signed = as_signed(values).int()
    if zero_point is not None:
        signed = signed - (zero_point - CENTER)[:, None]
    return (signed * (fixed.zero.int() - CENTER)).sum(-1).int()


def _of_inputs(steps: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return steps.reshape(1, -1, *[1] * (weight.ndim - 2))
