"""The recommended row as large figures, and the table of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from gearshift.evaluate.cells import Column, Row, cell_number, cell_text, remark


def tiles(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """The recommended row's cells in large type, with the original's value under each; empty if no row is best."""
    best = next((r for r in rows if r.best), None)
    if best is None:
        return ""
    original = next((r for r in rows if r.original and r is not best), None)
    parts = []
    for column in columns:
        if best.cells.get(column.key) is None:
            continue
        beside = ""
        if original is not None and original.cells.get(column.key) is not None:
            beside = f'<div class="soft">original: {escape(cell_text(column, original))}</div>'
        unit = f" <small>{escape(column.unit)}</small>" if column.unit else ""
        parts.append(
            f'<div><div class="soft">{escape(column.heading)}</div><b>{escape(cell_text(column, best))}{unit}</b>'
            f"{beside}{_said(column, best, rows)}</div>"
        )
    recipe = f' <code class="soft">{escape(best.recipe)}</code>' if best.recipe else ""
    heading = f"<h3>★ {escape(best.name)}{recipe}</h3>"
    return f'<section class="card">{heading}<div class="tiles">{"".join(parts)}</div></section>'


def table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """All rows; nothing stands out but the recommended row and, in words, cells worse than the original."""
    heads = "".join(_head(c) for c in columns)
    body = "".join(_row(row, columns, rows) for row in rows)
    return (
        f'<div class="card wide"><table><thead><tr><th></th>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
        '<p class="soft">- means not measured.</p>'
    )


def _head(column: Column) -> str:
    under = ", ".join(part for part in (column.unit, column.direction) if part)
    return f'<th scope="col">{escape(column.heading)}<small>{escape(under)}</small></th>'


def _row(row: Row, columns: Sequence[Column], rows: Sequence[Row]) -> str:
    tags = ' <span class="tag star">★ best</span>' if row.best else ""
    tags += ' <span class="tag">original</span>' if row.original and row.name.lower() != "original" else ""
    recipe = f"<code>{escape(row.recipe)}</code>" if row.recipe else ""
    cells = "".join(f"<td>{escape(cell_text(c, row))}{_bar(c, row, rows)}{_said(c, row, rows)}</td>" for c in columns)
    style = ' class="best"' if row.best else ""
    return f'<tr{style}><th scope="row">{escape(row.name)}{tags}{recipe}</th>{cells}</tr>'


def _said(column: Column, row: Row, rows: Sequence[Row]) -> str:
    words = remark(column, row, rows)
    return f'<span class="worse">{escape(words)}</span>' if words else ""


def _bar(column: Column, row: Row, rows: Sequence[Row]) -> str:
    """A bar from zero to the value, on a scale that the whole column shares."""
    value = cell_number(column, row)
    finite = [n for r in rows if (n := cell_number(column, r)) is not None and 0 <= n < float("inf")]
    if not column.bar or value is None or value not in finite or max(finite) == 0:
        return ""
    share = 100 * value / max(finite)
    return (
        '<svg class="bar" aria-hidden="true"><line x1="0" x2="100%" y1="2" y2="2"/>'
        f'<rect width="{share:.1f}%" height="4"/></svg>'
    )
