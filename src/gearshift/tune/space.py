"""The search space: algorithms from the registry, and a few values of each of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.errors import BadRecipe, BadValue, GearshiftError, UnknownName, quoted
from gearshift.core.facts import Family, Kind
from gearshift.core.param import Choices, Param
from gearshift.core.recipe import Recipe
from gearshift.core.registry import registry
from gearshift.core.rules import conflict

TRAINED = frozenset({Family.RECOVERER, Family.DISTILLER})  # take long, and learn from data of their own
CHANGED = frozenset({Family.ENHANCER})  # make another image on purpose
SHARES = (0.1, 0.15, 0.2, 0.3, 0.5, 0.75)  # of a range of numbers, that are tried
WIDEST = 1000  # times its lower end, a range that is no quantity to tune: seeds, epochs


@dataclass(frozen=True)
class Setting:
    """One algorithm with values for its parameters.

    Attributes:
        is_default: all are as declared.
    """

    algorithm: Algorithm
    is_default: bool

    @cached_property
    def text(self) -> str:
        """As a recipe has it."""
        return str(Recipe((self.algorithm,)))

    @property
    def family(self) -> Family:
        return type(self.algorithm).facts.family


@dataclass(frozen=True)
class Space:
    """Settings that may be tried on a model, and why others may not."""

    settings: tuple[Setting, ...]
    refused: Mapping[str, str]

    def defaults(self) -> list[Setting]:
        return [s for s in self.settings if s.is_default]

    def of(self, name: str) -> list[Setting]:
        """All settings of one algorithm."""
        return [s for s in self.settings if s.algorithm.name == name]

    def families(self) -> dict[Family, list[Setting]]:
        found: dict[Family, list[Setting]] = {}
        for setting in self.settings:
            found.setdefault(setting.family, []).append(setting)
        return found


def space_of(kind: Kind, problems: Callable[[Any], list[str]], only: Any, without: Any, values: Any) -> Space:
    """What may be tried.

    Args:
        kind: of the model; algorithms for others are not named unless they are asked for.
        problems: every reason why a recipe cannot be applied to the model.
        only, without: names of algorithms or families; None: all but those that train or change what is shown.
        values: {algorithm: {parameter: values to try}}, in place of those from its bounds.

    Raises:
        UnknownName, BadValue: for names and values that are none.
    """
    kept, dropped = _names(only, "only"), _names(without, "without")
    given = _values(values)
    settings: list[Setting] = []
    refused: dict[str, str] = {}
    for cls in registry():
        names = {cls.name, cls.facts.family.value}
        if not kept and kind not in cls.facts.kinds:
            continue
        if (kept and not names & kept) or names & dropped or (not kept and cls.facts.family in TRAINED | CHANGED):
            continue
        made = list(_settings(cls, given.get(cls.name, {})))
        if found := problems(Recipe((made[0].algorithm,))):
            refused[cls.name] = " ".join(found)
        else:
            settings += made
    if not settings:
        raise BadValue(f"Nothing can be tried on this model: {' '.join(refused.values()) or 'no algorithm is left.'}")
    return Space(tuple(settings), refused)


def go_together(settings: Iterable[Setting]) -> bool:
    """Whether the rules allow these together."""
    names = [s.algorithm.name for s in settings]
    return all(_rules_allow(a, b) for i, a in enumerate(names) for b in names[i + 1 :])


@cache
def _rules_allow(a: str, b: str) -> bool:
    return conflict((a, registry().get(a).facts), (b, registry().get(b).facts)) is None


def _settings(cls: type[Algorithm], given: Mapping[str, list[Any]]) -> Iterable[Setting]:
    """The defaults, then one parameter at a time with another value; where values are given, no other parameter."""
    start = {name: values[0] for name, values in given.items()}
    yield Setting(cls.make(start), True)
    seen = {str(start)}
    for name, declared in cls.params().items():
        if given and name not in given:
            continue
        for value in given[name] if name in given else points(declared):
            changed = {**start, name: value}
            if (name in given or value != declared.default) and str(changed) not in seen:
                seen.add(str(changed))
                try:
                    yield Setting(cls.make(changed), False)
                except BadRecipe:
                    continue  # values that do not go together


def points(declared: Param) -> list[Any]:
    """Values of a parameter to try: all of a few choices, some of a range."""
    bound = declared.bound
    if isinstance(bound, Choices):
        return list(bound.values)
    low, high = declared.limits()
    if high - low > WIDEST:
        return [declared.default]
    found = [low + share * (high - low) for share in SHARES]
    return sorted({round(v) for v in found} if bound.whole else {round(v, 6) for v in found})


def _names(given: Any, option: str) -> set[str]:
    entries = [given] if isinstance(given, str) else given or []
    if not isinstance(entries, (list, tuple, set)):
        raise BadValue(f"{option} is a list of names of algorithms or families. Got {quoted(given)} instead.")
    known = {c.name for c in registry()} | {f.value for f in Family}
    for name in entries:
        if name not in known:
            raise UnknownName("algorithm or family", name, known)
    return set(entries)


def _values(given: Any) -> dict[str, dict[str, list[Any]]]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise BadValue(f"space is a dict {{algorithm: {{parameter: values}}}}. Got {quoted(given)} instead.")
    found: dict[str, dict[str, list[Any]]] = {}
    for name, params in given.items():
        cls = registry().get(name)
        if not isinstance(params, Mapping) or not all(isinstance(v, (list, tuple)) and v for v in params.values()):
            raise BadValue(f"space[{name!r}] is a dict {{parameter: list of values}}. Got {quoted(params)} instead.")
        for param, values in params.items():
            for value in values:
                try:
                    cls.make({param: value})
                except GearshiftError as error:
                    raise BadValue(f"space: {error}") from None
        found[name] = {k: list(v) for k, v in params.items()}
    return found
