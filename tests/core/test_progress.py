"""Long work tells how far it is and how long it still takes; short work says nothing."""

import sys
import time

import pytest

from gearshift.core import progress as module
from gearshift.core.progress import progress, track


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when they are told to."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_work_off_a_terminal_says_now_and_then_how_long_it_still_takes(clock, capsys):
    for _ in track(range(10), "awq calibrates blocks"):
        clock[0] += 16
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "gearshift: awq calibrates blocks: 2 of 10, about 2 min left."
    assert told[1] == "gearshift: awq calibrates blocks: 4 of 10, about 96 s left." and len(told) == 4


def test_short_work_and_work_inside_of_other_work_say_nothing(clock, capsys):
    for _ in track(range(3), "outer"):
        clock[0] += 5
        for _ in track(range(3), "inner"):
            clock[0] += 1
    with progress("after an error") as bar, pytest.raises(ZeroDivisionError), progress("inside", 2):
        bar.update(1, 2)
        _ = 1 / 0
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar_after_a_while(monkeypatch, capsys):
    monkeypatch.setattr(module, "AFTER", 0.01)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("hqq makes layers", 4) as bar:
        bar.advance()
        for _ in range(200):
            if bar._bar is not None:
                break
            time.sleep(0.01)
        bar.advance()
    assert "hqq makes layers" in capsys.readouterr().err
