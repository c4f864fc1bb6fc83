"""Every algorithm there is: found by walking the family folders and the entry points, never listed by hand."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType

from gearshift.core.algorithm import Algorithm
from gearshift.core.errors import GearshiftWarning, UnknownName, told
from gearshift.core.rules import conflict

ENTRY_POINTS = "gearshift.algorithms"
SHARED = "gearshift.algorithms.common"


class Registry:
    """Algorithms by name. A class that is refused leaves it as it was."""

    def __init__(self) -> None:
        self._classes: dict[str, type[Algorithm]] = {}

    def add(self, cls: type[Algorithm]) -> None:
        """Take in an algorithm.

        Raises:
            TypeError: if the name is taken by another class, or the class does not say how it is applied.
        """
        held = self._classes.get(cls.name)
        if held is cls:
            return
        if held is not None:
            raise TypeError(f"{cls.__module__} and {held.__module__} both define an algorithm named {cls.name!r}")
        if cls.apply is Algorithm.apply:
            raise TypeError(f"{cls.__module__}: {cls.__name__} does not define apply")
        self._classes[cls.name] = cls

    def get(self, name: str) -> type[Algorithm]:
        """The class of that name.

        Raises:
            UnknownName: with the nearest names.
        """
        try:
            return self._classes[name]
        except KeyError:
            raise UnknownName("algorithm", name, self._classes) from None

    def __iter__(self) -> Iterator[type[Algorithm]]:
        return iter(sorted(self._classes.values(), key=lambda c: (c.facts.family.value, c.name)))

    def __contains__(self, name: str) -> bool:
        return name in self._classes


@cache
def registry() -> Registry:
    """The one registry of this process, filled at the first call; imports no optional package, nor torch."""
    filled = Registry()
    for module in _family_modules():
        _take(filled, module)
    for point in entry_points(group=ENTRY_POINTS):
        try:
            filled.add(point.load())
        except Exception as error:  # a foreign package must not take the others down
            warnings.warn(f"The algorithm {point.name!r} was left out: {told(error)}", GearshiftWarning, stacklevel=2)
    return filled


def works_with(cls: type[Algorithm]) -> list[str]:
    """Names that the rules allow beside this algorithm."""
    mine, others = (cls.name, cls.facts), [(c.name, c.facts) for c in registry() if c is not cls]
    return sorted(other[0] for other in others if conflict(mine, other) is None)


def _family_modules() -> Iterator[ModuleType]:
    package = importlib.import_module("gearshift.algorithms")

    for family in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if family.ispkg and family.name != SHARED:
            folder = importlib.import_module(family.name)
            for found in pkgutil.iter_modules(folder.__path__, folder.__name__ + "."):
                yield importlib.import_module(found.name)


def _take(into: Registry, module: ModuleType) -> None:
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, Algorithm)
            and not value.is_base
            and value.__module__ == module.__name__
        ):
            into.add(value)
