"""Fitted weights: the run itself is where they are found, so that each step makes up for what went wrong before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gearshift.planner.recording import Recording
from gearshift.planner.surrogate import Surrogate
from gearshift.steps.memory import Weights
from gearshift.steps.predict import Taylor

if TYPE_CHECKING:
    import torch

    from gearshift.steps.run import Run

RIDGE = 1e-6
GROUP_RIDGE = 1e-3


@dataclass
class Fitting(Recording):
    """Records a run on which steps are filled in, and weighs what is kept so that the run stays beside a reference.

    For each filled-in step the weights of the last computed outputs and of the latent, one for each channel and band
    of spatial frequency, are the least squares solution of: the next sample is the reference's. As the kept outputs and
    the latent are those of this run, errors of earlier steps are corrected on the way. The fit leans toward
    extrapolation along a line. Computed steps get weights too, which predict what the scheduler is given there: how
    far that is off tells of a run that goes another way than those rehearsed.

    Attributes:
        reference: the fully computed run, with the same noise.
        sampler: the sampler's numbers, read off it.
        weights: by filled-in position, as `Schedule` has them; in the units of the denoiser's own latent.
        expected: by computed position; in the units of the scheduler's sample.
        depth: how many computed outputs are kept.
        earlier: runs of the same schedule with other noise, whose steps count too.
        met: by step what it had to mix and, last, what was wanted, [terms + 1, groups x directions].
    """

    reference: Recording = field(default_factory=Recording)
    sampler: Surrogate | None = None
    weights: dict[int, Weights] = field(default_factory=dict)
    expected: dict[int, Weights] = field(default_factory=dict)
    depth: int = 3
    earlier: tuple[Fitting, ...] = ()
    met: dict[int, np.ndarray] = field(default_factory=dict)

    def fit(self, run: Run, at: Sequence[float], latent: float) -> Weights:
        """Weights for the current step.

        Args:
            at: coordinates of the kept outputs, newest first.
            latent: sign of the denoiser's output in the scheduler; 0: without the latent.
        """
        if run.position not in self.weights:
            self.weights[run.position] = self._fit(run, at, latent)
        return self.weights[run.position]

    def _fit(self, run: Run, at: Sequence[float], latent: float) -> Weights:
        kept = self._steps_of(at)
        if len(kept) < len(at):
            return tuple(_line(at, run.noise_coordinate, len(at)))
        found = self._weighed(self.steps, kept, run.noise_coordinate, self._wanted(), bool(latent))
        if latent and self.sample is not None:
            found[-1] *= latent * _size(self.sample) / _size(run.sample)
        return _plain(found)

    def note(self, run: Run, output: torch.Tensor, sample: torch.Tensor, answer: Any) -> Any:
        answer = super().note(run, output, sample, answer)
        step = self.steps - 1
        kept = [s for s in reversed(range(step)) if s + self.start not in self.weights][: self.depth]
        if kept and run.position not in self.weights:
            found = self._weighed(step, kept, self.x[step], self.outputs[step], True)
            self.expected[run.position] = _plain(found)
        return answer

    def _weighed(self, step: int, kept: Sequence[int], x: float, wanted: np.ndarray, latent: bool) -> np.ndarray:
        """Weights [terms, groups] of the outputs of these steps and perhaps of the sample, over all runs so far."""
        columns = [self.outputs[k] for k in kept] + ([self.samples[step]] if latent else [])
        self.met[step] = np.stack([*columns, wanted])
        shares = self.shares if latent else np.ones(1)
        met = [f.met[step].reshape(len(columns) + 1, len(shares), -1) for f in (*self.earlier, self)]
        pooled = np.concatenate(met, axis=2)
        prior = np.array(_line([self.x[k] for k in kept], x, len(columns)))
        return grouped(pooled[:-1], pooled[-1], prior, shares)

    def _steps_of(self, at: Sequence[float]) -> list[int]:
        """The computed steps with these coordinates, newest first: several may have one."""
        steps = iter([s for s in reversed(range(len(self.x))) if s + self.start not in self.weights])
        return [step for x in at if (step := next((s for s in steps if self.x[s] == x), None)) is not None]

    def _wanted(self) -> np.ndarray:
        """The output that takes this run's sample to the reference's next one."""
        assert self.sampler is not None
        seen, sampler, p = self.reference, self.sampler, self.steps
        astray = sampler.a[p] * (self.samples[-1] - seen.samples[p])
        if p:
            astray = astray + sampler.c[p] * (self.outputs[-1] - seen.outputs[p - 1])
        return seen.outputs[p] - (astray / sampler.b[p] if abs(sampler.b[p]) > 1e-12 else 0.0)


def grouped(columns: np.ndarray, wanted: np.ndarray, prior: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Weights [terms, groups] whose mix of the columns comes nearest to what is wanted, group by group.

    The weights for all groups together lean toward the prior, those of each group toward these. The pull is the same
    for each coefficient, so that groups of little energy, which are mostly chance, hardly leave.

    Args:
        columns: [terms, groups, directions].
        wanted: [groups, directions].
        prior: [terms].
        shares: the part of all coefficients that each group has, [groups].
    """
    size = float(np.sum(columns**2)) / len(columns)
    whole = columns.reshape(1, len(columns), -1), wanted.reshape(1, -1)
    together = _leaning(*whole, prior[None], np.array([RIDGE * size]))
    if len(shares) == 1:
        return together.T
    priors = np.repeat(together, len(shares), axis=0)
    return _leaning(columns.transpose(1, 0, 2), wanted, priors, GROUP_RIDGE * size * shares).T


def _leaning(columns: np.ndarray, wanted: np.ndarray, prior: np.ndarray, pull: np.ndarray) -> np.ndarray:
    """Least squares [problems, terms] with a pull toward the prior; columns [problems, terms, n], pull [problems]."""
    gram = columns @ columns.transpose(0, 2, 1) + (pull + 1e-300)[:, None, None] * np.eye(columns.shape[1])
    missing = wanted - np.einsum("gt,gtn->gn", prior, columns)
    toward = np.einsum("gtn,gn->gt", columns, missing)[..., None]
    try:
        found = prior + np.linalg.solve(gram, toward)[..., 0]
    except np.linalg.LinAlgError:  # outputs that are all zero, or all alike
        found = prior + (np.linalg.pinv(gram, hermitian=True) @ toward)[..., 0] if np.isfinite(gram).all() else prior
    return np.where(np.isfinite(found), found, prior)


def _line(at: Sequence[float], x: float, terms: int) -> list[float]:
    """Weights that extrapolate along a line; 0 for the further terms."""
    line = Taylor(1).weights(at[:2], x)
    return line + [0.0] * (terms - len(line))


def _plain(found: np.ndarray) -> Weights:
    return tuple(tuple(w) if len(w) > 1 else w[0] for w in found.tolist())


def _size(latent: object) -> float:
    return float(latent.float().square().mean().sqrt())  # type: ignore[attr-defined]
