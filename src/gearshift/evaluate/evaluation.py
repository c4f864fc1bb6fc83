"""Evaluation: what was measured of a model. It prints, becomes JSON and HTML, and compares with another."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gearshift.core.errors import BadValue, UnknownName, quoted
from gearshift.evaluate.cells import Cell, Column, Row
from gearshift.evaluate.conditions import Condition, read_condition
from gearshift.evaluate.metric import Metric
from gearshift.evaluate.side_by_side import write_page
from gearshift.evaluate.spread import Spread
from gearshift.evaluate.table import render, to_json

KEPT = 96  # pictures that an evaluation holds
WIDTH = 110
BRIEF = 32  # characters of a name in the table
COLUMNS = [
    Column("original", "original"),
    Column("value", "this model"),
    Column("interval", "95 % interval"),
    Column("worst", "worst"),
    Column("below", "below the floor"),
]


@dataclass(frozen=True)
class Figure:
    """What one metric says.

    Attributes:
        value: of the run, or the mean over the items; None where it was not measured, and `why`.
        spread: over the items; None for a metric of the whole run.
    """

    metric: Metric
    value: float | None
    spread: Spread | None = None
    why: str = ""

    def of(self, which: str) -> float | None:
        """The 'mean' or the 'worst' value."""
        return self.spread.worst if which == "worst" and self.spread else self.value


@dataclass(frozen=True)
class Picture:
    """A picture that was made: its prompt, what the first metric that compares said of it, and H x W x 3 uint8."""

    name: str
    score: float | None
    picture: np.ndarray


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What was measured of a model.

    Attributes:
        name: of the model among those that were measured with it.
        model: its class.
        recipe: what was applied to it; empty for nothing.
        figures: by the metric's name.
        components: seconds of one call by component of a pipeline.
        items: names of the prompts, texts or recordings.
        seconds: of each call.
        logs: what was decided on each step of its newest run.
        pictures: some that it made.
        original: the evaluation of the original beside it.
    """

    name: str
    model: str
    recipe: str
    machine: str
    figures: dict[str, Figure]
    components: dict[str, float]
    items: tuple[str, ...]
    seconds: tuple[float, ...]
    logs: Sequence[Any] = ()
    pictures: Sequence[Picture] = ()
    original: Evaluation | None = field(default=None, compare=False)

    def __getitem__(self, name: str) -> float | None:
        """The value of a metric; None where it was not measured.

        Raises:
            UnknownName: for a metric that was not asked for.
        """
        if name not in self.figures:
            raise UnknownName("metric in this evaluation", name, self.figures)
        return self.figures[name].value

    def worst(self, name: str) -> tuple[str, float]:
        """The item that a metric is worst for, and its value.

        Raises:
            UnknownName, BadValue: for a metric that was not measured for each item.
        """
        self[name]
        spread = self.figures[name].spread
        if spread is None:
            raise BadValue(f"The metric {name!r} has no worst item: {self.figures[name].why or 'it is one number'}.")
        return spread.worst_name, spread.worst

    def holds(self, condition: Condition | str) -> bool:
        """Whether a condition such as 'psnr>=35' or 'worst:psnr>=25' is kept."""
        wanted = read_condition(condition) if isinstance(condition, str) else condition
        self[wanted.metric]
        theirs = self.original.figures.get(wanted.metric) if self.original else None
        return wanted.holds(self.figures[wanted.metric].of(wanted.of), theirs.of(wanted.of) if theirs else None)

    def rows(self) -> list[Row]:
        """The table: a row for each metric, cells as text."""
        return [Row(name, figure.metric.summary, self._cells(name)) for name, figure in self.figures.items()]

    def _cells(self, name: str) -> dict[str, Cell]:
        figure = self.figures[name]
        theirs = self.original.figures.get(name) if self.original else None
        one, spread = figure.metric, figure.spread
        cells: dict[str, Cell] = {
            "value": one.text(figure.value),
            "original": one.text(theirs.value) if theirs else None,
        }
        if spread is not None and len(spread.values) > 1:
            low, high = (format(v, one.format) for v in spread.interval)
            worst = one.text(spread.worst)
            cells |= {"interval": f"{low} to {high}", "worst": f"{worst}: {spread.worst_name[:BRIEF]}"}
        if spread is not None and spread.below is not None:
            cells["below"] = f"{100 * spread.below:.0f} % ({one.floor:g})"
        return cells

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        console = Console(file=text, width=WIDTH)
        console.print(self._heading(), soft_wrap=True, highlight=False)
        console.print(render(COLUMNS, [Row(r.name, "", r.cells) for r in self.rows()]))
        for line in self._notes():
            console.print(line, soft_wrap=True, highlight=False)
        return text.getvalue().rstrip()

    def __repr__(self) -> str:
        found = ", ".join(f"{n} {f.metric.text(f.value)}" for n, f in self.figures.items() if f.value is not None)
        return f"<Evaluation of {self.model}: {found}>"

    def _heading(self) -> str:
        done = f" with {self.recipe}" if self.recipe else ""
        beside = ", beside the original" if self.original else ""
        return f"{self.model}{done}: {len(self.items)} items{beside}. {self.machine}."

    def _notes(self) -> list[str]:
        notes = [
            f"{name} was not measured: {f.why.rstrip('.')}." for name, f in self.figures.items() if f.value is None
        ]
        if self.components:
            parts = [f"{name} {seconds:.3f} s" for name, seconds in self.components.items()]
            notes.append(f"One call: {', '.join(parts)}.")
        return notes

    def compare(self, other: Evaluation) -> str:
        """This evaluation beside another of the same items: each metric's values, and whether their intervals part.

        Raises:
            BadValue: for anything but an evaluation of the same items.
        """
        if not isinstance(other, Evaluation):
            raise BadValue(f"An evaluation is compared with another one. Got {quoted(other)} instead.")
        if other.items != self.items:
            raise BadValue("Only evaluations of the same data are compared; these have different items.")
        lines = []
        for name in [n for n in self.figures if n in other.figures]:
            ours, theirs = self.figures[name], other.figures[name]
            lines.append(
                f"{name}: {ours.metric.text(ours.value)} and {theirs.metric.text(theirs.value)}{_said(ours, theirs)}"
            )
        return "\n".join(lines)

    def to_json(self) -> str:
        """Everything but pictures, as JSON."""
        figures = {name: _plain(figure) for name, figure in self.figures.items()}
        about: dict[str, Any] = {
            "model": self.model,
            "applied": self.recipe,
            "machine": self.machine,
            "figures": figures,
        }
        about |= {"components": self.components, "items": [*self.items], "seconds": [*self.seconds]}
        return to_json(COLUMNS, self.rows(), **about)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one HTML file: table, the worst pictures beside the original's, what was done on each step."""
        shown = [*([self.original] if self.original else []), self]
        lead = self.original.name if self.original else None
        return write_page(Path(path), shown, self._heading().partition(":")[0], self._heading(), original=lead)

    @property
    def scores(self) -> list[float]:
        """What the first metric that compares says of each picture; empty where none does."""
        return [p.score for p in self.pictures if p.score is not None]

    @property
    def scores_better(self) -> str:
        """Which direction of `scores` is better."""
        return next((f.metric.better for f in self.figures.values() if f.metric.compares and f.spread), "higher")


def _said(ours: Figure, theirs: Figure) -> str:
    """Which is better, where the intervals part."""
    if ours.value is None or theirs.value is None or ours.spread is None or theirs.spread is None:
        return ""
    (low, high), (below, above) = ours.spread.interval, theirs.spread.interval
    if low <= above and below <= high:
        return " (the intervals overlap)"
    return f" (the {'second' if ours.metric.worse(ours.value, theirs.value) else 'first'} is better)"


def _plain(figure: Figure) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "value": figure.value,
        "unit": figure.metric.unit,
        "better": figure.metric.better,
        "why": figure.why,
    }
    spread = figure.spread
    if spread is not None:
        numbers |= {"interval": list(spread.interval), "worst": spread.worst, "worst_name": spread.worst_name}
        numbers |= {"below_floor": spread.below, "floor": figure.metric.floor, "values": list(spread.values)}
    return _finite(numbers)


def _finite(value: Any) -> Any:
    """Numbers that JSON has no word for as strings."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
