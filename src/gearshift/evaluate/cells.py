"""Columns and rows of results, and what the terminal, Markdown, JSON and the report all say about a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gearshift.core.errors import BadValue, UnknownName

Cell = str | float | None
UNMEASURED = "-"


@dataclass(frozen=True)
class Column:
    """One measured quantity.

    Attributes:
        key: its name in `Row.cells`.
        unit: shown under the heading, e.g. 's', 'dB', 'MiB'.
        format: a format specification for numbers, e.g. '.2f'.
        better: which direction is better; None where neither is.
        worse: what is said of a cell that is worse than the original's, e.g. 'slower than the original'; needs
            `better`. Leave it empty where being worse goes without saying, such as fidelity to the original.
        slack: relative difference that still counts as equal to the original; take the timing's spread.
        bar: draw a bar from zero beside the number in the report; for quantities with a true zero.
    """

    key: str
    heading: str
    unit: str = ""
    format: str = ".2f"
    better: Literal["higher", "lower"] | None = None
    worse: str = ""
    slack: float = 0.02
    bar: bool = False

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower", None):
            raise BadValue(f"better must be 'higher', 'lower' or None for column {self.key!r}; got {self.better!r}.")
        if self.worse and self.better is None:
            raise BadValue(f"Column {self.key!r} says {self.worse!r} of worse cells, so it must say what is better.")
        try:
            format(1.0, self.format)
        except ValueError:
            raise BadValue(f"format {self.format!r} of column {self.key!r} cannot format a number.") from None

    @property
    def direction(self) -> str:
        """'higher is better', 'lower is better' or nothing."""
        return f"{self.better} is better" if self.better else ""


@dataclass(frozen=True)
class Row:
    """One way of running the model.

    Attributes:
        recipe: what was applied, in the words of a recipe; empty for the original.
        cells: values by column key; None or absent where not measured.
        best: this row is the one to recommend; the caller decides, and says by what measure in the report's notes.
        original: this row is the unoptimized model that others are compared with; at most one row is.
    """

    name: str
    recipe: str = ""
    cells: Mapping[str, Cell] = field(default_factory=dict)
    best: bool = False
    original: bool = False


def check(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Refuse what could only be shown wrongly.

    Raises:
        BadValue: two columns or rows of one name, or two originals.
        UnknownName: a cell whose column does not exist.
    """
    for kind, names in (("column", [c.key for c in columns]), ("row", [r.name for r in rows])):
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise BadValue(f"Each {kind} needs a name of its own; {twice[0]!r} comes more than once.")
    if sum(r.original for r in rows) > 1:
        raise BadValue("Only one row can be the original; more than one says so.")
    keys = [c.key for c in columns]
    for row in rows:
        for key in row.cells:
            if key not in keys:
                raise UnknownName(f"column for a cell of row {row.name!r} named", key, keys)


def cell_text(column: Column, row: Row) -> str:
    """The cell as shown, without its unit; a dash where nothing was measured."""
    value = row.cells.get(column.key)
    if value is None:
        return UNMEASURED
    if isinstance(value, str):
        return value
    return "∞" if value == float("inf") else format(value, column.format)


def cell_number(column: Column, row: Row) -> float | None:
    """The cell's number where it is one."""
    value = row.cells.get(column.key)
    return None if isinstance(value, str) or value is None else float(value)


def remark(column: Column, row: Row, rows: Sequence[Row]) -> str:
    """`column.worse` where the cell is worse than the original's by more than the slack, else nothing."""
    original = next((r for r in rows if r.original), None)
    if not column.worse or original is None or row is original:
        return ""
    mine, theirs = cell_number(column, row), cell_number(column, original)
    if mine is None or theirs is None:
        return ""
    loss = mine - theirs if column.better == "lower" else theirs - mine
    return column.worse if loss > column.slack * abs(theirs) else ""
