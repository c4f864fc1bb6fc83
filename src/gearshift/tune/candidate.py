"""Candidates: recipes that were tried, what was measured of them, and what is predicted of those that were not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gearshift.evaluate.metric import METRICS
from gearshift.tune.goal import TuningGoal, violations
from gearshift.tune.space import Setting

DECIBELS = "dB"


@dataclass
class Tried:
    """One recipe.

    Attributes:
        recipe: as text.
        found: what its job wrote: figures and the original's beside it, held_out, stopped, error, seconds.
    """

    recipe: str
    goal: TuningGoal
    found: Mapping[str, Any] = field(default_factory=dict)

    @property
    def figures(self) -> Mapping[str, Any]:
        return self.found.get("figures", {})

    @property
    def original(self) -> Mapping[str, Any]:
        return self.found.get("original", {})

    @property
    def gain(self) -> float:
        """How many times as good as the original it is in what was asked for; 0 if it was not measured."""
        return self._gain(self.found)

    @property
    def held_gain(self) -> float:
        """The same on the examples that were held out."""
        return self._gain(self.found.get("held_out", {}))

    @property
    def why(self) -> str:
        """What is against it; empty for a candidate that keeps all that was asked, on held-out examples as well."""
        if self.found.get("error"):
            return str(self.found["error"])
        if self.found.get("stopped"):
            return str(self.found["stopped"])
        held = self.found.get("held_out")
        if held is None:
            return "it was not measured on held-out examples"
        broken = violations(self.goal.keep, held["figures"], held["original"])
        return f"on held-out examples {'; '.join(broken)}" if broken else ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % of the speed-up on held-out examples, by resampling; None where speed was not asked for."""
        ratios = self.found.get("held_out", {}).get("ratios")
        if not ratios or self.goal.metric != "speedup":
            return None
        drawn = np.random.default_rng(0).integers(len(ratios), size=(1000, len(ratios)))
        low, high = np.percentile(np.median(np.array(ratios)[drawn], 1), [2.5, 97.5])
        return float(low), float(high)

    def value(self, name: str, of: str = "mean", held_out: bool = False) -> float | None:
        """A measured value."""
        found = self.found.get("held_out", {}) if held_out else self.found
        value = found.get("figures", {}).get(name, {}).get(of)
        return None if value is None else float(value)

    def _gain(self, found: Mapping[str, Any]) -> float:
        sides = [found.get(side, {}).get(self.goal.metric, {}).get("mean") for side in ("figures", "original")]
        return self.goal.gain(*sides)


@dataclass(frozen=True)
class Prediction:
    """What a combination is expected to bring: gains multiply, errors add."""

    settings: tuple[Setting, ...]
    gain: float
    keeps: bool


def predicted(settings: Sequence[Setting], singles: Mapping[str, Tried], goal: TuningGoal) -> Prediction | None:
    """Predict a combination from its parts, each measured alone; None where one was not measured."""
    parts = [singles.get(s.text) for s in settings]
    if any(p is None or not p.figures for p in parts):
        return None
    known = [p for p in parts if p is not None]
    figures: dict[str, dict[str, float]] = {}
    for condition in goal.keep:
        values = [p.value(condition.metric, condition.of) for p in known]
        if any(v is None for v in values):
            return None
        base = known[0].original.get(condition.metric, {}).get(condition.of)
        joint = _together(condition.metric, [v for v in values if v is not None], base)
        figures.setdefault(condition.metric, {})[condition.of] = joint
    gain = math.prod(p.gain for p in known)
    keeps = not violations(goal.keep, figures, known[0].original, slack=0.05)
    return Prediction(tuple(settings), gain, keeps)


def _together(name: str, values: list[float], original: float | None) -> float:
    """A metric of several changes together: in dB the powers of errors add, else the differences to the original."""
    metric = METRICS.get(name)
    if metric.unit == DECIBELS:
        return -10 * math.log10(sum(10 ** (-v / 10) for v in values))
    base = original if original is not None else {"agreement": 100.0, "ssim": 1.0}.get(name, 0.0)
    return base + sum(v - base for v in values)


def front(found: Sequence[Tried], goal: TuningGoal) -> list[Tried]:
    """Those that no other one beats in gain and in the first thing to be kept; best gain first."""
    first = goal.keep[0]
    sign = 1 if first.sign == ">=" else -1
    able = [
        c for c in found if c.value(first.metric, first.of) is not None and c.gain > 0 and c.found.get("stages", 0) > 1
    ]
    kept: list[Tried] = []
    for one in sorted(able, key=lambda c: -c.gain):
        quality = sign * (one.value(first.metric, first.of) or 0.0)
        if all(quality > sign * (k.value(first.metric, first.of) or 0.0) for k in kept):
            kept.append(one)
    return kept
