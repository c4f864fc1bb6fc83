"""What scales have to be, whatever a weight holds: one guard for all formats."""

from __future__ import annotations

import torch

SMALLEST = torch.finfo(torch.float32).smallest_normal


def usable(scale: torch.Tensor) -> torch.Tensor:
    """Scales that can be divided by; 1 for zeros and for what is too small to be a float of full precision.

    Values with such a scale are so small that nothing is lost when they are rounded to zero.
    """
    return torch.where(scale >= SMALLEST, scale, torch.ones_like(scale))
