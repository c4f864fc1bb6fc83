"""Evaluations of several models on the same items, as one table and one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gearshift.evaluate.cells import Cell, Column, Row
from gearshift.evaluate.report import Gallery, Report, Timeline, write_report

if TYPE_CHECKING:
    from gearshift.evaluate.evaluation import Evaluation

PICTURES = 8
WORST = "worst_"  # before a metric's name: the worst item's value
BARS = ("speedup", "throughput", "tokens_per_second", "real_time_factor")


def columns_of(shown: Sequence[Evaluation]) -> list[Column]:
    """A column for each metric that was measured, and one for its worst item where it compares items."""
    found: dict[str, Column] = {}
    for evaluation in sorted(shown, key=lambda e: -len(e.figures)):
        for name, figure in evaluation.figures.items():
            one, heading = figure.metric, name.replace("_", " ")
            if figure.value is None or name in found:
                continue
            slower = "slower than the original" if name == "speedup" else ""
            found[name] = Column(name, heading, one.unit, one.format, one.better, slower, bar=name in BARS)
            if one.compares and figure.spread is not None and len(figure.spread.values) > 1:
                found[WORST + name] = Column(WORST + name, f"worst {heading}", one.unit, one.format, one.better)
    return list(found.values())


def rows_of(
    shown: Sequence[Evaluation], columns: Sequence[Column], original: str | None = None, best: str | None = None
) -> list[Row]:
    """A row for each evaluation; `original` and `best` are names of theirs."""
    keys = [c.key for c in columns]
    cells = {e.name: {k: v for k, v in cells_of(e).items() if k in keys} for e in shown}
    return [Row(e.name, e.recipe, cells[e.name], best=e.name == best, original=e.name == original) for e in shown]


def cells_of(evaluation: Evaluation) -> dict[str, Cell]:
    """The values of an evaluation by column."""
    cells: dict[str, Cell] = {n: f.value for n, f in evaluation.figures.items() if f.value is not None}
    spreads = {n: f.spread for n, f in evaluation.figures.items() if f.metric.compares and f.spread is not None}
    return {**cells, **{WORST + n: s.worst for n, s in spreads.items() if len(s.values) > 1}}


def write_page(
    path: str | Path,
    shown: Sequence[Evaluation],
    title: str,
    intro: str,
    notes: Sequence[str] = (),
    original: str | None = None,
    best: str | None = None,
) -> Path:
    """Write one HTML file: the table, the prompts that are worst of all beside the original's, each step's decision.

    Args:
        notes: lines at the end, after those about where seconds go and which items are worst.
    """
    columns = columns_of(shown)
    logs = [Timeline(e.name, e.logs) for e in shown if e.logs]
    rows = rows_of(shown, columns, original, best)
    page = Report(title, intro, shown[0].machine, columns, rows, _gallery(shown), logs, [*_said(shown), *notes])
    return write_report(path, page)


def _said(shown: Sequence[Evaluation]) -> list[str]:
    """Where the seconds of a call go, the worst item of each metric, and why something was not measured."""
    lines = []
    for e in shown:
        parts = [f"{name} {seconds:.3f} s" for name, seconds in e.components.items()]
        lines += [f"One call of {e.name}: {', '.join(parts)}."] if parts else []
        for name, figure in e.figures.items():
            if figure.metric.compares and figure.spread is not None and len(figure.spread.values) > 1:
                one, spread = figure.metric, figure.spread
                low, high = (format(v, one.format) for v in spread.interval)
                below = "" if spread.below is None else f", {100 * spread.below:.0f} % beyond {one.floor:g}"
                lines.append(
                    f"{e.name}, {name}: {one.text(spread.mean)} (95 % interval {low} to {high}{below}), "
                    f"worst {one.text(spread.worst)}: {spread.worst_name}."
                )
            elif figure.why:
                lines.append(f"{e.name}, {name} was not measured: {figure.why.rstrip('.')}.")
    return lines


def _gallery(shown: Sequence[Evaluation]) -> Gallery | None:
    """The items whose pictures are worst in any row, worst first."""
    able = [e for e in shown if e.pictures and len(e.pictures) == len(shown[0].pictures)]
    scored = [e for e in able if e.scores]
    if not able:
        return None
    places = range(len(able[0].pictures))
    if scored:
        sign = 1 if scored[0].scores_better == "higher" else -1
        places = sorted(places, key=lambda i: min(sign * e.scores[i] for e in scored))  # type: ignore[assignment]
    chosen = list(places)[:PICTURES]
    names = [able[0].pictures[i].name for i in chosen]
    return Gallery(names, {e.name: [e.pictures[i].picture for i in chosen] for e in able})
