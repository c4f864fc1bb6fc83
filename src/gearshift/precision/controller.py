"""The gear controller: says for each step of a run which gear it is computed in, and writes down what it said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gearshift.core.change import Change
from gearshift.core.record import Record
from gearshift.precision.gears import LOW, Mix
from gearshift.precision.levels import Precision
from gearshift.precision.schedule import PrecisionSchedule
from gearshift.steps.backbone import Backbone
from gearshift.steps.decision import Action, Decision, RunLog
from gearshift.steps.opened import closing
from gearshift.steps.run import Run


@dataclass(eq=False)
class GearController:
    """What stands at a denoiser's gate as its `gears`.

    Attributes:
        name: of the algorithm, for logs.
        record: the model's record, where the log of the newest run goes.
        make: makes the schedule for a number of steps and a scheduler (None where there is none).
        own: the precision of the denoiser's own weights, which is the high gear.
        schedules: those made or found so far, by `Run.key`, or by the number of steps where they came from a profile.
        rehearsed: schedule (None: the high gear throughout) and recording of the runs of a rehearsal.
        key: `Run.key` of the newest run.
    """

    name: str
    record: Record
    make: Callable[[int, Any], PrecisionSchedule]
    own: Precision
    schedules: dict[str, PrecisionSchedule] = field(default_factory=dict)
    rehearsed: tuple[PrecisionSchedule | None, Any] | None = None
    key: str = ""

    def __call__(self, run: Run) -> Mix | None:
        """The gear of the run's current step; None is the high one."""
        if self.rehearsed is not None:
            run.recording = self.rehearsed[1]
        schedule = self._schedule(run)
        if schedule is None or run.position >= schedule.total_steps:
            return None
        change = schedule.change_at(run.position)
        precision = schedule.precisions[run.position]
        share = 1.0 if change is None else change.blend_at(run.position)
        mix = Mix(precision, precision, 0.0)
        if change is not None and share < 1:
            mix = Mix(change.from_precision, change.to_precision, share)
        self._note(run, precision)
        return None if mix.start not in LOW and mix.to not in LOW else mix

    @contextmanager
    def rehearsing(self, schedule: PrecisionSchedule | None, recording: Any) -> Iterator[None]:
        """Runs inside of the block follow this schedule and go into this recording."""
        self.rehearsed = (schedule, recording)
        try:
            with closing():
                yield
        finally:
            self.rehearsed = None

    def _schedule(self, run: Run) -> PrecisionSchedule | None:
        self.key = run.key
        if self.rehearsed is not None:
            return self.rehearsed[0]
        steps = run.schedule_steps
        if not steps:
            return None
        found = self.schedules.get(run.key) or self.schedules.get(str(steps))
        if found is None:
            found = self.schedules[str(steps)] = self.make(steps, run.scheduler)
        return found

    def _note(self, run: Run, precision: Precision) -> None:
        logs = self.record.last_run = dict(self.record.last_run or {})
        log = logs.get(self.name)
        if log is None or (run.step == 0 and not run.branch):
            log = logs[self.name] = RunLog(self.name, "layers", run.run_steps)
        gear = (precision if precision in LOW else self.own).name
        log.note(Decision(run.step, "layers", run.branch or 0, Action.COMPUTE, gear, "scheduled"))


@dataclass(eq=False)
class Engaged(Change):
    """The change that puts a gear controller at a denoiser."""

    gate: Backbone
    controller: GearController

    def apply(self) -> None:
        self.gate.gears = self.controller

    def revert(self) -> None:
        self.gate.gears = None
