"""The gate at the denoiser itself: it knows the run, finds schedulers, and tells the gates below which branch it is."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from typing import Any

from gearshift.core.errors import GearshiftWarning
from gearshift.models.denoiser import Denoiser
from gearshift.steps.clock import Clock, is_heard, is_scheduler
from gearshift.steps.gate import Gate
from gearshift.steps.run import Run, current, open_run
from gearshift.steps.trigger import as_one, moved

CLOCKS_KEPT = 8
FARTHEST = 0.7  # independent latents are 1.4 apart


class Backbone(Gate):
    """A denoiser's gate.

    Attributes:
        row: what is known of the denoiser's class.
        sign: of the output in the scheduler, 0 if that is not known.
        gears: says for a run in which arithmetic its current step is computed; None: in the layers' own.
        clocks: clocks on schedulers that were found at a call, newest last.
    """

    def __init__(self, module: Any, row: Denoiser) -> None:
        super().__init__(module)
        self.row = row
        self.sign = row.output
        self.order = [n for n in inspect.signature(type(module).forward).parameters if n != "self"]
        self.gears: Callable[[Run], Any] | None = None
        self.clocks: list[Clock] = []
        self.lost = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = self._run(args, kwargs) if self.on else None
        if run is None:
            return self.compute(*args, **kwargs)
        before = run.branch
        run.branch = run.count(self)
        run.sample = self._argument(self.row.sample, args, kwargs)
        run.gear = self.gears(run) if self.gears is not None else None
        try:
            if self.rule is None:
                return self.compute(*args, **kwargs)
            return self.rule.call(run, self, args, kwargs)
        finally:
            run.branch = before

    def leave(self) -> None:
        super().leave()
        for clock in self.clocks:
            clock.lift()
        self.clocks.clear()

    def _run(self, args: tuple, kwargs: dict[str, Any]) -> Run | None:
        """The run that this call belongs to, opened if need be."""
        run = current()
        if run is not None and (run.marked_by_caller or (run.located and self._on_device(args, kwargs))):
            return run  # reading a timestep back would make the device wait; the scheduler's ticks are trusted
        timestep = self._timestep(args, kwargs)
        if run is not None and run.scheduler is not None and run.belongs(timestep):
            return run
        found = calling_scheduler()
        if found is not None:
            run = Run(found)
            if run.locate(timestep):
                self._watch(found)
                return open_run(run)
        return self._by_timestep(timestep, self._argument(self.row.sample, args, kwargs))

    def _by_timestep(self, timestep: float | None, sample: Any) -> Run | None:
        """Without a scheduler the timestep marks the steps: a smaller one is the next step, a larger one a new run.

        So is a latent that has little to do with the one before: somebody calls the denoiser for something else.
        """
        run = current()
        if timestep is None:
            self._say_lost()
            return None
        if run is None or run.scheduler is not None or run.marked is None or timestep > run.marked:
            run = open_run(Run())
        elif timestep != run.marked:
            run = open_run(Run()) if _another(sample, run.last) else run
            if run.marked is not None:
                run.tick()
        run.marked, run.last = timestep, sample
        return run

    def _argument(self, name: str | None, args: tuple, kwargs: dict[str, Any]) -> Any:
        if name in kwargs:
            return kwargs[name]
        index = self.order.index(name) if name in self.order else len(args)
        return args[index] if index < len(args) else None

    def _on_device(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        device = getattr(self._argument(self.row.timestep, args, kwargs), "device", None)
        return device is not None and device.type != "cpu"

    def _timestep(self, args: tuple, kwargs: dict[str, Any]) -> float | None:
        """The scheduler's timestep of this call; the largest one where the call has several."""
        value = self._argument(self.row.timestep, args, kwargs)
        if value is None or not self.row.timestep_scale:
            return None
        value = value.max() if hasattr(value, "max") else value
        return (float(value) - self.row.timestep_offset) / self.row.timestep_scale

    def _say_lost(self) -> None:
        if not self.lost:
            self.lost = True
            warnings.warn(
                f"{type(self.module).__name__} was called where neither a scheduler nor a timestep tells the denoising "
                "step; such calls are computed as without gearshift.",
                GearshiftWarning,
                stacklevel=2,
            )

    def _watch(self, scheduler: Any) -> None:
        if not is_heard(scheduler):
            self.clocks.append(Clock(scheduler))
            self.clocks[-1].lay()
        for old in self.clocks[:-CLOCKS_KEPT]:
            old.lift()
        del self.clocks[:-CLOCKS_KEPT]


def _another(now: Any, before: Any) -> bool:
    """Whether two latents are too far apart to be neighbors on one trajectory, or of different shapes."""
    now, before = as_one(now), as_one(before)
    return now.shape != before.shape or moved(now, before) > FARTHEST


def calling_scheduler() -> Any:
    """The scheduler of the nearest caller that has one: a pipeline's, or a local variable of a sampling loop."""
    frame = sys._getframe(2)
    while frame is not None:
        names = frame.f_code.co_varnames
        for name in names:
            if name in ("self", "pipe", "pipeline") or "scheduler" in name:
                value = frame.f_locals.get(name)
                for candidate in (value, getattr(value, "scheduler", None)):
                    if is_scheduler(candidate):
                        return candidate
        frame = frame.f_back  # type: ignore[assignment]
    return None
