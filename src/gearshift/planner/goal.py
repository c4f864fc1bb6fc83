"""What is asked of a plan: a part of the time, a quality, or a part of the memory-time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gearshift.core.errors import BadValue, quoted
from gearshift.planner.criterion import Criterion

FEWEST = 2  # steps that a plan computes
MOST = 1e6  # times that anything can be asked to be faster or smaller


@dataclass(frozen=True)
class Goal:
    """What is asked of a plan: a fraction of the time, a quality in dB, or a fraction of the memory-time.

    Attributes:
        mode: 'taylor' extrapolates, with fitted weights where a call can be rehearsed; 'default' repeats.
        order: of the extrapolation.
        criterion: what is to be small.
        named: what says so, in the user's sentences.
        asked: the target as it was given; none: the fraction, the quality or the memory.
    """

    named: str
    fraction: float | None = None
    quality: float | None = None
    memory: float | None = None
    mode: str = "taylor"
    order: int = 1
    criterion: Criterion = field(default_factory=Criterion)
    asked: str = ""

    def __str__(self) -> str:
        if self.asked:
            return f"target {self.asked}"
        if self.memory is not None:
            return f"{self.memory:.2f} of the memory-time"
        return f"{self.fraction:.2f} of the time" if self.fraction is not None else f"{self.quality:.0f} dB"


def goal_of(named: str, speed: float | None, quality: float | None, memory: float | None, **settings: Any) -> Goal:
    """What `gearshift.plan` was asked for.

    Raises:
        BadValue: unless exactly one of the three is given, in its range.
    """
    if sum(v is not None for v in (speed, quality, memory)) != 1:
        raise BadValue(
            "A plan needs one of speed (times as fast), quality (dB) and memory (times less memory-time), and only one."
        )
    for name, value in (("speed", speed), ("memory", memory)):
        if value is not None and not (_number(value) and 1 <= value <= MOST):
            raise BadValue(
                f"The {name!r} of a plan must be 1 to {MOST:.0f}, a number of times. Got {quoted(value)} instead."
            )
    if quality is not None and not (_number(quality) and 0 < quality <= 120):
        raise BadValue(f"The 'quality' of a plan must be between 0 and 120 dB. Got {quoted(quality)} instead.")
    fraction, less = (None if v is None else 1 / v for v in (speed, memory))
    asked = f"{speed:g}x" if speed else f"{quality:g} dB" if quality else f"{memory:g}x less memory-time"
    return Goal(named, fraction=fraction, quality=quality, memory=less, asked=asked, **settings)


def must_be_reachable(goal: Goal, steps: int, cheapest: float = 1.0) -> None:
    """Refuse a target of `gearshift.plan` that the fewest steps do not reach.

    Args:
        steps: of the call.
        cheapest: cost of a step in the lowest gear, over the high one's.

    Raises:
        BadValue: with what is reachable.
    """
    least = min(FEWEST, steps) * cheapest / steps
    target = goal.fraction if goal.memory is None else goal.memory
    if goal.asked and target is not None and target < least * (1 - 1e-9):
        raise BadValue(
            f"A {goal} cannot be reached in a call of {steps} steps: with the fewest, {min(FEWEST, steps)}, it is "
            f"{1 / least:.1f}x at most."
        )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
