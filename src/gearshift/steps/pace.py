"""The pace of a planned run: how fast the call is, told from its own steps, beside what the plan measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

import torch


@dataclass
class Pace:
    """A stopwatch for the steps of one run.

    Attributes:
        planned: part of the original's time that the plan measured.
        outside: part of the original's call that is not in its sampling loop.
        since: when each step began.
        computed: whether it is computed.
    """

    planned: float
    outside: float
    since: list[float] = field(default_factory=list)
    computed: list[bool] = field(default_factory=list)

    def begin(self, computed: bool) -> None:
        """A step begins."""
        self.since.append(time.perf_counter())
        self.computed.append(computed)

    def told(self) -> str:
        """Both speeds in words; nothing where steps run on another device's own time."""
        if torch.cuda.is_initialized():
            return ""
        times = [*self.since, time.perf_counter()]
        seconds = [after - before for before, after in pairwise(times)]
        found = part_of_time(seconds, self.computed, self.outside)
        return "" if found is None else f"  speed: {1 / self.planned:.2f}x as planned, {1 / found:.2f}x in this run"


def part_of_time(seconds: Sequence[float], computed: Sequence[bool], outside: float) -> float | None:
    """The part of the fully computed call's time that a call took, its computed steps standing for all of that one's.

    Args:
        seconds: of each step.
        outside: part of the fully computed call that is not in its sampling loop, below 1.

    Returns:
        None where no step but the first, in which things are set up, was computed.
    """
    usual = [s for s, c in zip(seconds[1:], computed[1:], strict=True) if c]
    if not usual:
        return None
    whole = median(usual) * len(seconds) / (1 - outside)
    return (outside * whole + sum(seconds)) / max(whole, 1e-9)
