"""Compute the grids that HIGGS rounds rotated weights to: the points of least mean square error for Gaussian numbers.

p=1: the Lloyd-Max quantizer of N(0, 1), from the closed-form centroids. p=2: Lloyd's algorithm on N(0, I) in the plane,
on a fine lattice of nodes weighted with the density; many coarse starts, points of little use moved to where the error
is large, and the best one finished on finer nodes. Takes some minutes on one thread.

A saved model holds indices into these grids: a better one goes under another name, never in an old one's place.

usage: python tools/grids.py [--check]      --check: print the errors of the stored grids, compute nothing
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.spatial import cKDTree
from scipy.special import ndtr

FILE = Path(__file__).parents[1] / "src" / "gearshift" / "quant" / "formats" / "data" / "grids.safetensors"
REACH = 6.5  # standard deviations that the nodes cover
COARSE, FINE = 0.04, 0.01  # distance of nodes
STARTS = {16: 4, 64: 4, 256: 3}


def line(levels: int) -> tuple[np.ndarray, float]:
    """The best `levels` numbers for N(0, 1), and their mean square error."""
    points = np.linspace(-2.5, 2.5, levels)
    for _ in range(100_000):
        edges = np.concatenate([[-np.inf], (points[1:] + points[:-1]) / 2, [np.inf]])
        density = np.exp(-np.square(edges) / 2) / math.sqrt(2 * math.pi)
        mass = np.diff(ndtr(edges))
        moved = -np.diff(density) / mass
        if np.abs(moved - points).max() < 1e-15:
            break
        points = moved
    return points[:, None], float(1 - (mass * points**2).sum())


class Plane:
    """Nodes [n, 2] and their weights, in place of N(0, I)."""

    def __init__(self, distance: float) -> None:
        axis = np.arange(-REACH + distance / 2, REACH, distance)
        weight = np.exp(-np.square(axis) / 2)
        nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        weights = np.outer(weight, weight).ravel() / weight.sum() ** 2
        inside = np.square(nodes).sum(1) < REACH**2
        self.nodes, self.weights = nodes[inside], weights[inside]

    def cells(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mass, centroid and squared error of each point's cell."""
        distance, index = cKDTree(points).query(self.nodes)
        mass = np.bincount(index, self.weights, len(points))
        sums = [np.bincount(index, self.weights * x, len(points)) for x in self.nodes.T]
        error = np.bincount(index, self.weights * distance**2, len(points))
        return mass, np.stack(sums, 1) / np.maximum(mass, 1e-300)[:, None], error

    def error(self, points: np.ndarray) -> float:
        """Mean square error for each of the two numbers."""
        return float(self.cells(points)[2].sum() / 2)

    def settle(self, points: np.ndarray, rounds: int) -> np.ndarray:
        """Lloyd's algorithm, with steps a little longer than to the centroids."""
        for _ in range(rounds):
            mass, centroid, _ = self.cells(points)
            points = np.where(mass[:, None] > 0, points + 1.7 * (centroid - points), points)
        _, centroid, _ = self.cells(points)
        return centroid


def moved(points: np.ndarray, error: np.ndarray, count: int, chance: np.random.Generator) -> np.ndarray:
    """A few points of little error put beside those of much."""
    order = error.argsort()
    points = points.copy()
    points[order[:count]] = points[order[-count:]] + chance.normal(size=(count, 2)) * 0.02
    return points


def plane(count: int) -> tuple[np.ndarray, float]:
    """The best `count` points found for N(0, I) in the plane, and their mean square error for each number."""
    coarse, fine, chance = Plane(COARSE), Plane(FINE), np.random.default_rng(count)
    best, least = None, math.inf
    for _ in range(STARTS[count]):
        points = coarse.settle(chance.normal(size=(count, 2)) * math.sqrt(2), 150)
        for _ in range(6):
            error = coarse.error(points)
            if error < least:
                best, least = points, error
            points = coarse.settle(moved(points, coarse.cells(points)[2], max(1, count // 32), chance), 60)
    assert best is not None
    best = fine.settle(best, 400)
    return best[np.lexsort(best.T[::-1])], fine.error(best) + FINE**2 / 12


def main() -> None:
    if "--check" in sys.argv:
        for name, grid in load_file(FILE).items():
            values = torch.randn(4_000_000, generator=torch.Generator().manual_seed(0)).view(-1, grid.shape[1])
            nearest = cKDTree(grid.numpy()).query(values.numpy())[0]
            print(name, tuple(grid.shape), f"{np.square(nearest).sum() / values.numel():.5f}")
        return
    grids = {}
    for bits in (2, 3, 4):
        for p, find in ((1, line), (2, plane)):
            points, error = find(2 ** (bits * p))
            print(f"{bits} bits, p={p}: {error:.6f}", flush=True)
            grids[f"gauss-{bits}bit-p{p}"] = torch.tensor(points, dtype=torch.float32).contiguous()
    FILE.parent.mkdir(exist_ok=True)
    save_file(grids, FILE)


if __name__ == "__main__":
    main()
