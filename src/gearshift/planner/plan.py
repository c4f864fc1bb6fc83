"""From a speed or a quality that is asked for to a schedule: how many steps, which ones, and the proof by real runs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from gearshift.planner.fit import Fitting
from gearshift.planner.recording import Recording
from gearshift.planner.solve import moved, programme, solve, span_costs
from gearshift.planner.surrogate import Surrogate
from gearshift.steps.planned import Schedule
from gearshift.steps.predict import Predictor

GUESS = 0.25  # share of the feedback that served best on trained models where only one can be taken
TRIED = (0.0, 0.25, 0.5, 1.0)
MOVES = 24
CHECKED = 5
Distance = Callable[[Recording, Recording], float]


@dataclass(frozen=True)
class Found:
    """A schedule and what is known of it.

    Attributes:
        error: relative error of the final sample: the surrogate's estimate, or the distance measured where it was run.
        seconds: of the whole call as run; 0 where it was not.
    """

    schedule: Schedule
    error: float
    seconds: float = 0.0


def apart(run: Recording, reference: Recording) -> float:
    """Relative distance of two runs' final samples: the geometric mean over the batch, so that dB are averaged."""
    assert run.sample is not None and reference.sample is not None
    exact = reference.sample.detach().flatten(1).double()
    off = (run.sample.detach().flatten(1).double() - exact).norm(dim=1) / exact.norm(dim=1).clamp_min(1e-12)
    return float(off.clamp_min(1e-12).log().mean().exp())


def count_for(recording: Recording, fraction: float, outside: float = 0.0) -> int:
    """How many steps may be computed for a call to take this fraction of its time.

    Args:
        recording: a fully computed run.
        fraction: wanted time over full time, in [0, 1].
        outside: seconds of the call that are not in the sampling loop.
    """
    step = recording.denoising / recording.steps
    rest = sum(recording.seconds) - recording.denoising + outside
    allowed = fraction * (sum(recording.seconds) + outside) - rest
    return min(max(round(allowed / step), 2), recording.steps)


def guess(recording: Recording, count: int, predictor: Predictor) -> Found:
    """The schedule for one recording, nothing run."""
    surrogate = surrogate_of(recording, GUESS)
    computed = solve(surrogate, count, predictor)
    return Found(Schedule(_positions(recording, computed)), surrogate.error(computed, predictor))


@dataclass
class Rehearsals:
    """Real runs of one call under different schedules.

    Attributes:
        reference: the fully computed run.
        run: runs the call under a schedule and into a recording.
        again: the same with other noise, for the last word.
        predictor: fills in where weights are not fitted.
        fitted: whether they are.
        distance: what is to be small, of a run and the reference.
        on_progress: called with runs done and runs in all.
    """

    reference: Recording
    run: Callable[[Schedule | None, Recording], None]
    again: Callable[[Schedule | None, Recording], None]
    predictor: Predictor
    fitted: bool
    distance: Distance = apart
    on_progress: Callable[[int, int], None] = lambda done, total: None
    done: int = 0
    tried: dict[tuple[int, ...], Found] = field(default_factory=dict)

    def best(self, count: int) -> Found:
        """The best schedule of `count` steps.

        Several are solved for, neighbors of the best one are tried, and the best of all run once more with other noise,
        where what was fitted to the noise of the rehearsals does not help. That error is the one reported.
        """
        self.nearest(count, MOVES)
        rivals = sorted((f for f in self.tried.values() if len(f.schedule.computed) == count), key=lambda f: f.error)
        if count >= self.reference.steps:
            return rivals[0]
        reference = Recording()
        self.again(None, reference)
        return min((self._checked(found, reference) for found in rivals[:CHECKED]), key=lambda f: f.error)

    def nearest(self, count: int, moves: int, seed: int = 0) -> Found:
        """The best schedule under the rehearsals' own noise, after this many moves."""
        chance = random.Random(seed)
        solved = sorted(set(self._solved(count)))
        total = self.done + len(solved) + (moves if len(solved[0]) < self.reference.steps else 0)
        found = min((self.trial(computed, total) for computed in solved), key=lambda f: f.error)
        best = next(c for c in solved if self.tried[c] is found)
        for _ in range(total - self.done):
            neighbor = tuple(moved(list(best), self.reference.steps, chance))
            rival = self.trial(neighbor, total)
            if rival.error < found.error:
                best, found = neighbor, rival
        return found

    def trial(self, computed: tuple[int, ...], total: int = 1) -> Found:
        """Run one schedule, given as step numbers."""
        if computed not in self.tried:
            recording = self._empty()
            start = time.perf_counter()
            self.run(Schedule(_positions(self.reference, computed)), recording)
            seconds = time.perf_counter() - start
            schedule = Schedule(_positions(self.reference, computed), getattr(recording, "weights", {}))
            self.tried[computed] = Found(schedule, self.distance(recording, self.reference), seconds)
        self.done += 1
        self.on_progress(self.done, total)
        return self.tried[computed]

    def _checked(self, found: Found, reference: Recording) -> Found:
        recording = Recording()
        start = time.perf_counter()
        self.again(found.schedule, recording)
        seconds = time.perf_counter() - start
        self.done += 1
        return replace(found, error=self.distance(recording, reference), seconds=seconds)

    def _empty(self) -> Recording:
        if not self.fitted:
            return Recording()
        return Fitting(reference=self.reference, sampler=surrogate_of(self.reference, 0.0))

    def _solved(self, count: int) -> Iterator[tuple[int, ...]]:
        for share in TRIED:
            surrogate = surrogate_of(self.reference, share)
            if self.fitted:
                yield tuple(programme(span_costs(surrogate), count))
            else:
                yield tuple(solve(surrogate, count, self.predictor))


def surrogate_of(recording: Recording, share: float) -> Surrogate:
    """The surrogate with this share of the feedback that a fixed clean image would give."""
    return Surrogate.of(recording, [share * f for f in recording.feedback])


def _positions(recording: Recording, computed: Any) -> tuple[int, ...]:
    return tuple(int(p) + recording.start for p in computed)
