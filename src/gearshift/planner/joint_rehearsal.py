"""Which steps to compute and in which gear, decided together: few dear steps and many cheap ones cost the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from gearshift.measure.calls import Turns, in_turns
from gearshift.planner.criterion import LATENT, Criterion
from gearshift.planner.recording import Recording, Stopwatch
from gearshift.planner.rehearsal import CHECKED, FoundSchedule, Rehearsals
from gearshift.planner.solve import neighbor
from gearshift.precision.controller import GearController
from gearshift.precision.levels import Precision
from gearshift.precision.schedule import PrecisionSchedule
from gearshift.steps.predict import Predictor
from gearshift.steps.schedule import Planned, Schedule

PLACED = 12  # moves of steps that are all in one gear
SHARES = (0.15, 0.3, 0.5, 0.75)  # of the steps that the lower of two gears would allow more than the higher
HALVINGS, LARGER = 6, 1.12  # of the budget that a quality takes, and by how much it grows where that was too small
REFINED, REFINING = 2, 24  # placements that are refined, and moves of each

Gears = dict[int, Precision]  # of the computed positions
Rival = tuple[float, Gears]  # and the error that was measured


@dataclass(frozen=True)
class Joined:
    """A schedule of computed steps and what was measured of it, and the gears of all steps."""

    found: FoundSchedule
    gears: PrecisionSchedule
    cost: float

    @property
    def schedule(self) -> Schedule:
        return self.found.schedule

    @property
    def error(self) -> float:
        return self.found.error


class JointRehearsals:
    """Real runs of one call under schedules and gears.

    Weights are fitted with the gears in, so that filled-in steps make up for what low gears did as well.

    Args:
        planned: the rule at the denoiser.
        controller: the gear controller at the same denoiser.
        call: makes the call with noise by a seed.
        predictor: fills in where weights are not fitted.
        costs: gear -> cost of a step over the high gear's; the highest gear among them is the high one.
        criterion: what is to be small.
    """

    def __init__(
        self,
        planned: Planned,
        controller: GearController,
        call: Callable[[int], None],
        predictor: Predictor,
        costs: Mapping[Precision, float],
        fitted: bool = True,
        criterion: Criterion = LATENT,
    ) -> None:
        self.planned, self.controller, self.call = planned, controller, call
        self.costs = dict(sorted(costs.items(), key=lambda item: item[0].bits))
        self.high = max(self.costs)
        self.predictor, self.fitted, self.criterion = predictor, fitted, criterion
        self.runs = 0
        self.reference = Recording()
        self.run({}, None, self.reference, 0)
        self.reference.must_have_steps()

    @property
    def steps(self) -> int:
        return self.reference.steps

    def best(self, budget: float) -> Joined:
        """The least error whose computed steps cost no more than this share of all steps in the high gear.

        Steps are placed for each gear alone, and for each two neighboring ones, the higher late, for several counts of
        steps that the budget allows; the best of these placements are refined. The best few of all are fitted to more
        noise, and proven under noise that none has met.
        """
        rivals = self._rivals(budget, PLACED)
        if len(self.costs) > 1:
            rivals.sort(key=lambda rival: rival[0])
            rivals += [self._refined(error, gears, budget) for error, gears in rivals[:REFINED]]
        references = self._rehearsals({}).references()
        proven = []
        for _, gears in sorted(rivals, key=lambda rival: rival[0])[:CHECKED]:
            found = self._rehearsals(gears).proven(self._steps_of(gears), references)
            proven.append(Joined(found, self.schedule(gears), self.cost(gears)))
        return min(proven, key=lambda joined: joined.error)

    def cheapest(self, allowed: float) -> Joined:
        """The least cost whose error under new noise is no more than allowed; the high gear throughout has none.

        The budget is found by bisection, on placements that nothing was refined in; where the best plan of a budget
        does not hold under new noise, the next larger one is taken.
        """
        low, high = min(self.costs.values()) * 2 / self.steps, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            good = min(error for error, _ in self._rivals(middle, 0)) <= allowed
            low, high = (low, middle) if good else (middle, high)
        while high < 1:
            found = self.best(high)
            if found.error <= allowed:
                return found
            high *= LARGER
        whole = dict.fromkeys(range(self.reference.start, self.reference.start + self.steps), self.high)
        return Joined(FoundSchedule(Schedule(tuple(whole)), 0.0), self.schedule(whole), 1.0)

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
        with self.planned.rehearsing(schedule, recording), self.controller.rehearsing(shifts, recording):
            self.call(seed)

    def timed(self, gears: Mapping[int, Precision], schedule: Schedule | None) -> tuple[Stopwatch, float]:
        """Run for the time alone; and the seconds of that whole call."""
        return self._rehearsals(gears).timed(schedule)

    def compared(self, gears: Mapping[int, Precision], joined: Joined) -> Turns:
        """Time calls of a joint plan beside the original's."""
        return self._beside(None, gears, joined)

    def gain(self, gears: Mapping[int, Precision], joined: Joined) -> Turns:
        """Time calls of a joint plan beside those of the same steps without low gears, which stand for the original."""
        return self._beside(joined.schedule, gears, joined)

    def _beside(self, schedule: Schedule | None, gears: Mapping[int, Precision], joined: Joined) -> Turns:
        high, low = self._rehearsals({}), self._rehearsals(gears)
        return in_turns(lambda: high.timed(schedule, 1)[1], lambda: low.timed(joined.schedule, 1)[1], joined.cost)

    def _rehearsals(self, gears: Mapping[int, Precision]) -> Rehearsals:
        return Rehearsals(self.reference, partial(self.run, gears), self.predictor, self.fitted, self.criterion)

    def _steps_of(self, gears: Gears) -> tuple[int, ...]:
        """The numbers of the computed steps."""
        return tuple(p - self.reference.start for p in sorted(gears))

    def _tried(self, gears: Gears) -> Rival:
        """The error with these gears at the computed positions."""
        return self._rehearsals(gears).trial(self._steps_of(gears)).found.error, gears

    def _rivals(self, budget: float, moves: int) -> list[Rival]:
        """Placements that the budget allows: in each gear alone, and in each two neighboring ones."""
        rivals = [self._placed(gear, budget, moves) for gear in self.costs]
        for low, high in pairwise(self.costs):
            rivals += map(self._tried, self._mixed(low, high, budget))
        return rivals

    def _placed(self, gear: Precision, budget: float, moves: int) -> Rival:
        """The best found places of as many steps in one gear as the budget allows."""
        everywhere = dict.fromkeys(range(self.reference.start, self.reference.start + self.steps), gear)
        found = self._rehearsals(everywhere).nearest(self._count(gear, budget), moves)
        return found.error, dict.fromkeys(found.schedule.computed, gear)

    def _count(self, gear: Precision, budget: float) -> int:
        return min(max(int(budget * self.steps / self.costs[gear] + 1e-9), 2), self.steps)

    def _mixed(self, low: Precision, high: Precision, budget: float) -> Iterator[Gears]:
        """Schedules of several counts of steps, in the low gear but for as many late ones as the budget allows."""
        most, least = self._count(low, budget), self._count(high, budget)
        for count in sorted({least + round(share * (most - least)) for share in SHARES}):
            for steps in sorted(set(self._rehearsals({}).solved(count))):
                gears = {p + self.reference.start: low for p in steps}
                for p in sorted(gears, reverse=True):
                    if self.cost({**gears, p: high}) > budget + 1e-9:
                        break
                    gears[p] = high
                yield gears

    def _refined(self, error: float, gears: Gears, budget: float) -> Rival:
        """Change gears, move computed steps and give some up for dearer others, while that helps within the budget."""
        chance = random.Random(0)
        for _ in range(REFINING):
            trial = chance.choice((self._shifted, self._slid))(gears, chance)
            while self.cost(trial) > budget + 1e-9 and len(trial) > 2:
                del trial[chance.choice([p for p in trial if p != self.reference.start])]
            if trial == gears or self.cost(trial) > budget + 1e-9:
                continue
            error, gears = min((error, gears), self._tried(trial), key=lambda rival: rival[0])
        return error, gears

    def _shifted(self, gears: Gears, chance: random.Random) -> Gears:
        """One to three steps in the next gear up or down."""
        trial, order = dict(gears), list(self.costs)
        for p in chance.sample(sorted(trial), min(chance.choice((1, 2, 3)), len(trial))):
            near = order.index(trial[p]) + chance.choice((-1, 1))
            trial[p] = order[min(max(near, 0), len(order) - 1)]
        return trial

    def _slid(self, gears: Gears, chance: random.Random) -> Gears:
        """Computed steps elsewhere, in the order of their gears."""
        steps = neighbor(list(self._steps_of(gears)), self.steps, chance)
        return {p + self.reference.start: gears[was] for p, was in zip(sorted(steps), sorted(gears), strict=True)}
