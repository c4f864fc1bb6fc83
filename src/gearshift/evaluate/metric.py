"""What a metric is: one registered function with its unit, its direction, and what it needs to be measured."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gearshift.core.errors import BadValue, UnknownName, quoted
from gearshift.core.extras import installed, missing
from gearshift.core.facts import ANY_KIND, Kind
from gearshift.evaluate.conditions import Condition, read_condition

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """A way to say how good, how close or how fast a model is.

    Attributes:
        function: of an item's metric: (example, answer, the original's answer or None) -> a number for each item of the
            example, or (number, weight) pairs. Of a run's metric: (performance, the original's or None) -> a number.
            Either raises `BadValue` with the reason where this model has none.
        whole: it is one number of a whole run (a time, a size) rather than one of each item.
        kinds: kinds of model that it is for.
        compares: it needs the original beside the model.
        truth: the key that examples need for it, e.g. the text that is really said.
        packages, extra: what has to be installed, and the pip extra that brings it.
        usual: it is measured where no metrics are asked for.
        floor: an item that is worse than this is counted as bad.
        most: a larger value says no more: it counts as this in means.
        finish: what makes the shown value of a weighted mean, e.g. exp for perplexity.
        weights: the local path or hub id of the weights that it judges with.
    """

    name: str
    summary: str
    function: Callable[..., Any]
    unit: str
    better: Better
    whole: bool = False
    kinds: Set[Kind] = ANY_KIND
    compares: bool = False
    truth: str = ""
    packages: tuple[str, ...] = ()
    extra: str = ""
    usual: bool = True
    format: str = ".2f"
    floor: float | None = None
    most: float | None = None
    finish: Callable[[float], float] = float
    weights: str = ""

    def worse(self, a: float, b: float) -> bool:
        """Whether one value is worse than another."""
        return a < b if self.better == "higher" else a > b

    def text(self, value: float | None) -> str:
        """A value with its unit; a dash for none."""
        if value is None:
            return "-"
        return format(value, self.format) + (f" {self.unit}" if self.unit else "")


@dataclass
class Metrics:
    """Metrics by name, as they are registered."""

    known: dict[str, Metric] = field(default_factory=dict)

    def add(self, found: Metric) -> None:
        """Take in a metric; another one of its name is refused."""
        if found.name in self.known:
            raise TypeError(f"a metric named {found.name!r} is there already")
        self.known[found.name] = found

    def get(self, name: Any) -> Metric:
        """The metric of that name.

        Raises:
            UnknownName: with the nearest names.
        """
        if not isinstance(name, str) or name not in self.known:
            raise UnknownName("metric", name, self.known)
        return self.known[name]


METRICS = Metrics()


def metric(name: str, unit: str, better: Better, **needs: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a metric; the first line of its docstring is the summary. See `Metric`."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        summary = (function.__doc__ or "").strip().partition("\n")[0].rstrip(".")
        METRICS.add(Metric(name, summary, function, unit, better, **needs))
        return function

    return register


def chosen_metrics(wanted: Any, kind: Kind, compares: bool) -> list[Metric]:
    """The metrics that somebody asked for, or the usual ones of a kind of model.

    Args:
        wanted: names, each alone or with a floor ('psnr>=30') or weights ('clip=folder or hub id'), and functions
            (output, call) -> a number or truth value of each item; one of these or a list; None: the usual ones.
        kind: of the model.
        compares: whether there is an original to compare with.

    Raises:
        BadValue, UnknownName, MissingExtra: in a sentence, for what is no metric or cannot be measured here.
    """
    if wanted is None:
        usual = [m for m in METRICS.known.values() if m.usual and kind in m.kinds and (compares or not m.compares)]
        return sorted((m for m in usual if all(map(installed, m.packages))), key=lambda m: m.whole)
    entries = list(wanted) if isinstance(wanted, (list, tuple, set)) else [wanted]
    if not entries:
        raise BadValue("There are no metrics in `metrics`; leave it out for the usual ones.")
    found = {m.name: m for m in map(_metric_of, entries)}
    for one in found.values():
        refuse_unfit(one, kind, compares)
    return list(found.values())


def refuse_unfit(one: Metric, kind: Kind, compares: bool) -> None:
    """Raise a sentence where a metric cannot be measured: another kind of model, no original, a package missing."""
    if kind not in one.kinds:
        kinds = " or ".join(sorted(k.value for k in one.kinds))
        raise BadValue(f"The metric {one.name!r} is for {kinds}; this is {kind.value}.")
    if one.compares and not compares:
        raise BadValue(
            f"The metric {one.name!r} compares with the original, and there is none: give `against`, or optimize with "
            "keep_original=True."
        )
    for package in one.packages:
        if not installed(package):
            raise BadValue(missing(package, one.extra, f"The metric {one.name!r}"))


def _metric_of(entry: Any) -> Metric:
    if callable(entry):
        return _own(entry)
    if not isinstance(entry, str):
        raise BadValue(f"A metric is a name, such as 'psnr', or a function. Got {quoted(entry)} instead.")
    name, equals, rest = entry.partition("=")
    if equals and name.strip() in METRICS.known:
        found = METRICS.get(name.strip())
        if not found.weights:
            raise BadValue(f"The metric {found.name!r} has no weights to choose. Got {quoted(entry)}.")
        return replace(found, weights=rest.strip())
    if any(sign in entry for sign in "<>"):
        condition = read_condition(entry)
        return replace(METRICS.get(condition.metric), floor=_floor(condition))
    return METRICS.get(entry.strip())


def _floor(condition: Condition) -> float:
    found = METRICS.get(condition.metric)
    if condition.of != "mean" or condition.relative or found.whole:
        raise BadValue(f"A floor is that of an item, such as 'psnr>=30'. Got {str(condition)!r} instead.")
    condition.refuse_wrong_way(found.better)
    return condition.value


def _own(function: Any) -> Metric:
    """A user's function as a metric of items."""
    name = getattr(function, "__name__", type(function).__name__).strip("<>")

    def judge(example: Any, answer: Any, original: Any) -> Any:
        said = function(answer.output, example.call)
        values = said.tolist() if hasattr(said, "tolist") else said
        values = list(values) if isinstance(values, (list, tuple)) else [values]
        if not all(isinstance(v, (bool, int, float)) for v in values):
            raise BadValue(f"The metric {name!r} must give numbers. Got {quoted(said)} instead.")
        return [float(v) for v in values]

    return Metric(name, "", judge, getattr(function, "unit", ""), "higher", format=".4g")
