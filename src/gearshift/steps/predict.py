"""Predictors: how a step that is not computed is filled in, as weights of the last computed outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gearshift.steps.memory import Memory
    from gearshift.steps.run import Run


class Predictor:
    """Fills in an output from kept ones.

    Attributes:
        depth: how many computed outputs it wants to see.
    """

    if TYPE_CHECKING:

        @property
        def depth(self) -> int: ...

    def predict(self, memory: Memory, run: Run, state: dict[str, Any], sign: float = 0.0) -> Any:
        """The output of the run's current step.

        Args:
            memory: what is kept.
            state: the trigger's, within the run.
            sign: of the denoiser's output in the scheduler; 0: this is not that output, or the sign is not known.
        """
        return memory.fill(self.weights(memory.at, run.noise_coordinate, run.progress))

    def keeps(self, state: dict[str, Any]) -> bool:
        """Whether the output of a step that is computed now is one to fill in from."""
        return True

    def weights(self, at: Sequence[float], x: float, progress: float = 0.0) -> list[float]:
        """Weights of the kept outputs, newest first.

        Args:
            at: coordinates of the kept outputs, newest first.
            x: the coordinate to fill in.
            progress: the part of the run that is behind, from 0 to 1.
        """
        raise NotImplementedError


def are_apart(a: Any, b: Any) -> Any:
    """Whether two coordinates, or arrays of them, are far enough from each other to extrapolate from."""
    return abs(a - b) > 1e-6


@dataclass(frozen=True)
class Copy(Predictor):
    """Repeat the newest computed output."""

    depth: int = 1

    def weights(self, at: Sequence[float], x: float, progress: float = 0.0) -> list[float]:
        return [1.0]


@dataclass(frozen=True)
class Taylor(Predictor):
    """Extrapolate by the polynomial through the last order + 1 computed outputs.

    On even gaps these are the finite differences of TaylorSeer (arXiv 2503.06923); the Lagrange form also serves uneven
    ones, and the coordinate is the noise schedule's own (log-SNR; sigma for flow matching). With fewer outputs at hand
    the order is lower; of outputs at one coordinate (samplers that call twice at a noise level) the newest counts.
    """

    order: int = 1

    @property
    def depth(self) -> int:
        return self.order + 1

    def weights(self, at: Sequence[float], x: float, progress: float = 0.0) -> list[float]:
        newest = [i for i, xi in enumerate(at) if all(are_apart(xi, xj) for xj in at[:i])]
        weights = [0.0] * len(at)
        for i in newest:
            weights[i] = 1.0
            for j in newest:
                if j != i:
                    weights[i] *= (x - at[j]) / (at[i] - at[j])
        return weights


@dataclass(frozen=True)
class Rising(Predictor):
    """The newest output and, more and more as the run goes on, its last change (FasterCache, arXiv 2410.19355)."""

    depth: int = 2

    def weights(self, at: Sequence[float], x: float, progress: float = 0.0) -> list[float]:
        return [1 + progress, -progress] if len(at) > 1 else [1.0]


def by_mode(cache_mode: str) -> Predictor:
    """The predictor of a cacher's `cache_mode`: 'default' copies, 'taylor' extrapolates along a line."""
    return Taylor(1) if cache_mode == "taylor" else Copy()
