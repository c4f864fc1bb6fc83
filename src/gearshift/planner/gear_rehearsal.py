"""Which steps tolerate which gear: told from a run in each gear along the original's path, proven by real runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from gearshift.planner.criterion import latent_distance
from gearshift.planner.plan import LETTERS
from gearshift.planner.recording import Recording
from gearshift.planner.rehearsal import TRIED, surrogate_of
from gearshift.planner.solve import sure
from gearshift.precision.controller import GearController
from gearshift.precision.levels import Precision
from gearshift.precision.schedule import PrecisionSchedule

MOVES = 12


@dataclass
class Path(Recording):
    """A recording that keeps every sample whole."""

    whole: list[torch.Tensor] = field(default_factory=list)

    def note(self, run: Any, output: torch.Tensor, sample: torch.Tensor, answer: Any) -> Any:
        answer = super().note(run, output, sample, answer)
        assert self.sample is not None
        self.whole.append(self.sample)
        return answer


@dataclass
class Led(Recording):
    """Records what is said along another run's path: the samples are always that run's."""

    path: Path = field(default_factory=Path)

    def note(self, run: Any, output: torch.Tensor, sample: torch.Tensor, answer: Any) -> Any:
        super().note(run, output, sample, answer)
        following = self.path.whole[self.steps - 1]
        if isinstance(answer, tuple):
            return (following, *answer[1:])
        answer.prev_sample = following
        return answer


@dataclass(frozen=True)
class GearPlan:
    """A schedule, its cost over the high gear's, and the relative error of the final sample that was measured."""

    schedule: PrecisionSchedule
    cost: float
    error: float

    @property
    def line(self) -> str:
        """One letter for each step: 4, 8, or # for the high gear."""
        return "".join(LETTERS.get(p, "#") for p in self.schedule.precisions)


class GearRehearsals:
    """Real runs of one call under schedules of gears.

    Args:
        controller: the gear controller at the denoiser.
        call: makes the call with noise by a seed.
        costs: gear -> cost of a step over the high gear's; the highest gear among them is the high one.
        distance: what is to be small, of a run and the reference.
    """

    def __init__(
        self,
        controller: GearController,
        call: Callable[[int], None],
        costs: Mapping[Precision, float],
        distance: Callable[[Recording, Recording], float] = latent_distance,
    ) -> None:
        self.controller, self.call, self.distance = controller, call, distance
        self.gears = sorted(costs, key=lambda p: p.bits)
        self.costs = np.array([costs[g] for g in self.gears])
        self.runs = 1 + len(self.gears) + len(TRIED) + MOVES
        self.reference = Path()
        self._run(None, self.reference)
        self.reference.must_have_steps()
        self.errors = self._errors()

    @property
    def steps(self) -> int:
        return self.reference.steps

    def cheapest(self, allowed: float) -> GearPlan:
        """The cheapest schedule whose final sample is off by no more than this, as real runs show."""
        found = self.measured([len(self.gears) - 1] * self.steps)
        if len(self.gears) == 1:
            return found
        within = allowed
        for _ in range(4):
            low, high = float(self.costs.min()), 1.0
            for _ in range(8):
                middle = (low + high) / 2
                if min(self._told(z, share) for share in TRIED for z in [self._solved(middle, share)]) <= within:
                    high = middle
                else:
                    low = middle
            rival = self.best(high)
            if rival.error <= allowed:
                return min(found, rival, key=lambda plan: plan.cost)
            within *= 0.8 * allowed / max(rival.error, 1e-12)
        return found

    def best(self, budget: float, moves: int = MOVES) -> GearPlan:
        """The schedule with the least error whose steps cost no more than `budget` of the high gear's, on average."""
        solved = {tuple(self._solved(budget, share)) for share in TRIED}
        tried = {z: self.measured(list(z)) for z in sorted(solved)}
        best = min(tried, key=lambda z: tried[z].error)
        chance = random.Random(0)
        for _ in range(moves):
            trial = list(best)
            i, j = chance.sample(range(self.steps), 2)
            trial[i], trial[j] = trial[j], trial[i]
            if tuple(trial) in tried:
                continue
            tried[tuple(trial)] = self.measured(trial)
            if tried[tuple(trial)].error < tried[best].error:
                best = tuple(trial)
        return tried[best]

    def measured(self, choice: list[int]) -> GearPlan:
        """Run a schedule, given as the number of a gear for each step."""
        start = self.reference.start
        precisions = [self.gears[-1]] * start + [self.gears[g] for g in choice]
        schedule = PrecisionSchedule("measured", tuple(precisions))
        recording = Recording()
        self._run(schedule, recording)
        return GearPlan(
            schedule, float(self.costs[choice].mean()), float(sure(self.distance(recording, self.reference)))
        )

    def _run(self, schedule: PrecisionSchedule | None, recording: Recording, seed: int = 0) -> None:
        with self.controller.rehearsing(schedule, recording):
            self.call(seed)

    def _errors(self) -> np.ndarray:
        """[gears, steps, n]: what each gear adds to the output of each step of the reference."""
        found = []
        for gear in self.gears[:-1]:
            led = Led(path=self.reference)
            whole = self.reference.start + self.steps
            self._run(PrecisionSchedule("all", (gear,) * whole), led)
            found.append(np.stack(led.outputs) - np.stack(self.reference.outputs))
        high = np.zeros((self.steps, len(self.reference.outputs[0])))
        errors = np.stack([*found, high])
        _, triangle = np.linalg.qr(errors.reshape(-1, errors.shape[-1]).T)
        return triangle.T.reshape(len(self.gears), self.steps, -1)

    def _carried(self, share: float) -> np.ndarray:
        """The same in the final sample, with this share of the feedback of a fixed clean image."""
        return self.errors * surrogate_of(self.reference, share).sensitivity()[None, :, None]

    def _told(self, choice: list[int], share: float) -> float:
        """Relative error of the final sample as the linear model has it."""
        total = self._carried(share)[choice, np.arange(self.steps)].sum(0)
        scale = max(float(np.linalg.norm(self.reference.samples[-1])), 1e-12)
        return float(sure(np.linalg.norm(total) / scale))

    def _solved(self, budget: float, share: float) -> list[int]:
        return assign(self._carried(share), self.costs, budget)


def assign(errors: np.ndarray, costs: np.ndarray, budget: float) -> list[int]:
    """A gear for each step: little error in sum, mean cost within the budget.

    Errors of neighboring steps add up or cancel, so the sum's length counts and not the sum of lengths. Steps go down
    one gear at a time where that adds least for what it saves, then pairs of steps swap gears while that helps.

    Args:
        errors: [gears, steps, n], gears from cheap to dear.
        costs: [gears].
        budget: mean cost of a step that is allowed.
    """
    gears, steps, _ = errors.shape
    choice = np.full(steps, gears - 1)
    place = np.arange(steps)
    total = errors[choice, place].sum(0)
    while costs[choice].mean() > budget + 1e-9 and choice.any():
        down = np.maximum(choice - 1, 0)
        delta = errors[down, place] - errors[choice, place]
        grown = ((total + delta) ** 2).sum(1) - (total**2).sum()
        saved = costs[choice] - costs[down]
        worth = sure(np.where(saved > 0, grown / np.maximum(saved, 1e-12), np.inf))
        p = int(worth.argmin())
        total = total + delta[p]
        choice[p] -= 1
    return _swapped(errors, choice, total).tolist()


def _swapped(errors: np.ndarray, choice: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Swap the gears of two steps as long as some swap lessens the error."""
    steps = len(choice)
    for _ in range(4 * steps):
        best, pair = float((total**2).sum()) * (1 - 1e-9), None
        for p in range(steps):
            others = np.flatnonzero(choice != choice[p])
            if not len(others):
                continue
            mine = errors[choice[others], p] - errors[choice[p], p]
            theirs = errors[choice[p], others] - errors[choice[others], others]
            after = sure(((total + mine + theirs) ** 2).sum(1))
            q = int(after.argmin())
            if after[q] < best:
                best, pair = float(after[q]), (p, int(others[q]), mine[q] + theirs[q])
        if pair is None:
            break
        p, q, moved = pair
        choice[p], choice[q] = choice[q], choice[p]
        total = total + moved
    return choice
