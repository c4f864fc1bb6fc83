"""Status: the record as plain data and as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gearshift.core.model import size_bytes
from gearshift.core.record import Record

SHOWN = 3  # rows of a table
WIDEST = 400  # letters of a line


@dataclass(frozen=True, repr=False)
class Status:
    """What was done to a model.

    Attributes:
        applied: for each algorithm its name, parameters, notes and figures.
        size: bytes of the parameters and buffers now.
        figures: what was measured of the model as a whole.
        last_run: log of the newest sampling run by algorithm; iterate over one for its decisions.
    """

    applied: list[dict[str, Any]]
    size: int
    last_run: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def of(record: Record | None, model: Any) -> Status:
        """The status of a model with this record."""
        applied = [
            {"name": a.algorithm.name, "params": a.algorithm.values(), "notes": a.notes, "figures": a.figures}
            for a in (record.applied if record else [])
        ]
        if record is None:
            return Status(applied, size_bytes(model))
        return Status(applied, size_bytes(model), dict(record.last_run or {}), dict(record.figures))

    def __str__(self) -> str:
        if not self.applied:
            return "Nothing was done to this model."
        lines = [f"{self.size / 1e6:.1f} MB of weights"]
        lines += [_line(name, value) for name, value in self.figures.items()]
        for entry in self.applied:
            params = ", ".join(f"{k}={v!r}" for k, v in entry["params"].items())
            lines.append(f"{entry['name']}({params})")
            lines += [f"  {note}" for note in entry["notes"]]
            lines += [f"  {line}" for figure in entry["figures"].items() for line in _table(*figure)]
        lines += [str(log) for log in self.last_run.values()]
        return "\n".join(line if len(line) <= WIDEST else f"{line[:WIDEST]} ..." for line in lines)

    def __repr__(self) -> str:
        names = ", ".join(entry["name"] for entry in self.applied) or "nothing"
        return f"<Status: {names} applied, {self.size / 1e6:.1f} MB of weights>"


def _table(name: str, value: Any) -> list[str]:
    """A figure in one line; a table (dicts by row name) as its extremes and where the whole of it is."""
    if not isinstance(value, dict) or len(value) <= SHOWN:
        return [_line(name, value)]
    rows = sorted(value.items(), key=lambda row: row[1] if isinstance(row[1], (int, float)) else 0)
    shown = ", ".join(f"{key} {_figure(v)}" for key, v in rows[:SHOWN])
    return [_line(name, f"{shown}, and {len(value) - SHOWN} more")]


def _line(name: str, value: Any) -> str:
    return f"{name.replace('_', ' ')}: {_figure(value)}"


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_figure(v)}" for key, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
