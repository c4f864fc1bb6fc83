"""Terminal, Markdown and JSON say the same of each cell, and nothing misleading."""

import io
import json

import pytest
from rich.console import Console

from gearshift.core.errors import BadValue, UnknownName
from gearshift.evaluate.cells import Column, Row, remark
from gearshift.evaluate.table import render, to_json, to_markdown, write_tables

TIME = Column("time", "Time", "s", better="lower", worse="slower than the original", slack=0.05)
SPEED = Column("speed", "Speed-up", "x", better="higher", worse="slower than the original", slack=0.05)
PSNR = Column("psnr", "PSNR", "dB", ".1f", "higher")
ROWS = [
    Row("plain", cells={"time": 2.0, "speed": 1.0}, original=True),
    Row("a|b", "fora(every=2)", {"time": 1.0, "speed": 2.0, "psnr": float("inf")}, best=True),
    Row("slow", "[red]int8", {"time": 2.5, "speed": 0.8, "psnr": "n/a"}),
]
COLUMNS = [TIME, SPEED, PSNR]


@pytest.mark.parametrize("column, value, said", [(TIME, 2.2, True), (TIME, 2.05, False), (TIME, 1.0, False)])
def test_worse_means_worse_by_more_than_the_slack(column, value, said):
    row = Row("x", cells={"time": value})
    assert bool(remark(column, row, [ROWS[0], row])) is said


def test_nothing_is_said_without_an_original_a_number_or_words():
    row = Row("x", cells={"time": 9.0, "psnr": 1.0})
    assert remark(TIME, row, [row]) == ""
    assert remark(TIME, Row("y", cells={"time": "?"}), ROWS) == ""
    assert remark(PSNR, row, [*ROWS, row]) == ""


def test_direction_decides_what_is_worse():
    assert remark(SPEED, ROWS[2], ROWS) and not remark(SPEED, ROWS[1], ROWS)


def test_the_terminal_table_holds_every_cell():
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(render(COLUMNS, ROWS))
    shown = console.file.getvalue()
    for word in ("★ a|b", "fora(every=2)", "[red]int8", "∞", "n/a", "2.50", "Speed-up", "slower than the original"):
        assert word in shown


def test_markdown_keeps_one_line_per_row_and_its_bars_apart():
    lines = to_markdown(COLUMNS, ROWS).splitlines()
    assert len(lines) == 5
    assert lines[0] == "|  | Time (s) | Speed-up (x) | PSNR (dB) | recipe |"
    assert lines[3] == "| **★ a\\|b** | 1.00 | 2.00 | ∞ | `fora(every=2)` |"
    assert "2.50 (slower than the original)" in lines[4]


def test_json_is_strict_and_carries_what_it_is_told():
    read = json.loads(to_json(COLUMNS, ROWS, machine="m", seeds=[1, 2]), parse_constant=pytest.fail)
    assert read["machine"] == "m" and read["seeds"] == [1, 2]
    assert read["rows"][1]["cells"] == {"time": 1.0, "speed": 2.0, "psnr": "inf"}
    assert read["rows"][0]["cells"]["psnr"] is None
    assert read["rows"][2]["remarks"]["time"] == "slower than the original"


def test_both_files_are_written_side_by_side(tmp_path):
    markdown, data = write_tables(tmp_path / "new" / "v1.2 results.md", COLUMNS, ROWS, machine="m")
    assert (markdown.name, data.name) == ("v1.2 results.md", "v1.2 results.json")
    assert json.loads(data.read_text())["machine"] == "m"
    assert write_tables(tmp_path / "v1.2", COLUMNS, ROWS)[0].name == "v1.2.md"


@pytest.mark.parametrize(
    "options, said",
    [({"better": "up"}, "better"), ({"format": "zz"}, "format"), ({"worse": "slower"}, "what is better")],
)
def test_columns_that_could_only_mislead_are_refused(options, said):
    with pytest.raises(BadValue, match=said):
        Column("x", "X", **options)


def test_rows_that_could_only_mislead_are_refused():
    with pytest.raises(UnknownName, match="did you mean 'time'"):
        to_markdown(COLUMNS, [Row("x", cells={"tme": 1.0})])
    with pytest.raises(BadValue, match="more than once"):
        render(COLUMNS, [Row("x"), Row("x")])
    with pytest.raises(BadValue, match="original"):
        to_json(COLUMNS, [Row("x", original=True), Row("y", original=True)])
