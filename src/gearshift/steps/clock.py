"""Clock: a scheduler's own calls mark the run. `set_timesteps` opens one, `step` is a tick."""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any

from gearshift.core.change import Change
from gearshift.steps.keeping import look_after, pipeline_of
from gearshift.steps.opened import drop_abandoned, use
from gearshift.steps.run import Run, current, open_run, open_runs

CALLS = ("set_timesteps", "step")


def is_scheduler(value: Any) -> bool:
    """Whether this walks and talks like a diffusers scheduler."""
    return value is not None and hasattr(value, "timesteps") and all(hasattr(value, name) for name in CALLS)


def is_heard(scheduler: Any) -> bool:
    """Whether there is a clock on it already."""
    return isinstance(vars(scheduler).get("step"), ObservedCall)


def is_set(scheduler: Any) -> bool:
    """Whether its timesteps were set for sampling; as it is made it lists all those of training."""
    if getattr(scheduler, "num_inference_steps", None) is not None:
        return True
    listed = scheduler.timesteps
    return listed is not None and 0 < len(listed) != getattr(scheduler.config, "num_train_timesteps", 0)


class ObservedCall:
    """Stands where a scheduler's method stood, and tells the run when it was called."""

    def __init__(self, scheduler: Any, name: str) -> None:
        self.scheduler = scheduler
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.name == "step":
            return self._step(sys._getframe(1), args, kwargs)
        result, caller = self._own(*args, **kwargs), sys._getframe(1)
        pipeline = pipeline_of(caller, self.scheduler)
        if pipeline is not None:
            look_after(pipeline)
        open_run(Run(self.scheduler, frame=caller))
        return result

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(getattr(type(self.scheduler), self.name).__get__(self.scheduler))

    def _own(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(type(self.scheduler), self.name)(self.scheduler, *args, **kwargs)

    def _step(self, caller: FrameType, args: tuple, kwargs: dict[str, Any]) -> Any:
        timestep = args[1] if len(args) > 1 else kwargs.get("timestep")
        if self._is_again(timestep):
            return self._own(*args, **kwargs)
        run = self._run(timestep, caller)
        try:
            result = self._own(*args, **kwargs)
            if run is not None and (run.recording is not None or run.guard is not None):
                given = self.__signature__.bind(*args, **kwargs).arguments
                output, sample = given["model_output"], given["sample"]
                if run.guard is not None:
                    run.guard.see(run, output, sample)
                if run.recording is not None:
                    result = run.recording.note(run, output, sample, result)
        except BaseException:
            if run is not None:
                run.drop()
            raise
        if run is not None:
            following = result[0] if isinstance(result, tuple) else getattr(result, "prev_sample", None)
            run.hand_over(args[0] if args else kwargs.get("model_output"), following)
            run.tick()
        return result

    def _is_again(self, timestep: Any) -> bool:
        """Whether the step before is taken once more, with another output made of the same calls of the denoiser.

        So does the pipeline of Cosmos: the first time for the clean sample, the second for the next latents.
        """
        run = next((run for run in reversed(open_runs()) if run.scheduler is self.scheduler), None)
        return run is not None and run.is_just_done(_number(timestep, run, wait=not run.called))

    def _run(self, timestep: Any, caller: FrameType) -> Run | None:
        """The run that this is a step of; a loop that did not set the timesteps anew opens one with its first step."""
        innermost = current()
        run = next((run for run in reversed(open_runs()) if run.scheduler is self.scheduler), None)
        if run is not None and not run.goes_on_from(_number(timestep, run)):
            run.end()
            run = None
        if run is None:
            if not is_set(self.scheduler):
                return None
            run = open_run(Run(self.scheduler, frame=caller))
            run.loop.settle(caller)
            run.goes_on_from(_number(timestep, run))
        elif run is not innermost and innermost is not None:
            if not run.loop.settled and not innermost.step and not innermost.marked_by_caller:
                run.take_over(innermost)
            drop_abandoned()
            use(run)
        return run


def _number(timestep: Any, run: Run, wait: bool = False) -> float | None:
    """A timestep that can be read without a wait; the run's first one is read in any case, as schedulers do."""
    device = getattr(timestep, "device", None)
    if device is not None and device.type != "cpu" and run.step and not wait:
        return None
    try:
        return float(timestep.reshape(-1)[0] if hasattr(timestep, "reshape") else timestep)
    except (TypeError, ValueError, IndexError):
        return None


class Clock(Change):
    """The change that makes a scheduler's calls heard."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def apply(self) -> None:
        for name in CALLS:
            vars(self.scheduler)[name] = ObservedCall(self.scheduler, name)

    def revert(self) -> None:
        held = vars(self.scheduler)
        for name in CALLS:
            if isinstance(held.get(name), ObservedCall):
                del held[name]
