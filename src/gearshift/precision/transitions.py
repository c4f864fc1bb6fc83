"""Changes of precision: at once, or blended over a few steps; and the plan of all of them in one run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

from gearshift.core.errors import BadValue, UnknownName, quoted
from gearshift.precision.errors import InvalidTransition, MemoryConstraint, ScheduleError
from gearshift.precision.levels import Precision
from gearshift.precision.noise import default_log_snr

_KINDS = ("immediate", "gradual", "step_aware")
_WINDOW = 4  # steps of a blend, where none are given


@dataclass(frozen=True)
class TransitionStrategy:
    """How one precision gives way to the next.

    Attributes:
        kind: 'immediate'; 'gradual', in equal shares; or 'step_aware', a smooth-step 3u^2 - 2u^3 where u is the part of
            the change in log-SNR that is done.
        steps: steps of the blend; 1 for an immediate change.
    """

    kind: str = "immediate"
    steps: int = 1

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise UnknownName("transition strategy", self.kind, _KINDS)
        if not _whole(self.steps, 1) or (self.kind == "immediate" and self.steps != 1):
            allowed = "1" if self.kind == "immediate" else "an int of at least 1"
            raise BadValue(
                f"The steps of a change of kind {self.kind!r} must be {allowed}. Got {quoted(self.steps)} instead."
            )

    @classmethod
    def immediate(cls) -> TransitionStrategy:
        """From one step to the next."""
        return cls()

    @classmethod
    def gradual(cls, steps: int = _WINDOW) -> TransitionStrategy:
        """In equal shares over this many steps."""
        return cls("gradual", steps)

    @classmethod
    def step_aware(cls, steps: int = _WINDOW) -> TransitionStrategy:
        """Over this many steps, as fast as the noise goes."""
        return cls("step_aware", steps)

    @classmethod
    def parse(cls, text: object) -> TransitionStrategy:
        """The strategy that 'immediate', 'gradual', 'gradual(3)' or 'step_aware(5)' stands for.

        Raises:
            UnknownName: for another name.
            BadValue: for a number of steps that it cannot have.
        """
        if isinstance(text, cls):
            return text
        found = re.fullmatch(r"(\w+?)(?:\((\d+)\))?", str(text).strip())
        kind = found[1] if found else str(text)
        if found is None or found[2] is None:
            return cls(kind, 1 if kind not in _KINDS[1:] else _WINDOW)
        return cls(kind, int(found[2]))

    def __str__(self) -> str:
        return self.kind if self.kind == "immediate" else f"{self.kind}({self.steps})"


@dataclass(frozen=True)
class PrecisionTransition:
    """One change of precision, over steps [start_step, end_step).

    Attributes:
        blend_factors: for each of these steps the share that already runs at the new precision, from 0 to 1, rising;
            (1.0,) for an immediate change.

    Raises:
        InvalidTransition: see `validate`.
    """

    from_precision: Precision
    to_precision: Precision
    start_step: int
    end_step: int
    strategy: TransitionStrategy = field(default_factory=TransitionStrategy)
    blend_factors: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "from_precision", Precision.parse(self.from_precision))
        object.__setattr__(self, "to_precision", Precision.parse(self.to_precision))
        object.__setattr__(self, "strategy", TransitionStrategy.parse(self.strategy))
        object.__setattr__(self, "blend_factors", tuple(self.blend_factors))
        self.validate()

    @classmethod
    def immediate(cls, from_precision: Precision, to_precision: Precision, step: int) -> PrecisionTransition:
        """The new precision from `step` on."""
        return cls(from_precision, to_precision, step, _after(step, 1))

    @classmethod
    def gradual(
        cls, from_precision: Precision, to_precision: Precision, start_step: int, steps: int = _WINDOW
    ) -> PrecisionTransition:
        """In equal shares: 1/(steps+1), 2/(steps+1), ...; all of it at the new precision after `steps` steps."""
        strategy = TransitionStrategy.gradual(steps)
        factors = tuple((i + 1) / (steps + 1) for i in range(steps))
        return cls(from_precision, to_precision, start_step, _after(start_step, steps), strategy, factors)

    @classmethod
    def step_aware(
        cls,
        from_precision: Precision,
        to_precision: Precision,
        start_step: int,
        log_snr: Sequence[float],
        steps: int = _WINDOW,
    ) -> PrecisionTransition:
        """A smooth-step in log-SNR.

        Args:
            log_snr: of every step of the run; the blend is 0 at the step before the first, 1 at the one after the last.
        """
        strategy, end = TransitionStrategy.step_aware(steps), _after(start_step, steps)
        if not _whole(start_step, 1) or start_step > len(log_snr) - steps:
            fault = f"it must lie in the {len(log_snr)} steps whose log-SNR is given, after the first of them."
            raise InvalidTransition(start_step, end, fault)
        factors = _smooth(log_snr, start_step, steps)
        return cls(from_precision, to_precision, start_step, end, strategy, factors)

    def validate(self) -> None:
        """Check it.

        Raises:
            InvalidTransition: if it changes nothing, has no steps, or its factors are not one for each step, from 0 to
                1 and never falling.
        """
        start, end, factors = self.start_step, self.end_step, self.blend_factors
        fault = None
        if self.from_precision is self.to_precision:
            fault = f"it goes from {self.from_precision} to the same; leave it out."
        elif not (_whole(start) and _whole(end) and start < end):
            fault = "its steps must be ints from 0 on, and its end after its start."
        elif not len(factors) == self.strategy.steps == end - start:
            fault = f"its {end - start} steps, its strategy's and its blend factors ({len(factors)}) must be as many."
        elif not all(_is_share(b) for b in factors) or any(b < a for a, b in pairwise(factors)):
            fault = f"its blend factors must rise from 0 to 1. Got {list(factors)} instead."
        elif self.strategy.kind == "immediate" and factors != (1.0,):
            fault = f"an immediate one has one step, wholly at the new precision. Got {list(factors)} instead."
        if fault:
            raise InvalidTransition(start, end, fault)

    def contains_step(self, step: int) -> bool:
        """Whether a step is one of its steps."""
        return self.start_step <= step < self.end_step

    def blend_at(self, step: int) -> float:
        """Share at the new precision on a step: 0 before the change, 1 after it."""
        if step < self.start_step:
            return 0.0
        return 1.0 if step >= self.end_step else self.blend_factors[step - self.start_step]

    def effective_precision(self, step: int) -> Precision:
        """The precision that at least half of a step runs at."""
        return self.to_precision if self.blend_at(step) >= 0.5 else self.from_precision

    def peak_memory_ratio(self, one_copy: bool = False) -> float:
        """Weights on the device during the change, over those at FP16.

        An immediate change needs the larger of both precisions' weights, a blended one both at once: their sum, or
        the larger one if there is `one_copy`, where the lower precision's bits are part of the higher's.
        """
        both = self.from_precision.memory_ratio(), self.to_precision.memory_ratio()
        blends = any(0 < b < 1 for b in self.blend_factors)
        return sum(both) if blends and not one_copy else max(both)


def _smooth(log_snr: Sequence[float], start: int, steps: int) -> tuple[float, ...]:
    """Smooth-step blend factors; in step numbers where log-SNR does not rise."""
    end = start + steps
    last = log_snr[end] if end < len(log_snr) else 2 * log_snr[end - 1] - log_snr[end - 2]
    first = log_snr[start - 1]
    parts = [(log_snr[i] - first) / (last - first) for i in range(start, end)] if last > first else []
    bounded = [min(max(u, 0.0), 1.0) for u in parts or [(i + 1) / (steps + 1) for i in range(steps)]]
    return tuple(accumulate((u * u * (3 - 2 * u) for u in bounded), max))


@dataclass
class TransitionPlanner:
    """Plans all changes of a run.

    Attributes:
        memory_mb: device memory for the denoiser's weights, MiB; None: no limit.
        preferred_strategy: of every change that has room for it.
        min_gap: fewest steps from the start of one change to the start of the next.
        model_mb: the weights at FP16, MiB; `optimize_for_memory` needs it.
        one_copy: see `PrecisionTransition.peak_memory_ratio`.
    """

    memory_mb: float | None = None
    preferred_strategy: TransitionStrategy = field(default_factory=TransitionStrategy)
    min_gap: int = 3
    model_mb: float | None = None
    one_copy: bool = False

    def __post_init__(self) -> None:
        self.preferred_strategy = TransitionStrategy.parse(self.preferred_strategy)
        if not _whole(self.min_gap, 1):
            raise BadValue(f"min_gap must be an int of at least 1. Got {quoted(self.min_gap)} instead.")

    def plan_transitions(
        self, segments: Iterable[tuple[int, int, Precision]], log_snr: Sequence[float] | None = None
    ) -> list[PrecisionTransition]:
        """The changes between segments [start, end) of a run, each at the start of the later one.

        A blend that is longer than its segment is cut to it.

        Args:
            segments: (start, end, precision), in order and without gaps from step 0 on.
            log_snr: of every step, for a step-aware change; None: the default noise schedule of `default_log_snr`.

        Raises:
            InvalidTransition: for a gap, an overlap or an empty segment, or changes nearer than `min_gap` steps.
        """
        merged = _merge(segments)
        plan: list[PrecisionTransition] = []
        for (_, _, before), (start, end, after) in pairwise(merged):
            if plan and start - plan[-1].start_step < self.min_gap:
                near = f"the change before it starts only {start - plan[-1].start_step} steps earlier"
                fault = f"{near}; keep {self.min_gap} between them, or lower min_gap."
                raise InvalidTransition(start, min(start + self.preferred_strategy.steps, end), fault)
            plan.append(self._change(before, after, start, end, merged[-1][1], log_snr))
        return plan

    def _change(
        self, old: Precision, new: Precision, start: int, end: int, total: int, log_snr: Sequence[float] | None
    ) -> PrecisionTransition:
        steps = min(self.preferred_strategy.steps, end - start)
        if self.preferred_strategy.kind == "immediate":
            return PrecisionTransition.immediate(old, new, start)
        if self.preferred_strategy.kind == "gradual":
            return PrecisionTransition.gradual(old, new, start, steps)
        if log_snr is None:
            log_snr = default_log_snr(total)
        return PrecisionTransition.step_aware(old, new, start, log_snr, steps)

    def optimize_for_memory(self, transitions: Iterable[PrecisionTransition]) -> list[PrecisionTransition]:
        """The same changes; a blended one whose peak does not fit into `memory_mb` becomes immediate.

        Raises:
            ScheduleError: if `memory_mb` or `model_mb` is not set.
            MemoryConstraint: if an immediate change does not fit either.
        """
        if self.memory_mb is None or self.model_mb is None:
            raise ScheduleError("To fit changes into memory, set the planner's memory_mb and model_mb (FP16 weights).")
        return [self._fitted(t, self.memory_mb, self.model_mb) for t in transitions]

    def _fitted(self, change: PrecisionTransition, available: float, weights: float) -> PrecisionTransition:
        if change.peak_memory_ratio(self.one_copy) * weights <= available:
            return change
        at_once = PrecisionTransition.immediate(change.from_precision, change.to_precision, change.start_step)
        needed = at_once.peak_memory_ratio() * weights
        if needed > available:
            what = f"The change from {change.from_precision} to {change.to_precision} at step {change.start_step}"
            raise MemoryConstraint(needed, available, what, "Choose lower precisions, or a device with more memory.")
        return at_once


def _merge(segments: Iterable[tuple[int, int, Precision]]) -> list[tuple[int, int, Precision]]:
    """Segments, checked, neighbors of one precision joined."""
    merged: list[tuple[int, int, Precision]] = []
    expected = 0
    for start, end, precision in segments:
        if not (_whole(start) and _whole(end)) or start != expected or end <= start:
            fault = f"segments must follow each other without gaps from step 0 on; this one must start at {expected}."
            raise InvalidTransition(start, end, fault)
        precision, expected = Precision.parse(precision), end
        if merged and merged[-1][2] is precision:
            start = merged.pop()[0]
        merged.append((start, end, precision))
    return merged


def _whole(value: Any, low: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _after(start: Any, steps: int) -> Any:
    return start + steps if isinstance(start, int) else start


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
