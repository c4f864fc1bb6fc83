"""Schedules: which steps of a run are computed, how the others are filled in, and the rule that follows a schedule."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gearshift.core.boundary import Misfit
from gearshift.core.errors import GearshiftWarning
from gearshift.core.plain import dict_of, either, fields, list_of, number, text, whole
from gearshift.steps.bands import groups
from gearshift.steps.guard import Guard
from gearshift.steps.memory import Memory, Weights
from gearshift.steps.opened import closing
from gearshift.steps.pace import Pace
from gearshift.steps.predict import Predictor
from gearshift.steps.trigger import Trigger

if TYPE_CHECKING:
    from gearshift.steps.run import Run

SHORT = 3  # steps that leave nothing to plan
LAST = 100_000  # no run has more steps
SHAPE = fields(
    {
        "computed": list_of(whole(0, LAST), least=1, most=LAST),
        "weights": dict_of(
            list_of(either(list, list_of(number(), least=1, most=1000), number()), most=100),
            key=text(r"0|[1-9][0-9]{0,5}", "a position"),
        ),
    },
    {
        "end": whole(1, LAST),
        "band": dict_of(number(0), key=text(r"0|[1-9][0-9]{0,5}", "a position")),
        "timing": list_of(number(0, 1e6), least=2, most=2),
    },
)


@dataclass(frozen=True)
class Schedule:
    """The steps of a run that are computed, and weights for the others.

    Attributes:
        computed: positions, the first step's among them.
        weights: position -> weights of the last computed outputs, newest first, and then perhaps that of the latent; a
            position that is not there is filled in by the predictor. A weight is a number, or has one for each group
            of `bands.groups`. At a computed position they predict what the scheduler gets, for the guard.
        end: the position after the last one that it is for, where runs were seen to end before the scheduler's list
            does; steps from there on are computed. None: it is for the whole list.
        band: computed position -> the largest usual error of its prediction, as seen while planning, over the length of
            what the scheduler got; empty: runs are not guarded.
        timing: the part of the original's time that was measured, and the part of that call outside of its sampling
            loop; None: it was not measured.
    """

    computed: tuple[int, ...]
    weights: Mapping[int, Weights] = field(default_factory=dict)
    end: int | None = None
    band: Mapping[int, float] = field(default_factory=dict)
    timing: tuple[float, float] | None = None

    def as_data(self) -> dict[str, Any]:
        """As JSON keeps it."""
        weights = {str(p): [_listed(w) for w in ws] for p, ws in self.weights.items()}
        part: dict[str, Any] = {} if self.end is None else {"end": self.end}
        if self.band:
            part["band"] = {str(p): error for p, error in self.band.items()}
        if self.timing:
            part["timing"] = list(self.timing)
        return {"computed": list(self.computed), "weights": weights, **part}

    @staticmethod
    def of(data: Mapping[str, Any]) -> Schedule:
        """From what `as_data` gave.

        Raises:
            Misfit: for anything else.
        """
        read = SHAPE(data, "schedule")
        computed = tuple(read["computed"])
        if any(b <= a for a, b in pairwise(computed)):
            raise Misfit(f"schedule.computed must rise from {computed[0]}")
        weights: dict[int, Any] = {int(p): tuple(_read(w) for w in ws) for p, ws in read["weights"].items()}
        if any(len({0 if isinstance(w, float) else len(w) for w in ws}) > 1 for ws in weights.values()):
            raise Misfit("schedule.weights must be numbers, or lists of one length, at each position")
        band = {int(p): float(error) for p, error in read.get("band", {}).items()}
        fraction, outside = read.get("timing", (0.0, 0.0))
        timing = (float(fraction), float(outside)) if fraction > 0 and outside < 1 else None
        return Schedule(computed, weights, read.get("end"), band, timing)

    def reaches(self, position: int) -> bool:
        """Whether it is for this position."""
        return self.end is None or position < self.end

    def weights_for(self, position: int, kept: int, latent: Any) -> Weights | None:
        """The weights of a position if they are for so many kept outputs and, unless it is None, this latent."""
        found: Any = self.weights.get(position)
        if not found:
            return None
        if isinstance(found[0], float):
            fits = len(found) == kept or (latent is not None and len(found) == kept + 1)
        else:
            fits = latent is not None and len(found) == kept + 1 and len(found[0]) == groups(latent.shape)
        return found if fits else None


def _listed(weight: Any) -> Any:
    return weight if isinstance(weight, float) else list(weight)


def _read(weight: Any) -> float | tuple[float, ...]:
    return tuple(float(w) for w in weight) if isinstance(weight, list) else float(weight)


@dataclass(eq=False)
class Planned(Trigger, Predictor):
    """A trigger and a predictor in one. A run without a schedule is computed whole, and recorded to make one.

    Attributes:
        record: makes an empty recording.
        plan: makes a schedule from a complete one.
        base: fills in where a schedule has no weights of its own.
        depth: how many computed outputs are kept.
        schedules: by `Run.key`, or by the number of steps alone.
        guarded: runs are guarded where a schedule says what errors are usual.
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
    guarded: bool = True
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
            self.key, self.reach = run.key, run.schedule_steps
        if not run.known_steps:
            return "nobody said how many steps this run has"
        schedule = self._schedule(run) if self.rehearsed is None else self.rehearsed[0]
        if run.recording is None and (schedule is None or self.rehearsed is not None):
            run.recording = self.record() if self.rehearsed is None else self.rehearsed[1]
        state["schedule"] = schedule
        if schedule is None:
            return "recorded to make a plan"
        if not schedule.reaches(run.position):
            return "past the step at which the planned runs ended"
        reason = self._guarded(run, schedule, state) or ("planned" if run.position in schedule.computed else None)
        if run.pace is not None:
            run.pace.begin(reason is not None)
        return reason

    def _guarded(self, run: Run, schedule: Schedule, state: dict[str, Any]) -> str | None:
        """Why the run's guard has a step computed that the schedule fills in; None if it does not."""
        if run.guard is None and run.step == 0 and self.guarded and self.rehearsed is None:
            run.guard = Guard.of(schedule, self.base, self.depth)
        if run.step == 0 and self.rehearsed is None and schedule.timing is not None:
            run.pace = Pace(*schedule.timing)
        reason = None if run.guard is None else run.guard.begin(run.position)
        state["extra"] = reason is not None
        return reason

    def keeps(self, state: dict[str, Any]) -> bool:
        """Fitted weights are for the outputs of the schedule's own steps."""
        return not (state.get("extra") and state["schedule"].weights)

    def _schedule(self, run: Run) -> Schedule | None:
        return self.schedules.get(run.key) or self.schedules.get(str(run.known_steps))

    def expected_reason(self, run: Run | None) -> str | None:
        return "it was recorded to make a plan" if run is not None and run.recording is not None else None

    def weights(self, at: Sequence[float], x: float, progress: float = 0.0) -> list[float]:
        return self.base.weights(at[: self.base.depth], x)

    def predict(self, memory: Memory, run: Run, state: dict[str, Any], sign: float = 0.0) -> Any:
        latent = run.sample if memory.like(run.sample) else None
        return memory.fill(self._weights(run, state, memory.at, 0.0 if latent is None else sign), latent)

    def _weights(self, run: Run, state: Mapping[str, Any], at: Sequence[float], sign: float) -> Weights:
        """As `weights`, for the current step of a run; perhaps with one more for the latent.

        Args:
            at: coordinates of the kept outputs, newest first.
            sign: that the denoiser's output has in the scheduler; 0: the latent cannot be used.
        """
        fit = getattr(run.recording, "fit", None)
        if fit is not None:
            return fit(run, at, sign)
        found = state["schedule"].weights_for(run.position, len(at), run.sample if sign else None)
        return found or self.weights(at, run.noise_coordinate)

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
        return schedule if steps >= run.known_steps else replace(schedule, end=first + steps)

    def learn(self, key: str, schedule: Schedule) -> None:
        """Follow this schedule from now on."""
        self.schedules[key] = schedule
        self.keep(key, schedule)

    def forget(self, key: str) -> None:
        """Record runs of this kind anew."""
        if self.schedules.pop(key, None) is not None:
            self.keep(key, None)
