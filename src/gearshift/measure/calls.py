"""How long a plan's calls take beside the original's: in turns, medians, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

TURNS = 3
UNEVEN = 0.3  # spread of equal calls, over their median, from which a timing is told to be uneven
MARGIN = 0.9  # of the least time that steps and gears explain


@dataclass
class Turns:
    """Seconds of whole calls, of the original and of a plan, which took turns.

    Attributes:
        least: the part of the original's time that the plan's computed steps take if all else takes none.
    """

    least: float
    full: list[float] = field(default_factory=list)
    planned: list[float] = field(default_factory=list)

    @property
    def fraction(self) -> float:
        """The plan's time over the original's."""
        return median(self.planned) / median(self.full)

    @property
    def spread(self) -> float:
        """How far equal calls are apart, over their median."""
        return max((max(s) - min(s)) / median(s) for s in (self.full, self.planned))

    @property
    def is_explained(self) -> bool:
        """Whether the steps and gears explain the plan's speed."""
        return self.fraction >= MARGIN * self.least


def in_turns(full: Callable[[], float], planned: Callable[[], float], least: float) -> Turns:
    """Time calls in turns; what cannot be is timed again.

    Args:
        full, planned: make a call and give its seconds.
        least: see `Turns`.
    """
    turns = Turns(least)
    for n in range(2 * TURNS):
        if n >= TURNS and turns.is_explained and turns.spread <= UNEVEN:
            break
        turns.full.append(full())
        turns.planned.append(planned())
    return turns
