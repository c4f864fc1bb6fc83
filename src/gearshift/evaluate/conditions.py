"""Conditions such as 'psnr>=35', 'worst:psnr>=25', 'perplexity<=101%' and 'wer<=+0.5', read from text."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from gearshift.core.errors import BadValue, quoted

FORM = re.compile(
    r"\s*(?:(mean|worst)\s*:)?\s*([A-Za-z_]\w*)\s*(>=|<=|>|<)\s*([+-]?)(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)(%?)\s*"
)
HOW = "'psnr>=35', 'worst:psnr>=25', 'perplexity<=101%' (of the original's) or 'wer<=+0.5' (above the original's)"


@dataclass(frozen=True)
class Condition:
    """What a metric has to keep.

    Attributes:
        of: 'mean' of all items, or the 'worst' of them.
        sign: '>=' or '<='.
        relative: '' for a value as it is, '%' for percent of the original's, '+' for what is added to the original's.
    """

    metric: str
    of: Literal["mean", "worst"]
    sign: Literal[">=", "<="]
    value: float
    relative: Literal["", "%", "+"] = ""

    def bound(self, original: float | None) -> float:
        """The value to be kept, given the original's.

        Raises:
            BadValue: where it is relative and the original has none.
        """
        if not self.relative:
            return self.value
        if original is None:
            raise BadValue(f"'{self}' is relative to the original, which has no {self.metric} of its own.")
        return original * self.value / 100 if self.relative == "%" else original + self.value

    def holds(self, value: float | None, original: float | None = None) -> bool:
        """Whether a measured value keeps it; one that was not measured does not."""
        if value is None or math.isnan(value):
            return False
        bound = self.bound(original)
        return value >= bound if self.sign == ">=" else value <= bound

    def refuse_wrong_way(self, better: str) -> None:
        """Raise where a metric of which more is better is bounded from above, or the other way round."""
        if (self.sign == ">=") != (better == "higher"):
            other = ">=" if better == "higher" else "<="
            raise BadValue(f"{better} is better for {self.metric!r}, so write '{other}'. Got '{self}' instead.")

    def __str__(self) -> str:
        value = f"{self.value:+g}" if self.relative == "+" else f"{self.value:g}"
        return f"{'worst:' if self.of == 'worst' else ''}{self.metric}{self.sign}{value}{'%' * (self.relative == '%')}"


def read_condition(given: Any) -> Condition:
    """A condition from text.

    Raises:
        BadValue: for anything that is none.
    """
    found = FORM.fullmatch(given) if isinstance(given, str) and len(given) < 200 else None
    if found is None:
        raise BadValue(f"A condition is written as {HOW}. Got {quoted(given)} instead.")
    of, name, sign, plus, number, percent = found.groups()
    value = float(plus + number)
    relative: Any = "%" if percent else "+" if plus else ""
    return Condition(name, of or "mean", sign[0] + "=", value, relative)  # type: ignore[arg-type]


def read_conditions(given: Any) -> list[Condition]:
    """Conditions from a text or a list of them.

    Raises:
        BadValue: for anything else.
    """
    entries = [given] if isinstance(given, str) else given
    if not isinstance(entries, (list, tuple)):
        raise BadValue(f"Conditions are a list of texts such as {HOW}. Got {quoted(given)} instead.")
    return [read_condition(entry) for entry in entries]
