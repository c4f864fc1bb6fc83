"""The guard over a planned run: where a step comes out other than predicted, the run computes more steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from gearshift.steps.decision import GUARDED
from gearshift.steps.memory import Memory
from gearshift.steps.predict import Predictor

if TYPE_CHECKING:
    from gearshift.steps.run import Run
    from gearshift.steps.schedule import Schedule

GAPS = 2  # between computed steps, in each of which one more step is computed
MOST = 1 / 3  # of the plan's computed steps that one run may add


@dataclass(eq=False)
class Guard:
    """Watches one run of a plan.

    At a step that the plan computes, the output is compared with what would have been filled in. Where the error of a
    sample, relative to the output's length, is beyond what was usual while planning, the run computes a step in the
    middle of each of the next gaps, for the whole batch.

    Attributes:
        schedule: the plan's; its `band` has the largest usual error at each position.
        base: predicts where the schedule has no weights.
        memory: the last outputs of the plan's computed steps, as the scheduler got them.
        coming: positions at which the run computes besides.
        budget: steps that it may still add.
    """

    schedule: Schedule
    base: Predictor
    memory: Memory
    coming: set[int] = field(default_factory=set)
    budget: int = 0
    _watched: bool = False
    _beyond: tuple[int, torch.Tensor] | None = None

    @staticmethod
    def of(schedule: Schedule, base: Predictor, depth: int) -> Guard | None:
        """The guard for a new run; None if nothing was seen while planning."""
        if not schedule.band:
            return None
        memory = Memory(depth)
        memory.copies = True
        return Guard(schedule, base, memory, budget=max(1, math.floor(MOST * len(schedule.computed))))

    def begin(self, position: int) -> str | None:
        """A step begins: why it is computed though the plan fills it in, or None."""
        self._watched = position in self.schedule.computed
        if self._beyond is not None:
            before, beyond = self._beyond
            self._beyond = None
            if bool(beyond):  # the one number that is read from the device
                self._add(before)
        return GUARDED if position in self.coming else None

    def see(self, run: Run, output: torch.Tensor, sample: torch.Tensor) -> None:
        """Take in what the scheduler got at the end of a step."""
        if not self._watched:
            return
        output, sample = output.detach(), sample.detach()
        kept = self.memory.history
        if kept and kept[-1].shapes != [output.shape]:
            kept.clear()
        bound = self.schedule.band.get(run.position)
        if kept and bound is not None and self.budget:
            error = relative_errors(self._predicted(run, sample), output)
            self._beyond = run.position, (error > bound).any()
        self.memory.keep(run.noise_coordinate, output)

    def _predicted(self, run: Run, sample: torch.Tensor) -> torch.Tensor:
        latent = sample if self.memory.like(sample) else None
        weights = self.schedule.weights_for(run.position, len(self.memory.at), latent)
        if weights is None:
            weights = self.base.weights(self.memory.at[: self.base.depth], run.noise_coordinate)
        return self.memory.fill(weights, latent)

    def _add(self, position: int) -> None:
        """One more step in the middle of each of the gaps that follow a position."""
        ends = [p for p in self.schedule.computed if p >= position][: GAPS + 1]
        for before, after in pairwise(ends):
            middle = (before + after + 1) // 2
            if before < middle < after and middle not in self.coming and self.budget:
                self.coming.add(middle)
                self.budget -= 1


def relative_errors(predicted: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Length of the difference over that of the output, for each sample [n]."""
    exact = output.flatten(1).float()
    return (predicted.flatten(1).float() - exact).norm(dim=1) / exact.norm(dim=1).clamp_min(1e-12)
