"""Schedules: the precision of each step of one run, and what it is expected to cost and to keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from gearshift.precision import timeline
from gearshift.precision.capabilities import PrecisionCapabilities
from gearshift.precision.errors import AdaptiveError, InvalidStep, InvalidTransition, QualityConstraint, ScheduleError
from gearshift.precision.levels import Precision
from gearshift.precision.noise import log_snr_of
from gearshift.precision.profile import PrecisionProfile, ProfilePreset
from gearshift.precision.transitions import PrecisionTransition, TransitionPlanner, TransitionStrategy

T = TypeVar("T")
Result: TypeAlias = T | AdaptiveError


@dataclass(frozen=True)
class ScheduleConfig:
    """What a schedule is made from. Names are taken for presets and strategies too.

    Attributes:
        custom_profile: used in the preset's place.
        capabilities: what the device supports; None: any precision, unchecked.
        min_quality: lowest mean of the steps' quality factors.
        strict_capabilities: an unsupported precision is an error; False: `best_supported` takes its place.

    Raises:
        ScheduleError: for a value that is not allowed.
        UnknownName: for a preset or a strategy that there is not.
    """

    total_steps: int = 30
    preset: ProfilePreset | str = ProfilePreset.BALANCED
    custom_profile: PrecisionProfile | None = None
    capabilities: PrecisionCapabilities | None = None
    min_quality: float = 0.90
    transition_strategy: TransitionStrategy | str = field(default_factory=TransitionStrategy)
    strict_capabilities: bool = True

    def __post_init__(self) -> None:
        steps, quality = self.total_steps, self.min_quality
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ScheduleError(f"total_steps must be an int of at least 1. Got {steps!r} instead.", steps, 1)
        if isinstance(quality, bool) or not isinstance(quality, (int, float)) or not 0 <= quality <= 1:
            raise ScheduleError(f"min_quality must be a number from 0 to 1. Got {quality!r} instead.", quality, (0, 1))
        for name, kind in (("custom_profile", PrecisionProfile), ("capabilities", PrecisionCapabilities)):
            given = getattr(self, name)
            if not (given is None or isinstance(given, kind)):
                raise ScheduleError(f"{name} must be a {kind.__name__}, or None. Got {given!r} instead.", given, kind)
        object.__setattr__(self, "preset", ProfilePreset.parse(self.preset))
        object.__setattr__(self, "transition_strategy", TransitionStrategy.parse(self.transition_strategy))


@dataclass(frozen=True)
class StepPrecision:
    """One step.

    Attributes:
        precision: what the step runs at; on a blending step, what it changes to.
        is_transition: it is one of a change's steps.
        blend_factor: share that runs at `precision`, the rest at the one before; 1 on steps that do not blend.
        memory_ratio: weights that the step reads, over those at FP16.
        quality_factor: nominal quality, the mean by shares on a blending step.
    """

    step: int
    precision: Precision
    is_transition: bool
    blend_factor: float
    memory_ratio: float
    quality_factor: float


@dataclass(frozen=True)
class PrecisionSchedule:
    """The precision of each step.

    Attributes:
        name: of the profile.
        precisions: of each step, as the profile has them.
        changes: where the precision changes, and how; none given: at once.

    Raises:
        ScheduleError: if there are no steps, or the changes are not those of the precisions.
    """

    name: str
    precisions: tuple[Precision, ...]
    changes: tuple[PrecisionTransition, ...] = ()

    def __post_init__(self) -> None:
        if not self.precisions:
            raise ScheduleError("A schedule must have at least one step. Got none.", 0, 1)
        object.__setattr__(self, "precisions", tuple(map(Precision.parse, self.precisions)))
        wanted = [(later[0], earlier[2], later[2]) for earlier, later in pairwise(self.segments)]
        changes = self.changes or [PrecisionTransition.immediate(old, new, step) for step, old, new in wanted]
        object.__setattr__(self, "changes", tuple(changes))
        if wanted != self.transitions:
            raise ScheduleError(
                f"The changes of a schedule must be those of its precisions. Got {_told(self.transitions)} "
                f"instead of {_told(wanted)}.",
                self.transitions,
                wanted,
            )
        for change, (_, end, _) in zip(self.changes, self.segments[1:], strict=True):
            if change.end_step > end:
                fault = f"it must end by step {end}, where the next one starts or the run ends."
                raise InvalidTransition(change.start_step, change.end_step, fault)

    @classmethod
    def generate(cls, config: ScheduleConfig | None = None, scheduler: Any = None) -> PrecisionSchedule:
        """The schedule of a configuration.

        Args:
            scheduler: a diffusers scheduler, whose noise levels place zones in sigma or log-SNR and step-aware changes;
                None: those of `default_log_snr`. It is left as it is.

        Raises:
            AdaptiveError: the profile does not hold, a precision is not supported, the expected quality is too low, or
                the scheduler does not make this number of steps.
        """
        config = config or ScheduleConfig()
        profile = config.custom_profile or ProfilePreset.parse(config.preset).build()
        profile.validate()
        strategy = TransitionStrategy.parse(config.transition_strategy)
        path = None
        if profile.unit != "fraction" or strategy.kind == "step_aware":
            path = log_snr_of(scheduler, config.total_steps)
            profile = profile.on_path(path)
        total = config.total_steps
        precisions = tuple(_allowed(config, profile.precision_at(i / total), i) for i in range(total))
        changes = TransitionPlanner(None, strategy, min_gap=1).plan_transitions(_segments(precisions), path)
        schedule = cls(profile.name, precisions, tuple(changes))
        if schedule.avg_quality_factor < config.min_quality:
            advice = "Choose a profile with higher precisions, or a lower min_quality."
            raise QualityConstraint(
                schedule.avg_quality_factor, config.min_quality, f"Profile {profile.name!r}", advice
            )
        return schedule

    @property
    def total_steps(self) -> int:
        return len(self.precisions)

    @property
    def steps(self) -> tuple[StepPrecision, ...]:
        """Every step."""
        return tuple(self._step(i) for i in range(self.total_steps))

    @property
    def segments(self) -> list[tuple[int, int, Precision]]:
        """(start, end, precision) of each run of steps at one precision; the end is not part of it."""
        return _segments(self.precisions)

    @property
    def transitions(self) -> list[tuple[int, Precision, Precision]]:
        """(first step, from, to) of each change."""
        return [(c.start_step, c.from_precision, c.to_precision) for c in self.changes]

    @property
    def avg_memory_ratio(self) -> float:
        """Mean of the steps' memory ratios."""
        return sum(s.memory_ratio for s in self.steps) / self.total_steps

    @property
    def peak_memory_ratio(self) -> float:
        """Largest of the steps' memory ratios."""
        return max(s.memory_ratio for s in self.steps)

    @property
    def avg_quality_factor(self) -> float:
        """Mean of the steps' quality factors."""
        return sum(s.quality_factor for s in self.steps) / self.total_steps

    @property
    def estimated_speedup(self) -> float:
        """Time of the run at FP16 over its time in this schedule, by nominal speeds."""
        return self.total_steps / sum(self._mean(i, lambda p: 1 / p.nominal_speedup) for i in range(self.total_steps))

    def precision_at(self, step: int) -> Precision:
        """The precision of a step.

        Raises:
            InvalidStep: outside the run.
        """
        return self.step_info(step).precision

    def step_info(self, step: int) -> StepPrecision:
        """One step.

        Raises:
            InvalidStep: outside the run.
        """
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < self.total_steps:
            raise InvalidStep(step, self.total_steps)
        return self._step(step)

    def change_at(self, step: int) -> PrecisionTransition | None:
        """The change that a step is part of."""
        return next((c for c in self.changes if c.contains_step(step)), None)

    def next_transition(self, after: int) -> tuple[int, Precision, Precision] | None:
        """The first change that starts after a step; None if there is none."""
        return next((t for t in self.transitions if t[0] > after), None)

    def steps_at_precision(self, precision: Precision | str) -> list[int]:
        """The steps of this precision."""
        wanted = Precision.parse(precision)
        return [i for i, p in enumerate(self.precisions) if p is wanted]

    def precision_distribution(self) -> dict[Precision, float]:
        """Share of the steps at each precision in use, lowest precision first."""
        return {p: self.precisions.count(p) / self.total_steps for p in sorted(set(self.precisions))}

    def resampled(self, steps: int) -> PrecisionSchedule:
        """The same precisions over the same parts of a run of another number of steps; changes are at once."""
        taken = [self.precisions[i * self.total_steps // steps] for i in range(steps)]
        return PrecisionSchedule(self.name, tuple(taken))

    def format_timeline(self) -> str:
        """The schedule as a terminal shows it."""
        return timeline.format_timeline(self)

    def __str__(self) -> str:
        return self.format_timeline()

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure, written to a file if a path is given. Needs matplotlib."""
        return timeline.plot(self, path)

    def to_json(self) -> str:
        """The schedule as JSON; `from_json` gives back an equal one."""
        return timeline.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> PrecisionSchedule:
        """Read what `to_json` wrote.

        Raises:
            ScheduleError: if it is something else, or was altered into what is no schedule.
        """
        return timeline.from_json(text, cls)

    def _step(self, step: int) -> StepPrecision:
        change = self.change_at(step)
        return StepPrecision(
            step=step,
            precision=self.precisions[step],
            is_transition=change is not None,
            blend_factor=1.0 if change is None else change.blend_at(step),
            memory_ratio=self._mean(step, Precision.memory_ratio),
            quality_factor=self._mean(step, lambda p: p.nominal_quality),
        )

    def _mean(self, step: int, value: Callable[[Precision], float]) -> float:
        """The mean of a value by shares of a step."""
        change = self.change_at(step)
        if change is None:
            return value(self.precisions[step])
        share = change.blend_at(step)
        return (1 - share) * value(change.from_precision) + share * value(change.to_precision)


def quick_schedule(preset: ProfilePreset | str = ProfilePreset.BALANCED, steps: int = 30) -> PrecisionSchedule:
    """The schedule of a preset.

    >>> quick_schedule("balanced", 50).precision_at(10)
    <Precision.INT8: 'int8'>
    """
    return PrecisionSchedule.generate(ScheduleConfig(total_steps=steps, preset=preset))


def try_generate(config: ScheduleConfig, scheduler: Any = None) -> Result[PrecisionSchedule]:
    """`PrecisionSchedule.generate`, with the error given back instead of raised: for searches over many schedules."""
    try:
        return PrecisionSchedule.generate(config, scheduler)
    except AdaptiveError as error:
        return error


def _allowed(config: ScheduleConfig, precision: Precision, step: int) -> Precision:
    device = config.capabilities
    if device is None:
        return precision
    return device.require(precision, step) if config.strict_capabilities else device.best_supported(precision)


def _segments(precisions: Sequence[Precision]) -> list[tuple[int, int, Precision]]:
    grouped = ([*steps] for _, steps in groupby(range(len(precisions)), key=precisions.__getitem__))
    return [(steps[0], steps[-1] + 1, precisions[steps[0]]) for steps in grouped]


def _told(changes: Sequence[tuple[int, Precision, Precision]]) -> str:
    return ", ".join(f"{old} to {new} at step {step}" for step, old, new in changes) or "none"
