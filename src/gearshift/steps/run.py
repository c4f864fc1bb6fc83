"""Run: one sampling run, and those that are open. They live in a ContextVar, never on a module, so that threads and
failed runs do not mix, and hold nothing of the model."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from gearshift.core.errors import BadValue, quoted
from gearshift.core.log import logger
from gearshift.steps.course import Course
from gearshift.steps.decision import RunLog
from gearshift.steps.loop import Loop
from gearshift.steps.memory import Memory, RuleState

if TYPE_CHECKING:
    from gearshift.steps.control import Control
    from gearshift.steps.rule import Rule

_current: ContextVar[tuple[Run, ...] | None] = ContextVar("gearshift_runs", default=None)


def open_runs() -> list[Run]:
    """The open runs of this thread or task, the innermost last: a callback may sample with another pipeline."""
    return [run for run in _current.get() or () if not run.over]


def current() -> Run | None:
    """The innermost open run of this thread or task, if there is one."""
    runs = _current.get()
    if not runs:
        return None
    return runs[-1] if not runs[-1].over else next(reversed(open_runs()), None)


def only() -> Run | None:
    """The open run where there is just one."""
    runs = _current.get()
    return runs[0] if runs is not None and len(runs) == 1 and not runs[0].over else None


@contextmanager
def sampling(coordinates: Sequence[float] = ()) -> Iterator[Run]:
    """Mark one run of a sampling loop that gearshift cannot see; call `tick()` on what it gives after each step.

    Args:
        coordinates: where each step is on the noise schedule (log-SNR, or sigma for flow matching), for extrapolation;
            none: the step number is used.

    Raises:
        BadValue: for coordinates that are no finite numbers.

    >>> with torch.no_grad(), sampling() as run:
    ...     for t in times:
    ...         x = x + step * denoiser(x, t)
    ...         run.tick()
    """
    try:
        places = [float(place) for place in coordinates]
    except (TypeError, ValueError, OverflowError):
        places = [math.nan]
    if isinstance(coordinates, str) or not all(map(math.isfinite, places)):
        raise BadValue(f"The coordinates of a run are a list of finite numbers. Got {quoted(coordinates)} instead.")
    run = open_run(Run(marked_by_caller=True))
    run.place(places)
    try:
        yield run
        run.complete = True
    except BaseException:
        run.drop()
        raise
    run.end()


def open_run(run: Run) -> Run:
    """Make this the innermost run. Those whose loops were left end here, and so does one of the same scheduler."""
    before = [r for r in _current.get() or () if not r.over]
    for other in before:
        if run.scheduler is not None and other.scheduler is run.scheduler:
            other.end()
        elif other.is_forsaken():
            other.drop()
    _current.set((*(r for r in before if not r.over), run))
    return run


class Run(Course):
    """One sampling run. It refers to schedulers and rules weakly, so that it keeps no model alive.

    Attributes:
        loop: the frame whose loop it is.
        branch: which call of the denoiser within this step is under way; None between calls.
        complete: its last step is done; stays False for a run that was broken off.
        over: nothing is kept of it any more.
        sample: the latent that the denoiser was called with last: a tensor, or a list of them.
        recording: what takes in every call of the scheduler's `step`; None if nothing does.
        gear: what `Backbone.gears` said for this call; None: the layers' own arithmetic.
        guided: the unconditional pass of classifier-free guidance is computed on this step, as far as a rule told.
        share: takes the conditional half of what was computed for both halves at once; None: outputs are kept whole.
        pace: a stopwatch for a plan's steps; None if the plan has no time to compare with.
        guard: what compares a plan's computed steps with their predictions; None if nothing does.
        marked_by_caller: the caller's own `tick` marks the steps.
        controls: what is kept of ControlNets, by the numbers of their gates.
        begun_at: numbers of the gates at denoisers that were called in its first step.
        trained: gradients flow through what is kept and filled in; else nothing is filled in while they are on.
    """

    def __init__(self, scheduler: Any = None, marked_by_caller: bool = False, frame: FrameType | None = None) -> None:
        super().__init__(scheduler)
        self.marked_by_caller = marked_by_caller
        self.loop = Loop(frame or sys._getframe(1))
        self.branch: int | None = None
        self.complete = False
        self.over = False
        self.sample: Any = None
        self.recording: Any = None
        self.guard: Any = None
        self.pace: Any = None
        self.gear: Any = None
        self.guided = False
        self.share: Callable[[Any], Any] | None = None
        self.trained = False
        self.begun_at: set[int] = set()
        self.controls: dict[int, Control] = {}
        self._held: dict[int, RuleState] = {}  # by the rule's number, for as long as the rule is there
        self._calls: dict[Hashable, int] = {}
        self._handed: tuple[weakref.ref[Any], ...] = ()

    def replay(self, step: int) -> Run:
        """A run along the same steps, from one of them on, for calls that are trained on; nothing is kept in it yet.

        Its caller marks the steps.
        """
        run = Run(self.scheduler, marked_by_caller=True, frame=sys._getframe(1))
        run._timesteps, run._coordinates, run._places = self._timesteps, self._coordinates, self._places
        run.step, run.position, run.trained = step, self.position - self.step + step, True
        return run

    def tick(self, output: Any = None, sample: Any = None, following: Any = None) -> None:
        """A step is done. After the last one the run ends.

        Args:
            output, sample, following: in a loop of the caller's own what the denoiser said, guidance included, the
                sample it said it of, and the next sample: tensors of one shape. Only planning needs them.
        """
        if self.recording is not None and output is not None:
            self.recording.note(self, output, sample, (following,))
        if self.guard is not None and output is not None and sample is not None:
            self.guard.see(self, output, sample)
        if self.step == 0:  # the scheduler's first step has told the place by now
            for log in self.logs.values():
                log.total = self.run_steps
        self.step += 1
        self.position += 1
        self.branch = self.sample = self.share = None
        self.guided = False
        self._calls.clear()
        if self._timesteps and self.position >= len(self._timesteps) and not self.marked_by_caller:
            self.complete = True
            self.end()

    def hand_over(self, *tensors: Any) -> None:
        """The loop was handed these; when they are freed it is looked whether the loop was left."""
        freed = partial(_freed, weakref.ref(self))
        self._handed = tuple(weakref.ref(t, freed) for t in tensors if isinstance(t, torch.Tensor))

    def take_over(self, other: Run) -> None:
        """The calls of this step were taken for another run's first ones."""
        self._held, other._held = other._held, self._held
        self.loop, other.loop = other.loop, self.loop
        self.recording, other.recording = other.recording, self.recording
        self.guard, other.guard = other.guard, self.guard
        self.pace, other.pace = other.pace, self.pace
        self._calls, other._calls = other._calls, self._calls

    def is_forsaken(self) -> bool:
        """Whether its loop was left before the last step, or its scheduler is gone."""
        gone = self.scheduler is None and self.sampler != "NoneType"
        return gone or (self.loop.settled and self.loop.is_left())

    def end(self) -> None:
        """Free what was kept, let every rule draw its conclusion, and leave the context."""
        if not self.over:
            logs = self._free()
            for log in logs.values():
                log.speed = self.pace.told() if self.pace is not None else ""
            try:
                for rule in logs:
                    rule.finish(self)
                for log in logs.values():
                    logger.debug("run ended: %s", log)
                if logs:
                    next(iter(logs)).report(self, logs)
            finally:
                self.recording = None

    def drop(self) -> None:
        """Free what was kept of a run that was broken off, and leave the context; nothing is concluded from it."""
        self._free()
        self.recording = None

    def _free(self) -> dict[Rule, RunLog]:
        self.over = True
        runs = _current.get() or ()
        if self in runs:
            _current.set(tuple(r for r in runs if r is not self))
        logs = self.logs
        for held in list(self._held.values()):
            held.memories.clear()
            held.state.clear()
        self._held.clear()
        self._calls.clear()
        self.controls.clear()
        self._handed = ()
        self.branch = self.sample = self.share = self.gear = self.guard = None
        return logs

    @property
    def logs(self) -> dict[Rule, RunLog]:
        """The decisions so far, by rule."""
        found = [(held.rule(), held.log) for held in list(self._held.values())]
        return {rule: log for rule, log in found if rule is not None and log is not None}

    @property
    def called(self) -> bool:
        """A denoiser was called within this step."""
        return bool(self._calls)

    def is_just_done(self, timestep: float | None) -> bool:
        """Whether the step from this timestep is the one before, with no call of a denoiser since."""
        return not self.called and self.is_before(timestep)

    def count(self, what: Hashable) -> int:
        """How often this was called before within the step."""
        n = self._calls.get(what, 0)
        self._calls[what] = n + 1
        return n

    def held(self, rule: Rule) -> RuleState:
        """What is kept for a rule."""
        found = self._held.get(id(rule))
        if found is None:
            gone = partial(_let_go, self._held, id(rule))
            found = self._held[id(rule)] = RuleState(weakref.ref(rule, gone))
        return found

    def memory(self, rule: Rule, place: Any, depth: int, branch: int | None = None) -> Memory:
        """What a rule's place keeps in a branch, by default the current one."""
        memories, key = self.held(rule).memories, (id(place), self.branch if branch is None else branch)
        memory = memories.get(key)
        if memory is None:
            memory = memories[key] = Memory(depth)
        return memory


def _let_go(held: dict[int, RuleState], number: int, gone: Any) -> None:
    held.pop(number, None)


def _freed(reference: weakref.ref[Run], gone: Any) -> None:
    """A tensor is no more that a run's loop was handed: the loop may have been left."""
    run = reference()
    if run is None or run.over or run.loop.is_running():
        return
    if run.loop.resumes and any(handed() is not None for handed in run._handed):
        return  # a generator that waits still has its latents
    if run.loop.has_returned(sys._getframe(1)):
        run.end()
    else:
        run.drop()
