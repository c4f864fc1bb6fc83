"""When each token was spoken, from the decoder's cross-attention: dynamic time warping, as Whisper's authors do."""

from __future__ import annotations

import numpy as np

WIDTH = 7  # frames of the median filter


def token_frames(weights: np.ndarray) -> np.ndarray:
    """Frames [tokens + 1] at which each token begins, and the last one ends.

    Args:
        weights: attention [heads, tokens + 1, frames], each row summing to 1; its last row is the end token's.
    """
    spread = weights.std(axis=1, keepdims=True)
    normal = (weights - weights.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    cost = -_median(normal).mean(axis=0)
    rows, columns = warp(cost)
    firsts = np.flatnonzero(np.diff(rows, prepend=-1))
    return columns[firsts].astype(np.float64)


def warp(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest way through a matrix [n, m] from corner to corner, a step down, right or both: (rows, columns)."""
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0.0
    came = np.zeros((n + 1, m + 1), dtype=np.int8)
    for diagonal in range(2, n + m + 1):  # cells of one anti-diagonal do not depend on each other
        i = np.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1)
        j = diagonal - i
        before = np.stack([total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]])
        came[i, j] = before.argmin(axis=0)
        total[i, j] = cost[i - 1, j - 1] + before.min(axis=0)
    path, i, j = [], n, m
    while i > 0 and j > 0:
        path.append((i - 1, j - 1))
        i, j = i - (came[i, j] != 2), j - (came[i, j] != 1)
    rows, columns = np.array(path[::-1]).T
    return rows, columns


def _median(values: np.ndarray) -> np.ndarray:
    """Median over `WIDTH` neighboring frames of the last axis, mirrored at the ends."""
    half = min(WIDTH // 2, values.shape[-1] - 1)
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(half, half)], mode="reflect")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=-1), axis=-1)
