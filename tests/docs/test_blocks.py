"""Every code block of README and docs runs, and every page that a script writes is up to date."""

import importlib
import re
import shlex
import traceback
import warnings

import pytest
from support.blocks import PAGES, ROOT, blocks, commands, put_in, quicker, small_diffusion, speech_file
from support.sources import none

from gearshift.cli import main
from gearshift.core.errors import GearshiftWarning

SHELL = ("bash", "sh", "console")
ELSEWHERE = ("make ", "pip ", "git ", "python ", "pytest ", "PYTHONPATH=tests python ")  # commands of other programs
MADE = "<!-- made by "  # how a page begins that a script writes
BY_HAND = [page for page in PAGES if not page.read_text().startswith(MADE) and page.stem != "CONTRIBUTING"]
MEASURED = re.compile(r"\d[\d.,]*\s?(?:x|dB|%|ms|s|seconds|MB|GB|M|times)(?![\w-])")
NO_MEASUREMENT = {"40 dB", "45 dB", "25 dB", "1 %", "30 seconds", "5.4 M"}  # asked, explained, or a size


@pytest.fixture
def anywhere(monkeypatch, tmp_path):
    """A folder of one's own with a sound file, small models, and loud noise taken for speech."""
    from gearshift.runtimes import whisper_ctranslate
    from gearshift.runtimes.speech.vad import by_energy

    monkeypatch.chdir(tmp_path)
    speech_file(tmp_path / "talk.wav")
    put_in(monkeypatch)
    monkeypatch.setattr("gearshift.measure.calls.TURNS", 1)  # no test looks at how long a call took
    monkeypatch.setattr(whisper_ctranslate, "by_silero", lambda samples, threads: by_energy(samples))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_runs(page, anywhere):
    """The blocks of a page are one program, from the top down."""
    names = {}
    for block in blocks(page, "python"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GearshiftWarning)
            try:
                exec(compile(quicker(block.text), str(block), "exec"), names)
            except Exception:
                pytest.fail(f"{block}\n{traceback.format_exc()}")


def test_commands_run(anywhere, capsys):
    """Every command of the product runs, and prints what the page shows."""
    small_diffusion("").save_pretrained("my-model")
    ran, failed = 0, []
    for block in (block for page in PAGES for block in blocks(page, *SHELL)):
        for command, wanted in commands(block):
            if command.startswith(ELSEWHERE):
                continue
            code, ran = main(shlex.split(command.removeprefix("gearshift "))), ran + 1
            printed = "".join(capsys.readouterr())
            if wanted not in printed or (code and not wanted):
                failed.append(f"{block}: {command} exited with {code} and printed {printed}")
    none(failed)
    assert ran > 3


def test_written_pages_and_figures_are_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    pages, figures = importlib.import_module("pages"), importlib.import_module("figures")
    written = {**pages.pages(), **pages.fillings()}
    none(f"{path.name}: run tools/pages.py" for path, text in written.items() if text != path.read_text())
    none(f"{name}: run tools/figures.py" for name in figures.stale())


def test_links_of_pages_outside_of_the_site_lead_somewhere():
    """The site's builder checks the links inside of `docs`."""
    lost = []
    for page in ROOT.glob("*.md"):
        for target, anchor in re.findall(r"\]\(([\w/.-]+)(?:#([\w-]+))?\)", page.read_text()):
            path = page.parent / target
            heads = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE) if path.exists() else []
            slugs = {"", *(re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads)}
            lost += [] if path.exists() and anchor in slugs else [f"{page.name}: {target}#{anchor}"]
    none(lost)


def test_no_measured_number_is_typed():
    """A number with a unit is filled in from a benchmark (`tools/measured.py`), or is no measurement."""
    found = []
    for page in BY_HAND:
        text = re.sub(
            r"^ *```.*?^ *```|<!--=.*?<!--/-->|`[^`]*`|\]\([^)]*\)",
            "",
            page.read_text(),
            flags=re.DOTALL | re.MULTILINE,
        )
        found += [
            f"{page.relative_to(ROOT)}: {number}" for number in MEASURED.findall(text) if number not in NO_MEASUREMENT
        ]
    none(found)
