"""How far runs are from their references, sample by sample, and one number for all: the worst counts like the mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gearshift.planner.recording import Recording
from gearshift.planner.solve import sure
from gearshift.steps.predict import Predictor
from gearshift.steps.schedule import Schedule

LEAST = 1e-12
DEVIATIONS = 2.5  # of log errors, up to which one is usual
WATCHED = 0.5  # of a run: later errors change how clean a picture is, not which it is, and extra steps help little
LEAST_SPREAD = 0.2  # of log errors; few samples tell little of it


def latent_errors(run: Recording, reference: Recording) -> np.ndarray:
    """Relative distances of two runs' final samples, [batch]."""
    assert run.sample is not None and reference.sample is not None
    exact = reference.sample.detach().flatten(1).double()
    off = (run.sample.detach().flatten(1).double() - exact).norm(dim=1) / exact.norm(dim=1).clamp_min(LEAST)
    return off.clamp_min(LEAST).cpu().numpy()


def latent_distance(run: Recording, reference: Recording) -> float:
    """The geometric mean of `latent_errors`, so that dB are averaged."""
    return mean(latent_errors(run, reference))


def mean(errors: Sequence[float] | np.ndarray) -> float:
    """The geometric mean."""
    return float(np.exp(np.log(np.maximum(errors, LEAST)).mean()))


@dataclass(frozen=True)
class Criterion:
    """What is to be small in a plan's runs.

    Attributes:
        distance: of a run and its reference: a number, or one for each sample.
        quantile: of the samples, over all prompts and noises, the one that stands for the worst; 1: the worst itself.
    """

    distance: Callable[[Recording, Recording], Any] = latent_errors
    quantile: float = 1.0

    def errors(self, run: Recording, reference: Recording) -> tuple[float, ...]:
        """The errors of a run's samples."""
        return tuple(float(e) for e in np.atleast_1d(sure(self.distance(run, reference))))

    def worst(self, errors: Sequence[float]) -> float:
        """The error that this share of the samples does not exceed."""
        return float(np.quantile(errors, self.quantile, method="higher"))

    def __call__(self, errors: Sequence[float]) -> float:
        """One number: in dB it lies midway between the mean and the worst."""
        return mean([mean(errors), self.worst(errors)])


LATENT = Criterion()


def surprises(run: Recording, schedule: Schedule, base: Predictor, depth: int) -> dict[int, np.ndarray]:
    """By computed position, early in the run, the errors of its prediction, over the length of the output, [batch].

    It is what `steps.guard` meets in a run.

    Args:
        base: predicts where the schedule has no weights.
        depth: how many computed outputs are kept.
    """
    steps = [p - run.start for p in schedule.computed if p - run.start < run.steps]
    found = {}
    for n, step in enumerate(steps[1:], start=1):
        if step >= WATCHED * run.steps:
            break
        kept = steps[max(0, n - depth) : n][::-1]
        weights = schedule.weights.get(step + run.start)
        if weights is None:
            weights = base.weights([run.x[k] for k in kept[: base.depth]], run.x[step])
        columns = [*(run.outputs[k] for k in kept), run.samples[step]]
        predicted = _mixed(columns, np.asarray(weights, dtype=float), len(run.shares))
        found[step + run.start] = run.lengths(predicted - run.outputs[step]) / np.maximum(
            run.lengths(run.outputs[step]), LEAST
        )
    return found


def _mixed(columns: Sequence[np.ndarray], weights: np.ndarray, groups: int) -> np.ndarray:
    """The weighted sum of what was projected; weights [terms] or [terms, groups]."""
    stacked = np.stack(columns[: len(weights)]).reshape(len(weights), groups, -1)
    return (stacked * weights.reshape(len(weights), -1, 1)).sum(0).ravel()


def band_of(surprised: Iterable[dict[int, np.ndarray]]) -> dict[int, float]:
    """The largest usual error at each position: so many deviations above the mean of the logarithms, over all runs.

    There is none at a position where an error was no number.
    """
    met: dict[int, list[np.ndarray]] = {}
    for run in surprised:
        for position, errors in run.items():
            met.setdefault(position, []).append(np.log(np.maximum(errors, LEAST)))
    logs = {position: np.concatenate(found) for position, found in met.items()}
    band = {p: float(np.exp(log.mean() + DEVIATIONS * max(log.std(), LEAST_SPREAD))) for p, log in logs.items()}
    return {position: bound for position, bound in band.items() if np.isfinite(bound)}
