"""From a speed that is asked for to a schedule: how many steps that is, which ones, and the proof by running them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gearshift.planner.recording import Recording
from gearshift.planner.solve import solve
from gearshift.planner.surrogate import Surrogate
from gearshift.steps.predict import Predictor

GUESS = 0.25  # share of the feedback that served best on trained models where only one can be taken
TRIED = (0.0, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Found:
    """A schedule and what is known of it.

    Attributes:
        computed: positions of the computed steps.
        error: relative error of the final sample: the surrogate's estimate, or measured where it was run.
        seconds: of the whole call as run; 0 where it was not.
    """

    computed: list[int]
    error: float
    seconds: float = 0.0


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
    surrogate = _surrogate(recording, GUESS)
    computed = solve(surrogate, count, predictor)
    return Found(computed, surrogate.error(computed, predictor))


def prove(
    recording: Recording,
    count: int,
    predictor: Predictor,
    run: Callable[[list[int]], Recording],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Found:
    """The best schedule of several, each for another share of the feedback, by running them.

    Args:
        recording: the fully computed run.
        run: runs the same call with only these steps computed, and records it.
        on_progress: called with runs done and runs in all.
    """
    schedules = {tuple(solve(_surrogate(recording, share), count, predictor)) for share in TRIED}
    found = []
    for done, computed in enumerate(sorted(schedules)):
        start = time.perf_counter()
        final = run(list(computed)).samples[-1]
        seconds = time.perf_counter() - start
        error = np.linalg.norm(final - recording.samples[-1]) / np.linalg.norm(recording.samples[-1])
        found.append(Found(list(computed), float(error), seconds))
        on_progress(done + 1, len(schedules))
    return min(found, key=lambda f: f.error)


def _surrogate(recording: Recording, share: float) -> Surrogate:
    return Surrogate.of(recording, [share * f for f in recording.feedback])
