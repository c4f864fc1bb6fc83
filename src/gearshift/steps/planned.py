"""Following a plan: which steps are computed, and with which weights the others are made from what is kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gearshift.core.errors import GearshiftWarning
from gearshift.steps.memory import Weights
from gearshift.steps.opened import closing
from gearshift.steps.predict import Predictor
from gearshift.steps.schedule import Schedule

__all__ = ["Planned", "Schedule"]

if TYPE_CHECKING:
    from gearshift.steps.run import Run

SHORT = 3  # steps that leave nothing to plan


@dataclass(eq=False)
class Planned:
    """A trigger and a predictor in one. A run without a schedule is computed whole, and recorded to make one.

    Attributes:
        record: makes an empty recording.
        plan: makes a schedule from a complete one.
        base: fills in where a schedule has no weights of its own.
        depth: how many computed outputs are kept.
        schedules: by `Run.key`, or by the number of steps alone.
        keep: called with key and schedule when one is new, and with None when it is dropped.
        rehearsed: schedule (None: compute everything) and recording of the runs of a rehearsal, which make no plan.
        key, reach: `Run.key` of the newest run of a rehearsal, and the position after the last on its list.
    """

    record: Callable[[], Any]
    plan: Callable[[Any], Schedule]
    base: Predictor
    depth: int
    schedules: dict[str, Schedule] = field(default_factory=dict)
    keep: Callable[[str, Schedule | None], None] = lambda key, schedule: None
    rehearsed: tuple[Schedule | None, Any] | None = None
    key: str = ""
    reach: int = 0

    @contextmanager
    def rehearsing(self, schedule: Schedule | None, recording: Any) -> Iterator[None]:
        """Runs inside of the block follow this schedule and go into this recording."""
        self.rehearsed = (schedule, recording)
        try:
            with closing():
                yield
        finally:
            self.rehearsed = None

    def reason_to_compute(self, run: Run, state: dict[str, Any]) -> str | None:
        if self.rehearsed is not None:
            self.key, self.reach = run.key, run.whole
        if not run.length:
            return "nobody said how many steps this run has"
        schedule = self._schedule(run) if self.rehearsed is None else self.rehearsed[0]
        if run.recording is None and (schedule is None or self.rehearsed is not None):
            run.recording = self.record() if self.rehearsed is None else self.rehearsed[1]
        state["schedule"] = schedule
        if schedule is None:
            return "recorded to make a plan"
        if not schedule.reaches(run.position):
            return "past the step at which the planned runs ended"
        return "planned" if run.position in schedule.computed else None

    def _schedule(self, run: Run) -> Schedule | None:
        return self.schedules.get(run.key) or self.schedules.get(str(run.length))

    def excuse(self, run: Run | None) -> str | None:
        return "it was recorded to make a plan" if run is not None and run.recording is not None else None

    def weights(self, at: Sequence[float], x: float, done: float = 0.0) -> list[float]:
        return self.base.weights(at[: self.base.depth], x)

    def weights_in(self, run: Run, state: Mapping[str, Any], at: Sequence[float], latent: float) -> Weights:
        """As `weights`, for the current step of a run; perhaps with one more for the latent.

        Args:
            state: the trigger's, within the run.
            at: coordinates of the kept outputs, newest first.
            latent: the sign that the denoiser's output has in the scheduler; 0: the latent cannot be used.
        """
        fit = getattr(run.recording, "fit", None)
        if fit is not None:
            return fit(run, at, latent)
        found = state["schedule"].weights_for(run.position, len(at), run.sample if latent else None)
        return found or self.weights(at, run.x)

    def finish(self, run: Run) -> None:
        """Make the schedule at the end of a recorded run."""
        schedule = self._schedule(run)
        if self.rehearsed is not None:
            return
        if schedule is not None and not schedule.reaches(run.position - 1):
            self.forget(run.key)  # the next run is recorded to where this one got
        elif schedule is None and run.recording is not None and run.recording.steps > SHORT:
            self.learn(run.key, self._planned(run))

    def _planned(self, run: Run) -> Schedule:
        """A schedule from a recorded run; whatever goes wrong with it, sampling goes on."""
        steps = run.recording.steps
        first = run.position - steps
        try:
            schedule = self.plan(run.recording)
        except Exception as error:
            taken = range(first, run.position, 2)
            warnings.warn(
                f"No plan could be made from this run ({type(error).__name__}: {error!s:.200}); "
                "every second step is computed in runs like it.",
                GearshiftWarning,
                stacklevel=2,
            )
            schedule = Schedule(tuple(taken))
        return schedule if steps >= run.length else replace(schedule, end=first + steps)

    def learn(self, key: str, schedule: Schedule) -> None:
        """Follow this schedule from now on."""
        self.schedules[key] = schedule
        self.keep(key, schedule)

    def forget(self, key: str) -> None:
        """Record runs of this kind anew."""
        if self.schedules.pop(key, None) is not None:
            self.keep(key, None)
