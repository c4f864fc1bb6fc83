"""One self-contained HTML file that shows results: figures, table, pictures, and what was done on each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from gearshift.core.errors import UnknownName
from gearshift.core.files import write_atomically
from gearshift.evaluate.cells import Column, Row, check
from gearshift.evaluate.page import gallery as pictures
from gearshift.evaluate.page import results, strip
from gearshift.evaluate.page.gallery import Gallery
from gearshift.evaluate.page.strip import Timeline
from gearshift.evaluate.page.style import SHEET

__all__ = ["Column", "Gallery", "Report", "Row", "Timeline", "write_report"]


@dataclass(frozen=True)
class Report:
    """What the report shows, from top to bottom.

    Attributes:
        title: a heading.
        intro: a paragraph or more, separated by empty lines.
        machine: what it was measured on, e.g. `timing.machine()`.
        gallery: pictures by row name; None for none.
        timelines: logs by row name.
        notes: how it was measured, seeds, versions, by what measure the best row is best; one line each.
    """

    title: str
    intro: str
    machine: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    gallery: Gallery | None = None
    timelines: Sequence[Timeline] = field(default_factory=list)
    notes: Sequence[str] = field(default_factory=list)


def write_report(path: str | Path, report: Report) -> Path:
    """Write the report as one HTML file that loads nothing and runs nothing; folders are made as needed.

    All text is escaped, so names and prompts may hold anything.

    Raises:
        BadValue: two columns or rows of one name, or two originals.
        UnknownName: a cell, gallery entry or timeline of a column or row that does not exist.
        MissingExtra: there is a gallery but no pillow.
    """
    check(report.columns, report.rows)
    names = [r.name for r in report.rows]
    shown = [*(report.gallery.images if report.gallery else ()), *(t.name for t in report.timelines)]
    for name in shown:
        if name not in names:
            raise UnknownName("row of the report", name, names)
    page = _page(report)
    write_atomically(path, page)
    return Path(path)


def _page(report: Report) -> str:
    intro = "".join(f'<p class="intro">{escape(p)}</p>' for p in report.intro.split("\n\n") if p.strip())
    body = [
        f"<h1>{escape(report.title)}</h1>{intro}",
        f'<p class="soft">Measured on: {escape(report.machine)}</p>' if report.machine else "",
        results.tiles(report.columns, report.rows),
        _section("Results", results.table(report.columns, report.rows) if report.rows else ""),
        _section("Pictures", pictures.gallery(report.gallery) if report.gallery else ""),
        _section("Steps", strip.timelines(report.timelines) if report.timelines else ""),
        _section("Notes", _notes(report.notes)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{SHEET}</style></head>\n"
        f"<body><main>{''.join(part for part in body if part)}</main></body></html>\n"
    )


def _section(heading: str, content: str) -> str:
    return f"\n<h2>{heading}</h2>\n{content}" if content else ""


def _notes(notes: Sequence[str]) -> str:
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{lines}</ul>' if lines else ""
