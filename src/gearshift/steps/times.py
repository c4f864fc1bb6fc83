"""How a denoiser's time argument is made from the scheduler's: found by comparing the two."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

ROUNDING = 2**-7  # relative; of a bfloat16
UNIT = 2.0  # arguments below this are parts of a whole
UNIT_ROUNDING = 2e-3


@dataclass(frozen=True)
class ScheduleStep:
    """One step of a scheduler.

    Attributes:
        timestep: as the scheduler lists it.
        sigma: its noise level; 0 if the scheduler keeps none.
        trained: number of training timesteps.
    """

    timestep: float
    sigma: float
    trained: float


@dataclass(frozen=True)
class Way:
    """Argument = scale * of + offset."""

    of: Literal["timestep", "share", "left", "sigma", "log_sigma"] = "timestep"
    scale: float = 1.0
    offset: float = 0.0

    def argument(self, place: ScheduleStep) -> float | None:
        """What the denoiser is given at a place; None where the scheduler does not tell it."""
        if self.of == "timestep":
            return self.scale * place.timestep + self.offset
        if self.of in ("share", "left"):
            left = place.trained - place.timestep
            return self.scale * (place.timestep / place.trained if self.of == "share" else left) + self.offset
        if place.sigma <= 0:
            return None
        return self.scale * (place.sigma if self.of == "sigma" else math.log(place.sigma)) + self.offset


WAYS = (
    Way(),
    Way("share"),
    Way("share", -1.0, 1.0),
    Way("left"),
    Way("left", 1.0, -1.0),
    Way("sigma"),
    Way("sigma", -1.0, 1.0),
    Way("log_sigma", 0.25),  # EDM (arXiv 2206.00364)
    Way("log_sigma"),
)


def close(a: float, b: float, absolute: float = 1e-3) -> bool:
    """Whether two timesteps are one, up to the rounding of a bfloat16."""
    return math.isclose(a, b, rel_tol=ROUNDING, abs_tol=absolute)


@dataclass
class TimestepMapping:
    """What is known of the way in which one denoiser's time argument is made.

    Attributes:
        told: the way that a row of the table tells; goes before all others.
        ways: those that no call has spoken against; none: the argument tells nothing, and is not looked at.
        sure: they told a later step's argument rightly.
    """

    told: Way | None = None
    ways: tuple[Way, ...] = ()
    sure: bool = False

    def find(self, values: Iterable[float], places: Sequence[ScheduleStep]) -> int | None:
        """The place that the first call of a run is at; None if no way leads to any.

        What a row tells, or was sure before, may be at any place; a way that is guessed rather leads to the first one.

        Args:
            values: of the argument; more than one where its elements differ.
        """
        values = tuple(values)
        known = ((self.told,) if self.told else (), self.ways if self.sure else ())
        for ways, at in ((known[0], places), (known[1], places), (WAYS, places[:1]), (WAYS, places)):
            offs = {(w, i): off for w in ways for i, p in enumerate(at) if (off := _off(w, p, values)) is not None}
            if offs:
                _, place = min(offs, key=lambda key: offs[key])
                self.sure = ways is known[1] and self.sure
                self.ways = tuple(w for w, i in offs if i == place)
                return place
        self.ways, self.sure = (), False
        return None

    def agrees(self, values: Iterable[float], place: ScheduleStep, first: bool) -> bool:
        """Whether a call is at this place, as far as its argument tells.

        Args:
            first: it is the run's first step, by which the ways were found.
        """
        if not self.ways:
            return True
        values = tuple(values)
        fitting = tuple(way for way in self.ways if _off(way, place, values) is not None)
        if fitting:
            self.ways, self.sure = fitting, self.sure or not first
            return True
        if self.sure or first:
            return False
        self.ways = ()
        return True


def _off(way: Way, place: ScheduleStep, values: tuple[float, ...]) -> float | None:
    """How far the argument is from what a way makes of a place; None if too far."""
    wanted = way.argument(place)
    if wanted is None:
        return None
    absolute = UNIT_ROUNDING if abs(wanted) < UNIT else 1e-3
    return min((abs(v - wanted) for v in values if close(v, wanted, absolute)), default=None)
