"""The same results for the terminal, for Markdown and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from gearshift.core.files import write_atomically
from gearshift.evaluate.cells import Cell, Column, Row, cell_text, check, remark


def render(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    """A table for rich's console; the recommended row is starred, cells worse than the original say so."""
    check(columns, rows)
    table = Table(header_style="bold")
    table.add_column("")
    for column in columns:
        heading = Text(column.heading)
        heading.append(f"\n{column.unit}", style="dim")
        table.add_column(heading, justify="right")
    recipes = any(row.recipe for row in rows)
    if recipes:
        table.add_column("Recipe", overflow="fold")
    for row in rows:
        cells = [_cell(column, row, rows) for column in columns]
        name = Text(_name(row), style="bold green" if row.best else "")
        table.add_row(name, *cells, *([Text(row.recipe)] if recipes else []))
    return table


def to_markdown(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """A pipe table, ending in a line break."""
    check(columns, rows)
    heads = [f"{c.heading} ({c.unit})" if c.unit else c.heading for c in columns]
    lines = [["", *heads, "recipe"], ["---", *["---:"] * len(columns), "---"]]
    for row in rows:
        cells = [
            f"{cell_text(c, row)} ({said})" if (said := remark(c, row, rows)) else cell_text(c, row) for c in columns
        ]
        lines.append([f"**{_name(row)}**" if row.best else row.name, *cells, f"`{row.recipe}`" if row.recipe else ""])
    return "".join(f"| {' | '.join(_flat(cell) for cell in line)} |\n" for line in lines)


def to_json(columns: Sequence[Column], rows: Sequence[Row], **about: object) -> str:
    """Columns and rows as JSON, ending in a line break.

    Args:
        about: further entries at the top, e.g. machine, versions, seeds, prompts; anything that JSON can hold.

    Numbers that JSON has no word for become the strings 'inf', '-inf' and 'nan'.
    """
    check(columns, rows)
    heads = [{"key": c.key, "heading": c.heading, "unit": c.unit, "better": c.better} for c in columns]
    body = [
        {
            "name": row.name,
            "recipe": row.recipe,
            "original": row.original,
            "best": row.best,
            "cells": {c.key: _plain(row.cells.get(c.key)) for c in columns},
            "remarks": {c.key: said for c in columns if (said := remark(c, row, rows))},
        }
        for row in rows
    ]
    whole = {**about, "columns": heads, "rows": body}
    return json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_tables(
    path: str | Path, columns: Sequence[Column], rows: Sequence[Row], **about: object
) -> tuple[Path, Path]:
    """Write the Markdown and, beside it, the JSON: `path` with the endings .md and .json, folders made as needed."""
    markdown, data = to_markdown(columns, rows), to_json(columns, rows, **about)
    path = Path(path)
    path = path.with_suffix("") if path.suffix in (".md", ".json") else path
    targets = path.with_name(path.name + ".md"), path.with_name(path.name + ".json")
    write_atomically(targets[0], markdown)
    write_atomically(targets[1], data)
    return targets


def _name(row: Row) -> str:
    return f"★ {row.name}" if row.best else row.name


def _cell(column: Column, row: Row, rows: Sequence[Row]) -> Text:
    cell = Text(cell_text(column, row))
    if said := remark(column, row, rows):
        cell.append(f"\n{said}", style="yellow")
    return cell


def _flat(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _plain(value: Cell) -> Cell:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
