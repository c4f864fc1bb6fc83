"""Status: the record as plain data and as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gearshift.core.model import size_bytes
from gearshift.core.record import Record


@dataclass(frozen=True)
class Status:
    """What was done to a model.

    Attributes:
        applied: for each algorithm its name, parameters, notes and figures.
        size: bytes of the parameters and buffers now.
        last_run: log of the newest sampling run by algorithm; iterate over one for its decisions.
    """

    applied: list[dict[str, Any]]
    size: int
    last_run: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(record: Record | None, model: Any) -> Status:
        """The status of a model with this record."""
        applied = [
            {"name": a.algorithm.name, "params": a.algorithm.values(), "notes": a.notes, "figures": a.figures}
            for a in (record.applied if record else [])
        ]
        return Status(applied, size_bytes(model), dict(record.last_run or {}) if record else {})

    def __str__(self) -> str:
        if not self.applied:
            return "Nothing was done to this model."
        lines = [f"{self.size / 1e6:.1f} MB of weights"]
        for entry in self.applied:
            params = ", ".join(f"{k}={v!r}" for k, v in entry["params"].items())
            lines.append(f"{entry['name']}({params})")
            lines += [f"  {note}" for note in entry["notes"]]
            lines += [f"  {name.replace('_', ' ')}: {_figure(value)}" for name, value in entry["figures"].items()]
        lines += [str(log) for log in self.last_run.values()]
        return "\n".join(lines)


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
