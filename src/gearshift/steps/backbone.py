"""The gate at the denoiser itself: it knows the run, finds schedulers, and tells the gates below which branch it is."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch

from gearshift.core.errors import GearshiftWarning
from gearshift.core.progress import progress_line
from gearshift.models.denoiser import Denoiser
from gearshift.steps.clock import Clock, is_heard, is_scheduler, is_set
from gearshift.steps.control import note_controls, with_controls
from gearshift.steps.gate import Gate
from gearshift.steps.loop import callers
from gearshift.steps.opened import drop_abandoned, use
from gearshift.steps.rule import Rule
from gearshift.steps.run import Run, only, open_run, open_runs
from gearshift.steps.times import TimestepMapping, Way

CLOCKS_KEPT = 8
MOST_BRANCHES = 16  # calls within a step; of more nothing is kept
PROBES = 3  # calls outside of any run that nothing is said about


class Backbone(Gate):
    """A denoiser's gate.

    Attributes:
        row: what is known of the denoiser's class.
        sign: of the output in the scheduler, 0 if that is not known.
        gears: says for a run in which arithmetic its current step is computed; None: in the layers' own.
        clocks: clocks on schedulers that were found at a call, newest last.
        reading: how its time argument is made of the scheduler's timesteps.
        direct: calls in a row that belonged to no run.
        rules: those at places inside, which every pass is to come to.
        idle: those of them that a warning was given of, as no call got to their places.
    """

    def __init__(self, module: Any, row: Denoiser) -> None:
        super().__init__(module)
        self.row = row
        self.sign = row.output
        self.order = [n for n in inspect.signature(type(module).forward).parameters if n != "self"]
        self.gears: Callable[[Run], Any] | None = None
        self.clocks: list[Clock] = []
        known = row.timestep is not None and bool(row.timestep_scale)
        self.reading = TimestepMapping(Way("timestep", row.timestep_scale, row.timestep_offset) if known else None)
        self.direct = 0
        self.rules: list[Rule] = []
        self.idle: list[Rule] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = self._run(sys._getframe(1), args, kwargs) if self.on else None
        if run is None:
            return self._outside(args, kwargs)
        before, branch = run.branch, run.count(self)
        if branch >= MOST_BRANCHES:
            return self.compute(*args, **kwargs)
        if self.rules and branch == 0 and run.step < 2:
            self._look_for_idle(run)
        run.branch = branch
        run.sample = self._argument(self.row.sample, args, kwargs)
        note_controls(run, self, args, kwargs)
        try:
            run.gear = self.gears(run) if self.gears is not None else None
            if self.rule is None:
                return self.compute(*args, **kwargs)
            return self.rule.call(run, self, args, kwargs)
        except BaseException:
            run.drop()
            raise
        finally:
            run.branch, run.gear = before, None

    def _look_for_idle(self, run: Run) -> None:
        """Warn of rules that the first step never came to: their places are not called, or past their gates."""
        if run.step == 0:
            run.begun_at.add(id(self))
        for rule in self.rules if run.step and id(self) in run.begun_at else ():
            if rule not in self.idle and rule not in run.logs:
                self.idle.append(rule)
                warnings.warn(
                    f"{rule.name} has no effect on {type(self.module).__name__}: the first step of this run called "
                    f"none of the places where it works (site: {rule.site}). Use an algorithm that fills in the whole "
                    "denoiser's output instead.",
                    GearshiftWarning,
                    stacklevel=2,
                )

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """What stands behind the gate, given what ControlNets put out for this call."""
        args, kwargs = with_controls(args, kwargs)
        return super().compute(*args, **kwargs)

    def detach(self) -> None:
        super().detach()
        for clock in self.clocks:
            clock.revert()
        self.clocks.clear()
        drop_abandoned()

    def _run(self, frame: FrameType, args: tuple, kwargs: dict[str, Any]) -> Run | None:
        """The run that this call belongs to: the nearest one among the callers whose step this can be."""
        run = only()
        if run is not None and run.loop.settled:  # nearly always
            depth = run.loop.depth(frame)
            if depth is not None and run.loop.usual(depth) and self._is_at(run, args, kwargs):
                self.direct = 0
                return run
        for depth, run in _calling(frame):
            if not run.loop.usual(depth):
                found = self._found(frame, depth, args, kwargs)
                if found is not None:
                    return found
            if not self._is_at(run, args, kwargs):
                continue
            if not run.loop.settled:
                run.loop.settle(frame)
            use(run)
            self.direct = 0
            return run
        return self._found(frame, sys.maxsize, args, kwargs)

    def _is_at(self, run: Run, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether this can be a call of the run's current step."""
        return run.marked_by_caller or run.is_at(self._values(args, kwargs, not run.located), self.reading)

    def _found(self, frame: FrameType, depth: int, args: tuple, kwargs: dict[str, Any]) -> Run | None:
        """A run of a scheduler that was not heard so far, found in one of so many callers.

        It is heard from now on. It opens a run here if it is set, and lists this call's timestep.
        """
        found = calling_scheduler(frame, depth)
        if found is None:
            return None
        scheduler, where = found
        if is_heard(scheduler):
            return None
        self._listen(scheduler)
        run = Run(scheduler, frame=where)
        if not is_set(scheduler) or not run.start(self._values(args, kwargs, True), self.reading):
            return None
        run.loop.settle(where)
        return open_run(run)

    def _outside(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A call that belongs to no run is computed; a loop of such calls was perhaps meant to be one."""
        if self.rule is not None and not torch.is_grad_enabled():
            self.direct += 1
            if self.direct == PROBES + 1:
                name = type(self.module).__name__
                progress_line(
                    f"{name} was called {self.direct} times outside of a sampling run; so called, it computes in full. "
                    "In a loop of your own mark the steps with gearshift.sampling."
                )
        return self.compute(*args, **kwargs)

    def _argument(self, name: str | None, args: tuple, kwargs: dict[str, Any]) -> Any:
        if name in kwargs:
            return kwargs[name]
        index = self.order.index(name) if name in self.order else len(args)
        return args[index] if index < len(args) else None

    def _values(self, args: tuple, kwargs: dict[str, Any], wait: bool) -> tuple[float, ...]:
        """The time argument, its largest and its least element where there are several; none if it cannot be read.

        Args:
            wait: read it back from a device too, which makes that wait.
        """
        value = self._argument(self.row.timestep, args, kwargs)
        if isinstance(value, torch.Tensor):
            if not value.numel() or (value.device.type != "cpu" and not wait):
                return ()
            return (float(value),) if value.numel() == 1 else (float(value.max()), float(value.min()))
        return (float(value),) if isinstance(value, (int, float)) else ()

    def _listen(self, scheduler: Any) -> None:
        self.clocks.append(Clock(scheduler))
        self.clocks[-1].apply()
        for old in self.clocks[:-CLOCKS_KEPT]:
            old.revert()
        del self.clocks[:-CLOCKS_KEPT]


def _calling(frame: FrameType) -> Iterator[tuple[int, Run]]:
    """The open runs from whose loops this call may be made, the innermost loop first; those that were left are dropped.

    A loop that is known goes before one whose first call this would be.
    """
    runs = open_runs()
    found = []
    for age, run in enumerate(reversed(runs)):
        depth = run.loop.depth(frame)
        if depth is not None:
            found.append((depth, not run.loop.settled, age, run))
        elif run.is_forsaken():
            run.drop()
    for depth, *_, run in found if len(found) == 1 else sorted(found, key=lambda f: f[:3]):
        yield depth, run


def calling_scheduler(frame: FrameType, depth: int = sys.maxsize) -> tuple[Any, FrameType] | None:
    """The scheduler of the nearest of so many callers that has one, and that caller.

    It is a pipeline's, or a variable of a sampling loop.
    """
    for near, caller in enumerate(callers(frame)):
        if near >= depth:
            break
        code = caller.f_code
        names = caller.f_locals if code.co_name == "<module>" else (*code.co_varnames, *code.co_freevars)
        for name in [n for n in names if n in ("self", "pipe", "pipeline") or "scheduler" in n]:
            value = caller.f_locals.get(name)
            for candidate in (value, getattr(value, "scheduler", None)):
                if is_scheduler(candidate):
                    return candidate, caller
    return None
