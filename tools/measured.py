"""The numbers of README and docs: read from the tables that the benchmarks wrote (benchmarks/*.json), never typed.

In a page, `<!--= FILE | TABLE | ROW | COLUMN -->2.9x<!--/-->` is the cell of that table with its unit, and
`<!--= FILE | KEY -->...<!--/-->` a text of the file, such as the machine. TABLE is empty where a file has one table.
`filled` writes what belongs between the two comments.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
MARK = re.compile(r"<!--= (?P<source>.+?) -->(?P<shown>.*?)<!--/-->", re.DOTALL)
FORMATS = {"x": "{:.1f}x", "dB": "{:.0f} dB", "%": "{:.1f} %", "% right": "{:.0f} %", "MB": "{:.0f} MB"}


@cache
def read(name: str) -> Any:
    """What one benchmark wrote."""
    return json.loads((BENCHMARKS / f"{name}.json").read_text())


def table(name: str, key: str = "") -> dict[str, dict[str, Any]]:
    """The rows of a table: the cells by name of row.

    Raises:
        KeyError: there is no such table.
    """
    return {row["name"]: row["cells"] for row in _table(name, key)["rows"]}


def units(name: str, key: str = "") -> dict[str, str]:
    """The unit of each column of a table."""
    return {column["key"]: column["unit"] for column in _table(name, key)["columns"]}


def about(name: str, key: str = "") -> str:
    """The machine and the settings of a table."""
    found = read(name)
    inner = found.get(key, {}) if key else found
    return next(text for place in (inner, found) for text in (place.get("about"), place.get("machine")) if text)


def filled(text: str, **blocks: str) -> str:
    """A page with the numbers and the named blocks (tables) that belong into it."""

    def one(found: re.Match[str]) -> str:
        source = found["source"]
        made = f"\n\n{blocks[source]}\n" if source in blocks else shown(source)
        return f"<!--= {source} -->{made}<!--/-->"

    return MARK.sub(one, text)


def shown(source: str) -> str:
    """What a page shows of 'FILE | TABLE | ROW | COLUMN' or 'FILE | KEY'."""
    name, *path = (part.strip() for part in source.split(" | "))
    if len(path) == 1:
        return str(read(name)[path[0]])
    key, row, column = path
    value, unit = table(name, key)[row][column], units(name, key)[column]
    if isinstance(value, str):
        return value
    return FORMATS.get(unit, f"{{:.3g}} {unit}").format(value).strip()


def _table(name: str, key: str) -> Any:
    found = read(name)[key] if key else read(name)
    return found["rows"] if isinstance(found["rows"], dict) else found
