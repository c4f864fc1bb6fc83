"""A parameter's bound is stated once: it validates, prints, documents, enumerates and yields bad values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gearshift.core.errors import BadValue, quoted


@dataclass(frozen=True)
class Choices:
    """One of a few values; True and 1 are kept apart."""

    values: tuple[Any, ...]

    def admits(self, value: Any) -> bool:
        return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.values)

    def __str__(self) -> str:
        return "one of " + ", ".join(repr(v) for v in self.values)

    def samples(self) -> list[Any]:
        return list(self.values)

    def outsiders(self) -> list[Any]:
        numbers = [v for v in self.values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        return [object(), "no such option", *([max(numbers) + 1, min(numbers) - 1] if numbers else [])]


@dataclass(frozen=True)
class OrData(Choices):
    """One of a few values, or a dict of plain data that the algorithm reads itself; `what` says of what."""

    what: str

    def admits(self, value: Any) -> bool:
        return isinstance(value, dict) or super().admits(value)

    def __str__(self) -> str:
        return f"{super().__str__()}, or {self.what}"


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included; `whole` asks for an int."""

    low: float
    high: float
    whole: bool

    def admits(self, value: Any) -> bool:
        kinds = (int,) if self.whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{'an int' if self.whole else 'a number'} in the range [{self.low}, {self.high}]"

    def samples(self) -> list[Any]:
        middle = self.low + (self.high - self.low) / 2
        return [self.low, int(middle) if self.whole else middle, self.high]

    def outsiders(self) -> list[Any]:
        return [self.low - 1, self.high + 1, math.nan, "many", None, True]


@dataclass(frozen=True)
class Param:
    """One parameter of an algorithm as its declaration states it."""

    default: Any
    bound: Choices | Range
    help: str

    def check(self, name: str, owner: str, value: Any) -> Any:
        """The value, if the bound admits it.

        Raises:
            BadValue: one sentence with what is allowed and what was given.
        """
        if not self.bound.admits(value):
            raise BadValue(f"The {name!r} parameter of {owner} must be {self.bound}. Got {quoted(value)} instead.")
        return value

    def describe(self) -> dict[str, Any]:
        """Plain data for listings: default, help, and 'choices' or 'range'."""
        bound = {"choices": list(self.bound.values)} if isinstance(self.bound, Choices) else {"range": [*self.limits()]}
        return {"default": self.default, **bound, "help": self.help}

    def limits(self) -> tuple[float, float]:
        """Lowest and highest value of a range."""
        assert isinstance(self.bound, Range)
        return self.bound.low, self.bound.high


def param(
    default: Any,
    *,
    choices: Iterable[Any] | None = None,
    between: Sequence[float] | None = None,
    or_data: str | None = None,
    help: str,
) -> Any:
    """Declare a parameter of an algorithm: its default, its bound (`choices` or `between`) and its meaning.

    A range is one of ints when both its ends are ints. `or_data` names what a dict in the place of a choice describes.
    """
    if (choices is None) == (between is None):
        raise TypeError("a parameter is declared with either choices= or between=")
    bound: Choices | Range
    if choices is not None:
        bound = Choices(tuple(choices)) if or_data is None else OrData(tuple(choices), or_data)
    else:
        assert between is not None
        low, high = between
        bound = Range(low, high, whole=isinstance(low, int) and isinstance(high, int))
    if not bound.admits(default):
        raise TypeError(f"the default {default!r} is not {bound}")
    return dataclasses.field(default=default, metadata={"param": Param(default, bound, help)})
