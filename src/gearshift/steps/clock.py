"""Clock: a scheduler's own calls mark the run. `set_timesteps` opens one, `step` is a tick."""

from __future__ import annotations

import inspect
from typing import Any

from gearshift.steps.run import Run, current, open_run

CALLS = ("set_timesteps", "step")


def is_scheduler(value: Any) -> bool:
    """Whether this walks and talks like a diffusers scheduler."""
    return value is not None and hasattr(value, "timesteps") and all(hasattr(value, name) for name in CALLS)


def is_heard(scheduler: Any) -> bool:
    """Whether there is a clock on it already."""
    return isinstance(vars(scheduler).get("step"), Heard)


class Heard:
    """Stands where a scheduler's method stood, and tells the run when it was called."""

    def __init__(self, scheduler: Any, name: str) -> None:
        self.scheduler = scheduler
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = getattr(type(self.scheduler), self.name)(self.scheduler, *args, **kwargs)
        if self.name == "set_timesteps":
            open_run(Run(self.scheduler))
        else:
            run = current()
            if run is not None and run.scheduler is self.scheduler:
                if run.recording is not None:
                    given = self.__signature__.bind(*args, **kwargs).arguments
                    result = run.recording.note(run, given["model_output"], given["sample"], result)
                run.tick()
        return result

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(getattr(type(self.scheduler), self.name).__get__(self.scheduler))


class Clock:
    """The change that makes a scheduler's calls heard."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def lay(self) -> None:
        for name in CALLS:
            vars(self.scheduler)[name] = Heard(self.scheduler, name)

    def lift(self) -> None:
        held = vars(self.scheduler)
        for name in CALLS:
            if isinstance(held.get(name), Heard):
                del held[name]

    def why_not(self) -> None:
        return None
