"""Tuning: what a search found. It prints, applies the best recipe, and is saved with its figures."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gearshift.core.boundary import path_of
from gearshift.core.errors import BadValue
from gearshift.core.files import write_atomically
from gearshift.core.recipe import Recipe
from gearshift.core.yamls import write_yaml
from gearshift.evaluate.cells import Cell, Column, Row
from gearshift.evaluate.metric import METRICS
from gearshift.evaluate.report import Report, write_report
from gearshift.evaluate.table import render, to_json
from gearshift.tune.candidate import Tried, front
from gearshift.tune.goal import TuningGoal

RECIPE, TABLE, PAGE = "recipe.yaml", "tuning.json", "report.html"
WIDTH = 110
SHOWN = 12  # rows of the printed table
WORDS = {"latency": "as fast", "throughput": "as fast in batches", "memory": "less memory", "disk": "less disk"}


@dataclass(frozen=True, repr=False)
class Tuning:
    """What a search found.

    Attributes:
        candidates: every recipe that was measured, best gain first.
        best: the one of the largest gain that keeps all that was asked; None if none is better than the original.
        refused: why algorithms could not be tried, by name.
        chosen_by, held_out: how many items it was chosen by, and checked on.
        seconds: that the search took.
        ended: why it ended before its time; empty if it did not.
    """

    model: str
    goal: TuningGoal
    machine: str
    candidates: Sequence[Tried]
    best: Tried | None
    refused: Mapping[str, str]
    chosen_by: int
    held_out: int
    seconds: float
    ended: str = ""
    applier: Callable[[Any, Recipe], Any] | None = field(default=None, compare=False)

    @property
    def front(self) -> list[Tried]:
        """Candidates that no other one beats in both the gain and the first thing to be kept."""
        return front(self.candidates, self.goal)

    @property
    def recipe(self) -> Recipe:
        """The best recipe; an empty one if nothing is better than the original."""
        return Recipe.of(self.best.recipe) if self.best else Recipe()

    def apply(self, model: Any) -> Any:
        """Apply the best recipe to a model, with the calibration data of the search.

        Raises:
            BadValue: if nothing was better than the original.
        """
        if self.best is None or self.applier is None:
            raise BadValue("There is nothing to apply: no recipe was better than the original.")
        return self.applier(model, self.recipe)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the recipe with its figures (YAML), every candidate (JSON) and the report (HTML) into a folder."""
        place = path_of(folder, "A folder to save into")
        write_atomically(place / RECIPE, self.to_yaml())
        write_atomically(place / TABLE, self.to_json())
        self.report(place / PAGE)
        return place

    def to_yaml(self) -> str:
        """The best recipe as `gs.optimize` reads it, with what it was measured to be, and on which machine."""
        tuned: dict[str, Any] = {"machine": self.machine, "model": self.model, "objective": self.goal.objective}
        tuned |= {"keep": [str(c) for c in self.goal.keep], "candidates": len(self.candidates)}
        if self.best is not None:
            tuned |= {"gain": round(self.best.gain, 3), "gain_held_out": round(self.best.held_gain, 3)}
            tuned |= {name: _rounded(self._values(self.best, name)) for name in self._metrics()}
        return write_yaml({**self.recipe.to_dict(), "tuned": tuned})

    def to_json(self) -> str:
        """Every candidate with its figures and what is against it."""
        found = [{"recipe": c.recipe, "gain": c.gain, "why": c.why, "found": dict(c.found)} for c in self.candidates]
        about: dict[str, Any] = {"model": self.model, "machine": self.machine, "objective": self.goal.objective}
        about |= {"keep": [str(c) for c in self.goal.keep], "refused": dict(self.refused)}
        about |= {"candidates": _without_traces(found), "seconds": self.seconds}
        return to_json(self._columns(), self._rows(self.candidates), **about)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one HTML file: the best recipe, every candidate, the front, what was refused."""
        front = [f"On the front: {c.recipe} ({c.gain:.2f}x)." for c in self.front]
        notes = [*self._notes(), *front, *(f"Not tried, {name}: {why}" for name, why in self.refused.items())]
        page = Report(
            "Tuned: " + self.model,
            self._heading(),
            self.machine,
            self._columns(),
            self._rows(self.candidates),
            notes=notes,
        )
        return write_report(Path(path), page)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        console = Console(file=text, width=WIDTH)
        console.print(self._heading(), soft_wrap=True, highlight=False)
        shown = [Row(r.name, "", r.cells, r.best) for r in self._rows(self.candidates[:SHOWN])]
        console.print(render(self._columns(), shown))
        for note in self._notes():
            console.print(note, soft_wrap=True, highlight=False)
        return text.getvalue().rstrip()

    def __repr__(self) -> str:
        return f"<Tuning of {self.model}: {self.best.recipe if self.best else 'nothing'} of {len(self.candidates)}>"

    def _heading(self) -> str:
        keep = ", ".join(map(str, self.goal.keep))
        tried = f"{len(self.candidates)} candidates in {self.seconds:.0f} s"
        asked = f"{self.model}, {self.goal.objective}, keeping {keep}: {tried}."
        if self.best is None:
            return f"{asked} Nothing here is better than the original."
        said = f"{self.best.held_gain:.2f} times {WORDS[self.goal.objective]} on examples that it was not chosen by"
        return f"{asked} Best: {self.best.recipe}, {said}."

    def _notes(self) -> list[str]:
        notes = [f"Chosen by {self.chosen_by} items, checked on {self.held_out} others. {self.machine}."]
        notes += [self.ended] if self.ended else []
        if self.best is not None and (interval := self.best.interval):
            low, high = interval
            notes.append(f"95 % of the best one's gain: {low:.2f} to {high:.2f}.")
            for rival in self.candidates:
                theirs = rival.interval
                if rival is not self.best and not rival.why and theirs and theirs[1] >= low:
                    notes.append(
                        f"Its gain is not told apart from that of {rival.recipe} ({theirs[0]:.2f} to {theirs[1]:.2f})."
                    )
        if self.refused:
            notes.append(f"Not tried: {', '.join(self.refused)} (`refused` and the report say why).")
        return notes

    def _metrics(self) -> list[str]:
        return list(dict.fromkeys([*(c.metric for c in self.goal.keep), "latency"]))

    def _values(self, one: Tried, name: str) -> dict[str, float | None]:
        """A metric's mean and worst value, chosen by and held out."""
        kinds = ("mean",) if METRICS.get(name).whole else ("mean", "worst")
        return {
            f"{of}{'_held_out' if held else ''}": one.value(name, of, held) for held in (False, True) for of in kinds
        }

    def _columns(self) -> list[Column]:
        found = [
            Column("gain", "gain", "x", ".2f", "higher", bar=True),
            Column("held", "held out", "x", ".2f", "higher"),
        ]
        for condition in self.goal.keep:
            metric = METRICS.get(condition.metric)
            heading = f"worst {metric.name}" if condition.of == "worst" else metric.name
            found.append(
                Column(
                    f"{condition.of}:{metric.name}",
                    heading.replace("_", " "),
                    metric.unit,
                    metric.format,
                    metric.better,
                )
            )
        unique = {c.key: c for c in found}
        return [*unique.values(), Column("why", "what is against it")]

    def _rows(self, shown: Sequence[Tried]) -> list[Row]:
        return [Row(c.recipe, "", self._cells(c), best=c is self.best) for c in shown]

    def _cells(self, one: Tried) -> dict[str, Cell]:
        cells: dict[str, Cell] = {"gain": one.gain or None, "held": one.held_gain or None, "why": one.why or None}
        return cells | {f"{c.of}:{c.metric}": one.value(c.metric, c.of) for c in self.goal.keep}


def _rounded(values: dict[str, float | None]) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in values.items() if value is not None}


def _without_traces(found: list[dict[str, Any]]) -> Any:
    """Plain data that JSON can hold: numbers that it has no word for as strings."""
    for one in found:
        one["found"].pop("trace", None)
    return json.loads(json.dumps(found), parse_constant=str)
