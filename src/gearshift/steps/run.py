"""Run: one sampling run. It lives in a ContextVar, never on a module, so that threads and failed runs do not mix."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from gearshift.steps.decision import RunLog
from gearshift.steps.memory import Memory

if TYPE_CHECKING:
    from gearshift.steps.rule import Rule

_current: ContextVar[Run | None] = ContextVar("gearshift_run", default=None)


def current() -> Run | None:
    """The sampling run of this thread or task, if one is open."""
    return _current.get()


@contextmanager
def sampling(coordinates: Sequence[float] = ()) -> Iterator[Run]:
    """Mark one run of a sampling loop that gearshift cannot see; call `tick()` on what it gives after each step.

    Args:
        coordinates: where each step is on the noise schedule (log-SNR, or sigma for flow matching), for extrapolation;
            none: the step number is used.

    >>> with sampling() as run:
    ...     for t in times:
    ...         x = x + step * denoiser(x, t)
    ...         run.tick()
    """
    run = open_run(Run(marked_by_caller=True))
    run.place(list(coordinates))
    try:
        yield run
        run.complete = True
    finally:
        run.end()


def open_run(run: Run) -> Run:
    """Make this the current run; the one before it ends here."""
    before = _current.get()
    if before is not None:
        before.end()
    _current.set(run)
    return run


class Run:
    """One sampling run.

    Attributes:
        scheduler: the diffusers scheduler whose calls mark the steps; None where timesteps mark them.
        position: index of the current step in the scheduler's timesteps.
        step: steps since the first one of this run, from 0.
        branch: which call of the denoiser within this step is under way; None between calls.
        complete: its last step is done; stays False for a run that was broken off.
        sample: the latent that the denoiser was called with last: a tensor, or a list of them.
        recording: what takes in every call of the scheduler's `step`; None if nothing does.
        gear: what `Backbone.gears` said for this step; None: the layers' own arithmetic.
        guided: the unconditional pass of classifier-free guidance is computed on this step, as far as a rule told.
        share: takes the conditional half of what was computed for both halves at once; None: outputs are kept whole.
        marked_by_caller: the caller's own `tick` marks the steps.
        marked, last: timestep and latent of the current step where there is no scheduler.
        trained: gradients flow through what is kept and filled in; else nothing is filled in while they are on.
    """

    def __init__(self, scheduler: Any = None, marked_by_caller: bool = False) -> None:
        self.scheduler = scheduler
        self.marked_by_caller = marked_by_caller
        self.position = 0
        self.step = 0
        self.branch: int | None = None
        self.complete = False
        self.sample: Any = None
        self.recording: Any = None
        self.gear: Any = None
        self.guided = False
        self.share: Callable[[Any], Any] | None = None
        self.marked: float | None = None
        self.last: Any = None
        self.trained = False
        self.logs: dict[Rule, RunLog] = {}
        self.states: dict[Rule, dict[str, Any]] = {}
        self._timesteps: list[float] = []
        self._coordinates: list[float] = []
        self._calls: dict[Hashable, int] = {}
        self._memories: dict[Hashable, Memory] = {}

    def locate(self, timestep: float | None) -> bool:
        """Find the first step on the scheduler's list, at the first call of the denoiser.

        Args:
            timestep: the denoiser's argument in the scheduler's units; None if it cannot be told.

        Returns:
            Whether the timestep is on the list (True where it cannot be told).
        """
        self._timesteps = [float(t) for t in self.scheduler.timesteps]
        self._coordinates = coordinates(self.scheduler, self._timesteps)
        begin = getattr(self.scheduler, "begin_index", None)
        if begin is None and timestep is not None:
            near = [i for i, t in enumerate(self._timesteps) if close(t, timestep)]
            if not near:
                return False
            begin = min(near, key=lambda i: abs(self._timesteps[i] - timestep))
        self.position = begin or 0
        return self.is_at(timestep)

    def place(self, coordinates: list[float]) -> None:
        """Say where each step is on the noise schedule."""
        self._coordinates = coordinates

    def again(self, step: int) -> Run:
        """A run along the same steps, from one of them on, for calls that are trained on; nothing is kept in it yet."""
        run = Run(self.scheduler)
        run._timesteps, run._coordinates = self._timesteps, self._coordinates
        run.step, run.position, run.trained = step, self.position - self.step + step, True
        return run

    @property
    def located(self) -> bool:
        return bool(self._timesteps)

    @property
    def key(self) -> str:
        """Names runs that go the same way: scheduler, steps and noise schedule."""
        path = ",".join(f"{x:.3f}" for x in self._coordinates)
        start = self.position - self.step
        return f"{type(self.scheduler).__name__} {len(self._timesteps)} from {start} {zlib.crc32(path.encode()):08x}"

    @property
    def total(self) -> int:
        """Steps from the first of this run to the last, 0 if that is not known."""
        return len(self._timesteps) - (self.position - self.step) if self._timesteps else 0

    @property
    def length(self) -> int:
        """Steps of this run as the scheduler or the caller tells; 0 if nobody does."""
        return self.total or len(self._coordinates)

    @property
    def x(self) -> float:
        """Where this step is on the noise schedule: log-SNR, sigma for flow matching, or the step number."""
        return self._coordinates[self.position] if self.position < len(self._coordinates) else float(self.step)

    @property
    def time(self) -> float | None:
        """Where this step is between noise (1) and sample (0), in the model's own timesteps; None if nothing tells."""
        if self.position < len(self._timesteps):
            return self._timesteps[self.position] / getattr(self.scheduler.config, "num_train_timesteps", 1000)
        if self.marked is not None:
            return self.marked / 1000
        return 1 - self.step / self.length if self.length else None

    @property
    def done(self) -> float:
        """The part of the run that is behind, from 0 to 1; 0 if nobody tells how long it is."""
        return min(self.step / max(self.length - 1, 1), 1.0) if self.length else 0.0

    @property
    def whole(self) -> int:
        """Steps of the whole noise schedule, those before the run's first one included; 0 if nobody tells."""
        return len(self._timesteps) or len(self._coordinates)

    def belongs(self, timestep: float | None) -> bool:
        """Whether a call with this timestep is one of this run's current step; the first call finds the run's place."""
        return self.is_at(timestep) if self.located else self.locate(timestep)

    def is_at(self, timestep: float | None) -> bool:
        """Whether a timestep is the one of the current step (True where it cannot be told)."""
        if timestep is None:
            return True
        return self.position < len(self._timesteps) and close(self._timesteps[self.position], timestep)

    def tick(self, output: Any = None, sample: Any = None, following: Any = None) -> None:
        """A step is done. After the last one the run ends.

        Args:
            output, sample, following: in a loop of the caller's own what the denoiser said, guidance included, the
                sample it said it of, and the next sample: tensors of one shape. Only planning needs them.
        """
        if self.recording is not None and output is not None:
            self.recording.note(self, output, sample, (following,))
        self.step += 1
        self.position += 1
        self.branch = self.sample = self.share = None
        self.guided = False
        self._calls.clear()
        if self._timesteps and self.position >= len(self._timesteps):
            self.complete = True
            self.end()

    def end(self) -> None:
        """Free what was kept, let every rule draw its conclusion, and leave the context."""
        self._memories.clear()
        self.states.clear()
        if _current.get() is self:
            _current.set(None)
        logs, self.logs = self.logs, {}
        for rule in logs:
            rule.finish(self)
        if logs:
            next(iter(logs)).report(self, logs)

    def count(self, what: Hashable) -> int:
        """How often this was called before within the step."""
        n = self._calls.get(what, 0)
        self._calls[what] = n + 1
        return n

    def memory(self, place: Hashable, depth: int) -> Memory:
        """What this place keeps in the current branch."""
        return self.memory_of(place, self.branch, depth)

    def memory_of(self, place: Hashable, branch: int | None, depth: int) -> Memory:
        """What this place keeps in a branch."""
        memory = self._memories.get((place, branch))
        if memory is None:
            memory = self._memories[place, branch] = Memory(depth)
        return memory


def close(a: float, b: float) -> bool:
    """Whether two timesteps are one, up to the rounding of a bfloat16."""
    return math.isclose(a, b, rel_tol=2**-7, abs_tol=1e-3)


def coordinates(scheduler: Any, timesteps: list[float]) -> list[float]:
    """The coordinate in which outputs are extrapolated, for each timestep; empty if the scheduler tells nothing.

    log-SNR for diffusion schedules; sigma for flow matching, whose log-SNR is infinite at its ends.
    """
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) >= len(timesteps):
        values = [float(s) for s in sigmas[: len(timesteps)]]
        return values if is_flow(scheduler) else [_bounded(-2 * math.log(max(s, 1e-9))) for s in values]
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        return []
    snr: Callable[[float], float] = lambda a: math.log(max(a, 1e-9) / max(1 - a, 1e-9))  # noqa: E731
    return [_bounded(snr(float(alphas[min(max(int(t), 0), len(alphas) - 1)]))) for t in timesteps]


def _bounded(log_snr: float) -> float:
    """Zero-terminal-SNR schedules begin at minus infinity."""
    return min(max(log_snr, -14.0), 14.0)


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler samples by flow matching."""
    config = getattr(scheduler, "config", {})
    return "FlowMatch" in type(scheduler).__name__ or bool(
        config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    )
