"""From a speed or a quality that is asked for to a schedule: how many steps, which ones, and the proof by real runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from gearshift.measure.calls import Turns, in_turns
from gearshift.measure.timing import clock
from gearshift.planner.criterion import LATENT, Criterion, band_of, mean, surprises
from gearshift.planner.fit import Fitting
from gearshift.planner.recording import Recording, Stopwatch
from gearshift.planner.solve import neighbor, programme, solve, span_costs
from gearshift.planner.surrogate import Surrogate
from gearshift.steps.predict import Predictor
from gearshift.steps.schedule import Schedule

GUESS = 0.25  # share of the feedback that served best on trained models where only one can be taken
TRIED = (0.0, 0.25, 0.5, 1.0)
MOVES = 24
CHECKED = 3
FITTED_DEPTH = 3
FITTED_TO = 3  # further noises; the last one proves


@dataclass(frozen=True)
class FoundSchedule:
    """A schedule and what is known of it.

    Attributes:
        error: relative error of the final sample: the surrogate's estimate, or what the criterion says of real runs.
        mean: of the samples whose noise no weights were fitted to; None: it was not proven.
        worst: of all samples that were rehearsed, as far as the criterion's quantile goes; None: it was not proven.
        rehearsed: samples.
    """

    schedule: Schedule
    error: float
    mean: float | None = None
    worst: float | None = None
    rehearsed: int = 0

    @property
    def proof(self) -> dict[str, Any]:
        """What a plan keeps of it."""
        return {"error": self.error if self.mean is None else self.mean, "worst": self.worst, "samples": self.rehearsed}


@dataclass(frozen=True)
class Rehearsed:
    """A schedule and its runs, one for each noise; the newest is that in which its weights were fitted last.

    Attributes:
        errors: of all their samples.
    """

    found: FoundSchedule
    runs: tuple[Any, ...] = ()
    errors: tuple[float, ...] = ()


def validation_cost(fraction: float) -> float:
    """What proving schedules that take this fraction of a full run takes, in full runs."""
    return FITTED_TO + CHECKED * FITTED_TO * fraction


def count_for(recording: Recording, fraction: float, outside: float = 0.0, filling: float = 0.0) -> int:
    """How many steps may be computed for a call to take this fraction of its time.

    Args:
        recording: a fully computed run.
        fraction: wanted time over full time, in [0, 1].
        outside: seconds of the call that are not in the sampling loop.
        filling: seconds that a step takes which is filled in.
    """
    step = recording.denoising / recording.steps
    rest = sum(recording.seconds) - recording.denoising + outside
    allowed = fraction * (sum(recording.seconds) + outside) - rest - recording.steps * filling
    return min(max(round(allowed / max(step - filling, 1e-9)), 2), recording.steps)


def guess(recording: Recording, count: int, predictor: Predictor) -> FoundSchedule:
    """The schedule for one recording, nothing run."""
    surrogate = surrogate_of(recording, GUESS)
    computed = solve(surrogate, count, predictor)
    return FoundSchedule(Schedule(_positions(recording, computed)), surrogate.error(computed, predictor))


@dataclass
class Rehearsals:
    """Real runs of one call under different schedules.

    Attributes:
        reference: the fully computed run, with noise by seed 0.
        run: runs the call under a schedule (None: computed whole), into a recording, with noise by this seed.
        predictor: fills in where weights are not fitted.
        fitted: whether they are.
        criterion: what is to be small.
        on_progress: called with runs done and runs in all.
    """

    reference: Recording
    run: Callable[[Schedule | None, Recording, int], None]
    predictor: Predictor
    fitted: bool
    criterion: Criterion = LATENT
    on_progress: Callable[[int, int], None] = lambda done, total: None
    done: int = 0
    tried: dict[tuple[int, ...], Rehearsed] = field(default_factory=dict)

    def best(self, count: int) -> FoundSchedule:
        """The best schedule of `count` steps.

        Several are solved for, and neighbors of the best one are tried. The weights of the few best of all are then
        fitted to other noise too, and proven under noise that they never met. That error is the one reported.
        """
        self.nearest(count, MOVES)
        rivals = [r for r in self.tried.values() if len(r.found.schedule.computed) == count]
        rivals.sort(key=lambda r: r.found.error)
        if count >= self.reference.steps:
            return rivals[0].found
        references = self.references()
        return min((self._proven(rival, references) for rival in rivals[:CHECKED]), key=lambda f: f.error)

    def proven(self, computed: tuple[int, ...], references: list[Recording]) -> FoundSchedule:
        """One schedule, given as step numbers, fitted to all but the last of these noises, and run under the last."""
        return self._proven(self.trial(computed), references)

    def references(self) -> list[Recording]:
        """Fully computed runs under further noises; the last is for proving."""
        found = [Recording() for _ in range(FITTED_TO)]
        for seed, recording in enumerate(found, start=1):
            self.run(None, recording, seed)
            self.done += 1
        return found

    def timed(self, schedule: Schedule | None, turns: int = 2) -> tuple[Stopwatch, float]:
        """Run a schedule for its time alone, the best of some turns; and the seconds of that whole call."""
        found = []
        for _ in range(turns):
            now = clock()
            start, watch = now(), Stopwatch()
            self.run(schedule, watch, 0)
            found.append((watch, now() - start))
            self.done += 1
        return min(found, key=lambda pair: pair[1])

    def compared(self, schedule: Schedule, least: float | None = None) -> Turns:
        """Time a schedule's calls beside the original's.

        Args:
            least: see `timing.Turns`; None: the part of the steps that are computed.
        """
        if least is None:
            least = len(schedule.computed) / self.reference.steps
        return in_turns(lambda: self.timed(None, 1)[1], lambda: self.timed(schedule, 1)[1], least)

    def nearest(self, count: int, moves: int, seed: int = 0) -> FoundSchedule:
        """The best schedule under the rehearsals' own noise, after this many moves."""
        chance = random.Random(seed)
        solved = sorted(set(self.solved(count)))
        total = self.done + len(solved) + (moves if len(solved[0]) < self.reference.steps else 0)
        best = min((self.trial(computed, total) for computed in solved), key=lambda r: r.found.error)
        for _ in range(total - self.done):
            positions = tuple(p - self.reference.start for p in best.found.schedule.computed)
            rival = self.trial(tuple(neighbor(list(positions), self.reference.steps, chance)), total)
            if rival.found.error < best.found.error:
                best = rival
        return best.found

    def trial(self, computed: tuple[int, ...], total: int = 1) -> Rehearsed:
        """Run one schedule, given as step numbers, under the first noise."""
        if computed not in self.tried:
            schedule = Schedule(_positions(self.reference, computed))
            self.tried[computed] = self._fitted(Rehearsed(FoundSchedule(schedule, 0.0)), self.reference, 0)
        self.done += 1
        self.on_progress(self.done, total)
        return self.tried[computed]

    def _fitted(self, rival: Rehearsed, reference: Recording, seed: int) -> Rehearsed:
        """Run a schedule under one more noise, and fit its weights on the way."""
        computed = Schedule(rival.found.schedule.computed)
        if not self.fitted:
            return self._judged(rival, computed, Recording(), reference, seed)
        fitting = Fitting(
            reference=reference, sampler=surrogate_of(reference, 0.0), earlier=rival.runs, depth=self.depth
        )
        rival = self._judged(rival, computed, fitting, reference, seed)
        schedule = Schedule(computed.computed, {**fitting.weights, **fitting.expected})
        return replace(rival, found=replace(rival.found, schedule=schedule))

    def _judged(
        self, rival: Rehearsed, schedule: Schedule, recording: Recording, reference: Recording, seed: int
    ) -> Rehearsed:
        """Run a schedule under one more noise."""
        self.run(schedule, recording, seed)
        errors = (*rival.errors, *self.criterion.errors(recording, reference))
        return Rehearsed(FoundSchedule(schedule, self.criterion(errors)), (*rival.runs, recording), errors)

    def _proven(self, rival: Rehearsed, references: list[Recording]) -> FoundSchedule:
        """A schedule fitted to all but the last of these noises, and run under the last."""
        *more, last = references
        for seed, reference in enumerate(more, start=1):
            rival = self._fitted(rival, reference, seed)
            self.done += 1
        known = len(rival.errors)
        rival = self._judged(rival, rival.found.schedule, Recording(), last, len(references))
        self.done += 1
        schedule = rival.found.schedule
        band = band_of(surprises(run, schedule, self.predictor, self.depth) for run in rival.runs)
        return FoundSchedule(
            replace(schedule, band=band),
            rival.found.error,
            mean=mean(rival.errors[known:]),
            worst=self.criterion.worst(rival.errors),
            rehearsed=len(rival.errors),
        )

    @property
    def depth(self) -> int:
        """How many computed outputs are filled in from."""
        return max(self.predictor.depth, FITTED_DEPTH) if self.fitted else self.predictor.depth

    def solved(self, count: int) -> Iterator[tuple[int, ...]]:
        """Step numbers of so many computed steps that the reference alone suggests, nothing run."""
        for share in TRIED:
            surrogate = surrogate_of(self.reference, share)
            if self.fitted:
                yield tuple(programme(span_costs(surrogate), count))
            else:
                yield tuple(solve(surrogate, count, self.predictor))


def surrogate_of(recording: Recording, share: float) -> Surrogate:
    """The surrogate with this share of the feedback that a fixed clean image would give."""
    return Surrogate.of(recording, [share * f for f in recording.feedback])


def sensitivity_of(recording: Recording) -> tuple[float, ...]:
    """For each step how much of an error in its output is in the final sample."""
    return tuple(float(s) for s in surrogate_of(recording, GUESS).sensitivity())


def _positions(recording: Recording, computed: Any) -> tuple[int, ...]:
    return tuple(int(p) + recording.start for p in computed)
