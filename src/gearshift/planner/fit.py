"""Fitted weights: the run itself is where they are found, so that each step makes up for what went wrong before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gearshift.planner.recording import Recording
from gearshift.planner.surrogate import Surrogate
from gearshift.steps.predict import Taylor

if TYPE_CHECKING:
    from gearshift.steps.run import Run

RIDGE = 1e-6


@dataclass
class Fitting(Recording):
    """Records a run on which steps are filled in, and weighs what is kept so that the run stays beside a reference.

    For each filled-in step a few scalars, the weights of the last computed outputs and of the latent, are the least
    squares solution of: the next sample is the reference's. As the kept outputs and the latent are those of this run,
    errors of earlier steps are corrected on the way. The fit leans toward extrapolation along a line.

    Attributes:
        reference: the fully computed run, with the same noise.
        sampler: the sampler's numbers, read off it.
        weights: by position, as `Schedule` has them; in the units of the denoiser's own latent.
    """

    reference: Recording = field(default_factory=Recording)
    sampler: Surrogate | None = None
    weights: dict[int, tuple[float, ...]] = field(default_factory=dict)

    def fit(self, run: Run, at: Sequence[float], latent: float) -> tuple[float, ...]:
        """Weights for the current step.

        Args:
            at: coordinates of the kept outputs, newest first.
            latent: sign of the denoiser's output in the scheduler; 0: without the latent.
        """
        if run.position not in self.weights:
            self.weights[run.position] = self._fit(run, at, latent)
        return self.weights[run.position]

    def _fit(self, run: Run, at: Sequence[float], latent: float) -> tuple[float, ...]:
        there = {x: i for i, x in enumerate(self.x)}
        line = Taylor(1).weights(at[:2], run.x)
        prior = np.array(line + [0.0] * (len(at) - len(line) + bool(latent)))
        if any(x not in there for x in at):
            return tuple(prior[: len(at)])
        columns = [self.outputs[there[x]] for x in at] + ([self.samples[-1]] if latent else [])
        mixed = np.stack(columns)
        gram = mixed @ mixed.T
        gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram)
        found = prior + np.linalg.solve(gram, mixed @ (self._wanted() - prior @ mixed))
        if latent and self.sample is not None:
            found[-1] *= latent * _size(self.sample) / _size(run.sample)
        return tuple(float(w) for w in found)

    def _wanted(self) -> np.ndarray:
        """The output that takes this run's sample to the reference's next one."""
        assert self.sampler is not None
        seen, sampler, p = self.reference, self.sampler, self.steps
        astray = sampler.a[p] * (self.samples[-1] - seen.samples[p])
        if p:
            astray = astray + sampler.c[p] * (self.outputs[-1] - seen.outputs[p - 1])
        return seen.outputs[p] - (astray / sampler.b[p] if abs(sampler.b[p]) > 1e-12 else 0.0)


def _size(latent: object) -> float:
    return float(latent.float().square().mean().sqrt())  # type: ignore[attr-defined]
