"""What is asked of a recipe: conditions to keep, the quantity to make better, and how long to look for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gearshift.evaluate.measures  # noqa: F401  registers the metrics
from gearshift.core.errors import BadValue, UnknownName, quoted
from gearshift.core.facts import Kind
from gearshift.evaluate.conditions import Condition, read_conditions
from gearshift.evaluate.metric import METRICS, refuse_unfit

OBJECTIVES = {"latency": "speedup", "throughput": "speedup", "memory": "peak_memory", "disk": "disk"}
USUAL = {  # conditions where none are given
    Kind.DIFFUSION: ("psnr>=35", "worst:psnr>=25"),
    Kind.LANGUAGE: ("perplexity<=102%",),
    Kind.SPEECH: ("wer_original<=2",),
    Kind.OTHER: ("sqnr>=30",),
}
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
BATCH = 8  # prompts at once, where throughput is asked for


@dataclass(frozen=True)
class TuningGoal:
    """Conditions, and the objective under them.

    Attributes:
        seconds: of the whole search.
    """

    keep: tuple[Condition, ...]
    objective: str
    seconds: float

    @property
    def metric(self) -> str:
        """The metric that the objective is measured by."""
        return OBJECTIVES[self.objective]

    def metrics(self) -> list[str]:
        """Names of all metrics that are needed."""
        return list(dict.fromkeys([*(c.metric for c in self.keep), self.metric, "latency"]))

    def gain(self, value: float | None, original: float | None) -> float:
        """How many times as good as the original: its metric's value, or the original's value over it."""
        if value is None or value <= 0:
            return 0.0
        return value if self.metric == "speedup" else (original or 0.0) / value


def read_goal(keep: Any, objective: Any, budget: Any, kind: Kind) -> TuningGoal:
    """A goal from what somebody gave.

    Raises:
        BadValue, UnknownName, MissingExtra: in a sentence, for what is none, or not for this kind of model.
    """
    conditions = read_conditions(keep if keep else list(USUAL[kind]))
    for condition in conditions:
        metric = METRICS.get(condition.metric)
        condition.refuse_wrong_way(metric.better)
        refuse_unfit(metric, kind, compares=True)
        if metric.whole and condition.of == "worst":
            raise BadValue(f"The metric {metric.name!r} is one number and has no worst item. Got '{condition}'.")
    if objective not in OBJECTIVES:
        raise UnknownName("objective", objective, OBJECTIVES)
    return TuningGoal(tuple(conditions), objective, read_budget(budget))


def read_budget(given: Any) -> float:
    """Seconds of '10m', '90s', '1.5h' or a number.

    Raises:
        BadValue: for anything else.
    """
    found = (
        re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(given)) if isinstance(given, (str, int, float)) else None
    )
    if found is None or isinstance(given, bool) or (seconds := float(found[1]) * UNITS[found[2]]) <= 0:
        raise BadValue(f"budget is a time such as '10m', '90s' or '1h'. Got {quoted(given)} instead.")
    return seconds


def violations(
    keep: tuple[Condition, ...], figures: Mapping[str, Any], original: Mapping[str, Any], slack: float = 0.0
) -> list[str]:
    """Conditions that measured figures do not keep, in words; `slack` forgives so much of each bound.

    Args:
        figures, original: {metric: {'mean': value, 'worst': value}}.
    """
    found = []
    for condition in keep:
        value = figures.get(condition.metric, {}).get(condition.of)
        bound = condition.bound(original.get(condition.metric, {}).get(condition.of))
        room = slack * abs(bound) * (1 if condition.sign == "<=" else -1)
        kept = value is not None and (value <= bound + room if condition.sign == "<=" else value >= bound + room)
        if not kept:
            metric = METRICS.get(condition.metric)
            of = f"{metric.name} of the worst" if condition.of == "worst" else metric.name
            found.append(f"{of} is {metric.text(value)}, asked was {condition}")
    return found
