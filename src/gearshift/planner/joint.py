"""Which steps to compute and in which gear, decided together: few dear steps and many cheap ones cost the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from gearshift.planner.plan import CHECKED, Distance, Found, Rehearsals, apart
from gearshift.planner.recording import Recording, Stopwatch
from gearshift.precision.box import Gearbox
from gearshift.precision.kinds import Precision
from gearshift.precision.schedule import PrecisionSchedule
from gearshift.steps.planned import Planned, Schedule
from gearshift.steps.predict import Predictor

SHIFTS = 12


@dataclass(frozen=True)
class Joined:
    """A schedule of computed steps, the gears of all steps, and the measured relative error of the final sample."""

    schedule: Schedule
    gears: PrecisionSchedule
    error: float
    cost: float


class JointRehearsals:
    """Real runs of one call under schedules and gears.

    Weights are fitted with the gears in, so that filled-in steps make up for what low gears did as well.

    Args:
        planned: the rule at the denoiser.
        box: the gearbox at the same denoiser.
        call: makes the call with noise by a seed.
        predictor: fills in where weights are not fitted.
        costs: gear -> cost of a step over the high gear's; the highest gear among them is the high one.
        distance: what is to be small, of a run and the reference.
    """

    def __init__(
        self,
        planned: Planned,
        box: Gearbox,
        call: Callable[[int], None],
        predictor: Predictor,
        costs: Mapping[Precision, float],
        fitted: bool = True,
        distance: Distance = apart,
    ) -> None:
        self.planned, self.box, self.call = planned, box, call
        self.costs = dict(sorted(costs.items(), key=lambda item: item[0].bits))
        self.high = max(self.costs)
        self.predictor, self.fitted, self.distance = predictor, fitted, distance
        self.runs = 0
        self.reference = Recording()
        self.run({}, None, self.reference, 0)
        self.reference.must_have_steps()

    @property
    def steps(self) -> int:
        return self.reference.steps

    def best(self, budget: float) -> Joined:
        """The least error whose computed steps cost no more than this share of all steps in the high gear.

        For each gear, and for each two neighboring ones with the higher gear late, as many steps are placed as the
        budget allows; the best of these placements is refined by moving steps to other gears. The best few of all are
        fitted to more noise, and proven under noise that none has met.
        """
        rivals: list[tuple[float, dict[int, Precision]]] = []
        for gear in self.costs:
            everywhere = dict.fromkeys(range(self.reference.start, self.reference.start + self.steps), gear)
            placed = self._placed(everywhere, self.costs[gear], budget)
            rivals.append((placed.error, dict.fromkeys(placed.schedule.computed, gear)))
        rivals += [self._mixed(low, high, budget) for low, high in pairwise(self.costs)]
        error, gears = min(rivals, key=lambda rival: rival[0])
        rivals.append(self._shifted(gears, error, budget))
        references = self._rehearsals({}).references()
        proven = []
        for _, gears in sorted(rivals, key=lambda rival: rival[0])[:CHECKED]:
            steps = tuple(p - self.reference.start for p in sorted(gears))
            found = self._rehearsals(gears).proven(steps, references)
            proven.append(Joined(found.schedule, self.schedule(gears), found.error, self.cost(gears)))
        return min(proven, key=lambda joined: joined.error)

    def schedule(self, gears: Mapping[int, Precision]) -> PrecisionSchedule:
        """The gears of all positions; those that are filled in are written down as in the high one."""
        whole = self.reference.start + self.steps
        return PrecisionSchedule("joint", tuple(gears.get(p, self.high) for p in range(whole)))

    def cost(self, gears: Mapping[int, Precision]) -> float:
        """Cost of the computed steps, over all steps in the high gear."""
        return sum(self.costs[g] for g in gears.values()) / self.steps

    def run(self, gears: Mapping[int, Precision], schedule: Schedule | None, recording: Recording, seed: int) -> None:
        """One run with these gears at these positions, and the high one at all others."""
        self.runs += 1
        shifts = self.schedule(gears) if schedule is not None else None
        with self.planned.rehearsing(schedule, recording), self.box.rehearsing(shifts, recording):
            self.call(seed)

    def timed(self, gears: Mapping[int, Precision], schedule: Schedule | None) -> tuple[Stopwatch, float]:
        """Run for the time alone; and the seconds of that whole call."""
        return self._rehearsals(gears).timed(schedule)

    def _rehearsals(self, gears: Mapping[int, Precision]) -> Rehearsals:
        return Rehearsals(self.reference, partial(self.run, gears), self.predictor, self.fitted, self.distance)

    def _placed(self, everywhere: Mapping[int, Precision], cost: float, budget: float) -> Found:
        """Where to compute, if a step costs this much and each position has this gear."""
        count = min(max(int(budget * self.steps / cost + 1e-9), 2), self.steps)
        return self._rehearsals(everywhere).nearest(count, SHIFTS)

    def _mixed(self, low: Precision, high: Precision, budget: float) -> tuple[float, dict[int, Precision]]:
        """Half of the steps in each of two gears, and then as many of the late ones in the high one as is allowed."""
        start, middle = self.reference.start, self.reference.start + self.steps // 2
        everywhere = {p: low if p < middle else high for p in range(start, start + self.steps)}
        placed = self._placed(everywhere, (self.costs[low] + self.costs[high]) / 2, budget)
        gears = dict.fromkeys(placed.schedule.computed, low)
        for p in sorted(gears, reverse=True):
            if self.cost({**gears, p: high}) > budget + 1e-9:
                break
            gears[p] = high
        return self._rehearsals(gears).trial(tuple(p - start for p in sorted(gears))).found.error, gears

    def _shifted(self, gears: dict[int, Precision], error: float, budget: float) -> tuple[float, dict[int, Precision]]:
        """Move two steps to other gears, or give a step up for dearer others, while that helps within the budget."""
        if len(self.costs) == 1:
            return error, gears
        chance = random.Random(0)
        order = list(self.costs)
        for _ in range(SHIFTS):
            trial = dict(gears)
            for p in chance.sample(sorted(trial), min(chance.choice((1, 2, 3)), len(trial))):
                near = order.index(trial[p]) + chance.choice((-1, 1))
                trial[p] = order[min(max(near, 0), len(order) - 1)]
            while self.cost(trial) > budget + 1e-9 and len(trial) > 2:
                del trial[chance.choice([p for p in trial if p != self.reference.start])]
            if trial == gears or self.cost(trial) > budget + 1e-9:
                continue
            rival = self._rehearsals(trial).trial(tuple(p - self.reference.start for p in sorted(trial))).found
            if rival.error < error:
                gears, error = trial, rival.error
        return error, gears
