"""The report shows everything, loads nothing, and lets no name run as HTML."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from gearshift.core.errors import BadValue, UnknownName
from gearshift.evaluate.report import Column, Gallery, Report, Row, Timeline, write_report
from gearshift.steps.decision import Action, Decision, RunLog

pytest.importorskip("PIL")
HOSTILE = "<img src=x onerror=alert(1)>\"' & </style>"
COLUMNS = [
    Column("time", "Time", "s", better="lower", worse="slower than the original", bar=True),
    Column("psnr", "PSNR", "dB", ".1f", "higher"),
]
ROWS = [
    Row("plain", cells={"time": 2.0}, original=True),
    Row("quick", "fora(every=2)", {"time": 1.0, "psnr": 41.25}, best=True),
    Row("slow", "int8", {"time": 2.5, "psnr": float("inf")}),
]


class Tags(HTMLParser):
    """Counts tags and refuses ones that were never closed."""

    VOID = frozenset({"meta", "img", "br", "rect", "line"})

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def log(computed, total=6, branches=1, recorded=6):
    kept = RunLog("fora", "backbone", total)
    for branch in range(branches):
        for step in range(recorded):
            on = step in computed or (branch == 1 and step == 5)
            kept.note(
                Decision(
                    step, "backbone", branch, Action.COMPUTE if on else Action.REUSE, None, "every 2nd" if on else ""
                )
            )
    return kept


def page(tmp_path, **changed):
    pictures = {
        name: [np.full((8, 8, 3), 10 * i + j, np.uint8) for j in range(2)] for i, name in enumerate(["plain", "quick"])
    }
    parts = {
        "title": "A title",
        "intro": "One.\n\nTwo.",
        "machine": "2 CPU cores",
        "columns": COLUMNS,
        "rows": ROWS,
        "gallery": Gallery(["a red circle", "a cat"], pictures),
        "timelines": [Timeline("quick", [log({0, 2, 4})])],
        "notes": ["seeds 0 to 3"],
    }
    text = write_report(tmp_path / "new" / "report.html", Report(**{**parts, **changed})).read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    return text, tags.seen


def test_every_row_prompt_and_note_is_there(tmp_path):
    text, _ = page(tmp_path)
    for word in (
        "plain",
        "quick",
        "slow",
        "fora(every=2)",
        "41.2",
        "∞",
        "a red circle",
        "a cat",
        "seeds 0 to 3",
        "2 CPU",
    ):
        assert word in text


def test_it_loads_nothing_and_runs_nothing(tmp_path):
    text, tags = page(tmp_path)
    assert "http" not in text and "<script" not in text and "@import" not in text
    assert set(re.findall(r"url\((.*?)\)", text)) == {"#hatch"}
    assert all(attrs["src"].startswith("data:image/png;base64,") for tag, attrs in tags if tag == "img")
    assert not {"link", "script", "iframe", "object"} & {tag for tag, _ in tags}


def test_only_the_row_that_is_slower_says_so(tmp_path):
    text, _ = page(tmp_path)
    assert text.count("slower than the original") == 1
    assert text.index(">slow<") < text.index("slower than the original")


def test_small_pictures_stay_crisp_and_large_ones_smooth(tmp_path):
    large = {"plain": [np.zeros((300, 300, 3), np.uint8)]}
    _, tags = page(tmp_path, gallery=Gallery(["big"], large))
    assert [a.get("class") for t, a in tags if t == "img"] == [None]
    _, tags = page(tmp_path)
    assert {a.get("class") for t, a in tags if t == "img"} == {"small"}


def test_pictures_say_how_close_they_are(tmp_path):
    text, _ = page(tmp_path)
    assert text.count("28.1 dB") == 2  # every pixel is off by 10 of 255
    same = {"plain": [np.zeros((4, 4, 3), np.uint8)], "quick": [np.zeros((4, 4, 3), np.uint8)]}
    assert "identical" in page(tmp_path, gallery=Gallery(["x"], same))[0]


def test_steps_differ_by_shape_as_well_as_color_and_give_reasons(tmp_path):
    text, _ = page(tmp_path)
    strip = text.split('class="strip"')[1].split("</svg>")[0]
    assert strip.count('class="computed"') == 3 and strip.count("url(#hatch)") == 3
    assert len(set(re.findall(r' height="(\d+)"', strip))) == 2
    assert "<title>step 2: computed (every 2nd)</title>" in strip
    assert "fora at the backbone: 3 of 6 steps computed" in text
    assert "computed (every 2nd): 0, 2, 4" in text
    assert [int(n) for n in re.findall(r">(\d+)</text>", strip)] == list(range(6))


def test_passes_that_did_the_same_share_a_strip_and_others_do_not(tmp_path):
    same, _ = page(tmp_path, timelines=[Timeline("quick", [log({0, 5}, branches=2)])])
    other, _ = page(tmp_path, timelines=[Timeline("quick", [log({0}, branches=2)])])
    assert same.count('class="strip"') == 1 and other.count('class="strip"') == 2
    assert "pass 2 of each step" in other


def test_steps_without_a_record_are_drawn_as_such(tmp_path):
    text, _ = page(tmp_path, timelines=[Timeline("quick", [log({0}, total=9)]), Timeline("slow", [RunLog("x", "y")])])
    assert text.count('class="unknown"') == 3 and "3 of 9 steps not recorded" in text and "No log." in text


def test_hostile_names_are_only_text(tmp_path):
    kept = RunLog(HOSTILE, HOSTILE, 1)
    kept.note(Decision(0, HOSTILE, 0, Action.COMPUTE, HOSTILE, HOSTILE))
    column = Column("time", HOSTILE, HOSTILE, better="lower", worse=HOSTILE)
    rows = [
        Row("plain", HOSTILE, {"time": 1.0}, original=True),
        Row(HOSTILE, HOSTILE, {"time": 2.0}, best=True),
        Row("other", "", {"time": HOSTILE}),
    ]
    text, tags = page(
        tmp_path,
        title=HOSTILE,
        intro=HOSTILE,
        machine=HOSTILE,
        notes=[HOSTILE],
        columns=[column],
        rows=rows,
        gallery=Gallery([HOSTILE], {HOSTILE: [np.zeros((2, 2, 3), np.uint8)]}),
        timelines=[Timeline(HOSTILE, [kept])],
    )
    assert "<img src=x" not in text and text.count("</style>") == 1
    assert not any(name.startswith("on") for _, attrs in tags for name in attrs)
    assert sum(tag == "img" for tag, _ in tags) == 1


def test_a_report_of_rows_alone_has_no_empty_sections(tmp_path):
    text, _ = page(tmp_path, gallery=None, timelines=[], notes=[])
    assert "<h2>Results</h2>" in text
    assert not {"Pictures", "Steps", "Notes"} & set(re.findall(r"<h2>(.*?)</h2>", text))


def test_what_belongs_to_no_row_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'quick'"):
        page(tmp_path, timelines=[Timeline("quik", [])])
    with pytest.raises(BadValue, match="2 images for 1 captions"):
        Gallery(["x"], {"plain": [np.zeros((2, 2, 3), np.uint8)] * 2})
    with pytest.raises(BadValue, match="uint8"):
        Gallery(["x"], {"plain": [np.zeros((2, 2, 3), np.float32)]})
