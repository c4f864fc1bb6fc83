"""How close two sets of images, latents or weights are, in dB and by structure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gearshift.core.errors import BadValue

if TYPE_CHECKING:
    from PIL.Image import Image

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def to_tensor(images: Sequence[Image | np.ndarray[Any, Any]]) -> Tensor:
    """PIL images, or H x W x 3 uint8 arrays, as one float32 tensor [N, 3, H, W] in [0, 1].

    Raises:
        BadValue: there are none, their sizes differ, or an array is not H x W x 3 of uint8.
    """
    arrays = [i if isinstance(i, np.ndarray) else np.asarray(i.convert("RGB")) for i in images]
    if not arrays:
        raise BadValue("There are no images; give at least one.")
    for array in arrays:
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise BadValue(f"An image must be H x W x 3 of uint8; got shape {array.shape} of {array.dtype}.")
    sizes = sorted({array.shape[:2] for array in arrays})
    if len(sizes) > 1:
        raise BadValue(f"Images of one batch must have one size; got {' and '.join(map(str, sizes))}.")
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def psnr_each(a: Tensor, b: Tensor, peak: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, [N] float64; inf where two images are equal.

    Args:
        a, b: floating point tensors [N, C, H, W] (or any shape with the batch first).
        peak: width of the range: 1.0 for images in [0, 1], 2.0 for [-1, 1].

    Raises:
        BadValue: shapes differ, or the values or dtypes do not fit that range.
    """
    a, b = _pair(a, b, peak)
    error = (a - b).square().flatten(1).mean(1)
    return 10 * torch.log10(peak**2 / error)


def psnr(a: Tensor, b: Tensor, peak: float = 1.0) -> float:
    """Mean over the batch of `psnr_each`, in dB: the mean of the ratios, so inf as soon as one pair is equal."""
    return float(psnr_each(a, b, peak).mean())


def ssim_each(a: Tensor, b: Tensor, peak: float = 1.0) -> Tensor:
    """Structural similarity of each image, [N] float64, 1 for equal images (Wang, Bovik, Sheikh, Simoncelli 2004).

    A Gaussian window of 11 x 11 pixels and sigma 1.5 over every place where it fits whole, mean over channels. Images
    of fewer than 11 pixels a side get the largest odd window that fits. The measure compares brightness too, so
    [-1, 1] is moved to [0, 1] first.

    Args:
        a, b: floating point tensors [N, C, H, W].
        peak: 1.0 for images in [0, 1], 2.0 for [-1, 1].

    Raises:
        BadValue: shapes differ, are not four-dimensional, or the values or dtypes do not fit that range.
    """
    a, b = _pair(a, b, peak)
    if a.ndim != 4:
        raise BadValue(f"SSIM compares images [N, C, H, W]; got shape {tuple(a.shape)}. Flatten frames into N.")
    if peak == 2.0:
        a, b = (a + 1) / 2, (b + 1) / 2
    mean_a, mean_b = _blur(a), _blur(b)
    variances = _blur(a * a) - mean_a.square() + _blur(b * b) - mean_b.square()
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = K1**2, K2**2
    brightness = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return (brightness * (2 * covariance + c2) / (variances + c2)).mean(dim=(1, 2, 3))


def ssim(a: Tensor, b: Tensor, peak: float = 1.0) -> float:
    """Mean over the batch of `ssim_each`."""
    return float(ssim_each(a, b, peak).mean())


def sqnr(reference: Tensor, other: Tensor) -> float:
    """Signal to quantization noise ratio in dB of whole tensors of one shape, e.g. latents or weights; inf if equal.

    Raises:
        BadValue: shapes differ.
    """
    reference, other = _same_shape(reference, other)
    noise = float((reference - other).square().sum())
    signal = float(reference.square().sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _blur(x: Tensor) -> Tensor:
    """Gaussian mean of every whole window, one axis after the other."""
    channels = x.shape[1]
    for axis in (2, 3):
        taps = _taps(x.shape[axis]).to(x)
        kernel = taps.view(1, 1, -1, 1) if axis == 2 else taps.view(1, 1, 1, -1)
        x = F.conv2d(x, kernel.expand(channels, 1, -1, -1), groups=channels)
    return x


def _taps(pixels: int) -> Tensor:
    width = min(WINDOW, pixels - 1 + pixels % 2)
    places = torch.arange(width, dtype=torch.float64) - width // 2
    weights = torch.exp(-places.square() / (2 * SIGMA**2))
    return weights / weights.sum()


def _pair(a: Tensor, b: Tensor, peak: float) -> tuple[Tensor, Tensor]:
    if peak not in (1.0, 2.0):
        raise BadValue(f"peak must be 1.0 for images in [0, 1] or 2.0 for [-1, 1]; got {peak}.")
    if not (a.is_floating_point() and b.is_floating_point()):
        raise BadValue(f"Images must be floating point; got {a.dtype} and {b.dtype}. Divide bytes by 255.")
    a, b = _same_shape(a, b)
    # A decoder or added noise overshoots; where both are far too wide, they follow the other convention.
    width = min(float(x.amax() - x.amin()) for x in (a, b))
    if width > 1.5 * peak:
        raise BadValue(f"Values spread over {width:.3g}, but peak={peak} says {peak}; images in [-1, 1] need peak=2.0.")
    return a, b


def _same_shape(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64, on the CPU where a device lacks that type."""
    if a.shape != b.shape or a.numel() == 0:
        raise BadValue(f"Both must have one shape and at least one value; got {tuple(a.shape)} and {tuple(b.shape)}.")
    if a.device.type == "mps" or a.device != b.device:
        a, b = a.cpu(), b.cpu()
    return a.detach().double(), b.detach().double()
