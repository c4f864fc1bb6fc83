"""Predictors: how a step that is not computed is filled in, as weights of the last computed outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Predictor(Protocol):
    """Fills in an output from kept ones."""

    @property
    def depth(self) -> int:
        """How many computed outputs it wants to see."""

    def weights(self, at: Sequence[float], x: float, done: float = 0.0) -> list[float]:
        """Weights of the kept outputs, newest first.

        Args:
            at: coordinates of the kept outputs, newest first.
            x: the coordinate to fill in.
            done: the part of the run that is behind, from 0 to 1.
        """


def are_apart(a: Any, b: Any) -> Any:
    """Whether two coordinates, or arrays of them, are far enough from each other to extrapolate from."""
    return abs(a - b) > 1e-6


@dataclass(frozen=True)
class Copy:
    """Repeat the newest computed output."""

    depth: int = 1

    def weights(self, at: Sequence[float], x: float, done: float = 0.0) -> list[float]:
        return [1.0]


@dataclass(frozen=True)
class Taylor:
    """Extrapolate by the polynomial through the last order + 1 computed outputs.

    On even gaps these are the finite differences of TaylorSeer (arXiv 2503.06923); the Lagrange form also serves uneven
    ones, and the coordinate is the noise schedule's own (log-SNR; sigma for flow matching). With fewer outputs at hand
    the order is lower; of outputs at one coordinate (samplers that call twice at a noise level) the newest counts.
    """

    order: int = 1

    @property
    def depth(self) -> int:
        return self.order + 1

    def weights(self, at: Sequence[float], x: float, done: float = 0.0) -> list[float]:
        newest = [i for i, xi in enumerate(at) if all(are_apart(xi, xj) for xj in at[:i])]
        weights = [0.0] * len(at)
        for i in newest:
            weights[i] = 1.0
            for j in newest:
                if j != i:
                    weights[i] *= (x - at[j]) / (at[i] - at[j])
        return weights


@dataclass(frozen=True)
class Rising:
    """The newest output and, more and more as the run goes on, its last change (FasterCache, arXiv 2410.19355)."""

    depth: int = 2

    def weights(self, at: Sequence[float], x: float, done: float = 0.0) -> list[float]:
        return [1 + done, -done] if len(at) > 1 else [1.0]


def by_mode(cache_mode: str) -> Predictor:
    """The predictor of a cacher's `cache_mode`: 'default' copies, 'taylor' extrapolates along a line."""
    return Taylor(1) if cache_mode == "taylor" else Copy()
