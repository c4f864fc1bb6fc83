"""Errors of precision schedules: each carries its numbers and says what to change."""

from __future__ import annotations

from collections.abc import Iterable

from gearshift.core.errors import GearshiftError, quoted
from gearshift.precision.levels import Precision


class AdaptiveError(GearshiftError, ValueError):
    """Base of every error about precision as a function of the step."""


class InvalidStep(AdaptiveError):
    """A step outside the run."""

    def __init__(self, step: object, total_steps: int) -> None:
        self.step, self.total_steps = step, total_steps
        super().__init__(f"The step must be an int from 0 to {total_steps - 1}. Got {quoted(step)} instead.")


class InvalidTransition(AdaptiveError):
    """A change of precision that cannot be made as written.

    Attributes:
        start_step, end_step: first step of the change, and the first one after it.
    """

    def __init__(self, start_step: object, end_step: object, fault: str) -> None:
        self.start_step, self.end_step = start_step, end_step
        super().__init__(f"The change of precision over steps [{start_step}, {end_step}) is not valid: {fault}")


class UnsupportedPrecision(AdaptiveError):
    """A precision that the hardware does not support.

    Attributes:
        precision: what was asked for.
        supported: what there is.
        step: the step of a schedule that asks for it; None outside a schedule.
    """

    def __init__(self, precision: Precision, supported: Iterable[Precision], step: int | None = None) -> None:
        self.precision, self.supported, self.step = precision, tuple(supported), step
        where = "" if step is None else f"Step {step} asks for it; choose another profile, or "
        advice = where + "set strict_capabilities=False to use the nearest higher one."
        listed = ", ".join(map(str, self.supported))
        super().__init__(f"{precision} is not supported here (supported: {listed}). {advice}")


class ProfileError(AdaptiveError):
    """Zones that do not make a profile.

    Attributes:
        start, end: the part of the run that is at fault, in the unit of the zones; None where it is none.
    """

    def __init__(self, sentence: str, start: float | None = None, end: float | None = None) -> None:
        self.start, self.end = start, end
        super().__init__(sentence)


class ScheduleError(AdaptiveError):
    """A schedule that cannot be made or read.

    Attributes:
        given, allowed: the value at fault and what is allowed, where it is one value.
    """

    def __init__(self, sentence: str, given: object = None, allowed: object = None) -> None:
        self.given, self.allowed = given, allowed
        super().__init__(sentence)


class MemoryConstraint(AdaptiveError):
    """More memory needed than there is; what they count (MiB, or a share of the FP16 weights) is in `unit`."""

    def __init__(self, needed: float, available: float, what: str, advice: str, unit: str = "MiB") -> None:
        self.needed, self.available, self.unit = needed, available, unit
        super().__init__(f"{what} needs {needed:.4g} {unit} and there are {available:.4g}. {advice}")


class QualityConstraint(AdaptiveError):
    """The quality expected of a schedule (a prior, see `Precision.nominal_quality`) is below what was asked for."""

    def __init__(self, quality: float, min_quality: float, what: str, advice: str) -> None:
        self.quality, self.min_quality = quality, min_quality
        super().__init__(f"{what} has an expected quality of {quality:.4f}, below {min_quality:.4f}. {advice}")
