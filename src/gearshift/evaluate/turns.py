"""Models on the same examples and seeds, taking turns: what each metric says of each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gearshift.core.errors import BadValue, GearshiftError
from gearshift.core.recipe import Recipe
from gearshift.core.record import record_of
from gearshift.evaluate.energy import Meter
from gearshift.evaluate.evaluation import KEPT, Evaluation, Figure, Picture
from gearshift.evaluate.examples import Example
from gearshift.evaluate.metric import Metric
from gearshift.evaluate.performance import Performance
from gearshift.evaluate.spread import spread_of
from gearshift.evaluate.subjects import Answer, Subject, component_seconds
from gearshift.evaluate.timing import machine_description

Scores = list[tuple[float, float]]


def evaluated(
    subjects: Mapping[str, Subject],
    found: Sequence[Example],
    metrics: Sequence[Metric],
    original: str | None = None,
    on_progress: Callable[[], None] = lambda: None,
) -> dict[str, Evaluation]:
    """Measure models side by side: each sees every example, another one begins each time.

    Args:
        subjects: the models by name; each is called once before the turns.
        original: the name of the one that the others are compared with; None compares none.
        on_progress: called after each call, the first ones included.
    """
    runs = {name: Performance(subject, found[0]) for name, subject in subjects.items()}
    tables = {name: Table(metrics, compares=original not in (None, name)) for name in subjects}
    meter = Meter()
    names = list(subjects)
    for name, run in runs.items():
        run.first = subjects[name].answer(found[0]).seconds
        on_progress()
    for turn, example in enumerate(found):
        first = turn % len(names)
        answers = {}
        for name in names[first:] + names[:first]:
            answers[name] = runs[name].call(example, meter)
            on_progress()
        for name, table in tables.items():
            table.take(example, answers[name], None if original is None else answers[original])
    made = {}
    for name in names:
        other = None if original in (None, name) else runs[original]
        figures = tables[name].figures(runs[name], other)
        made[name] = _evaluation(name, runs[name], figures, tables[name], found)
    return made


class Table:
    """What one model's metrics say, example after example."""

    def __init__(self, metrics: Sequence[Metric], compares: bool) -> None:
        self.metrics = [m for m in metrics if compares or not m.compares]
        self.scores: dict[str, Scores] = {m.name: [] for m in self.metrics if not m.whole}
        self.names: dict[str, list[str]] = {name: [] for name in self.scores}
        self.reasons: dict[str, str] = {}
        self.kept: list[Picture] = []

    def take(self, example: Example, answer: Answer, original: Answer | None) -> None:
        """Judge an answer; a metric that has none says why, once."""
        for one in self.metrics:
            if one.whole or one.name in self.reasons:
                continue
            try:
                scores = _scored(one, example, answer, original)
            except (BadValue, GearshiftError) as error:
                self.reasons[one.name] = str(error)
                continue
            self.scores[one.name] += scores
            self.names[one.name] += _named(example, len(scores))
        if answer.images is not None:
            pictures = (answer.images * 255).round().byte().permute(0, 2, 3, 1).numpy()
            lead = next((self.scores[m.name] for m in self.metrics if m.compares and not m.whole), [])
            values = [s[0] for s in lead[-len(pictures) :]] if lead else [None] * len(pictures)
            self.kept += [Picture(n, v, p) for n, v, p in zip(example.names, values, pictures, strict=False)]

    def figures(self, mine: Performance, original: Performance | None) -> dict[str, Figure]:
        """Every metric's figure, in their order."""
        found: dict[str, Figure] = {}
        for one in self.metrics:
            why = self.reasons.get(one.name, "")
            if one.whole:
                value = None
                try:
                    value = float(one.function(mine, original))
                except (BadValue, GearshiftError) as error:
                    why = str(error)
                found[one.name] = Figure(one, value, why=why)
            elif why or not self.scores[one.name]:
                found[one.name] = Figure(one, None, why=why or "there was nothing to judge")
            else:
                spread = spread_of(one, self.scores[one.name], self.names[one.name])
                found[one.name] = Figure(one, spread.mean, spread)
        return found


def _scored(one: Metric, example: Example, answer: Answer, original: Answer | None) -> Scores:
    if one.truth and one.truth not in example.call:
        raise BadValue(f"the examples have no {one.truth!r} that is true")
    given: dict[str, Any] = {"weights": one.weights} if one.weights else {}
    found = one.function(example, answer, original, **given)
    return [score if isinstance(score, tuple) else (float(score), 1.0) for score in found]


def _named(example: Example, count: int) -> list[str]:
    """Names of so many values of one example."""
    return list(example.names) if count == len(example.names) else [example.names[0]] * count


def _evaluation(
    name: str, run: Performance, figures: dict[str, Figure], table: Table, found: Sequence[Example]
) -> Evaluation:
    record = record_of(run.subject.model)
    with run.subject.within():
        applied = list(record.applied[: record.on]) if record else []
        logs = list((record.last_run or {}).values()) if record and record.on else []
    recipe = str(Recipe(tuple(a.algorithm for a in applied)))
    pipeline = run.answers and table.kept and hasattr(run.subject.model, "components")
    components = component_seconds(run.subject, found[-1]) if pipeline else {}
    return Evaluation(
        name, type(run.subject.model).__name__, recipe, machine_description(), figures, components,
        tuple(n for e in found for n in e.names), tuple(run.seconds), logs, _chosen(table.kept),
    )  # fmt: skip


def _chosen(kept: list[Picture]) -> list[Picture]:
    """Some of the pictures, evenly over the examples: the report chooses among them."""
    return kept if len(kept) <= KEPT else [kept[i * len(kept) // KEPT] for i in range(KEPT)]
