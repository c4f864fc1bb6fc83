"""A trigger of one's own: it learns at the end of each run, and no other file knows it."""

from support.runs import filled
from support.tiny import build

import gearshift as gs
from gearshift.steps.gate import gate_of
from gearshift.steps.trigger import Trigger


class Bolder(Trigger):
    """Computes every step at first, and one step less after every run."""

    def __init__(self):
        self.runs = 0

    def reason_to_compute(self, run, state):
        return "not bold enough" if run.step < run.known_steps - self.runs else None

    def expected_reason(self, run):
        return "its first run is computed whole" if self.runs < 2 else None

    def finish(self, run):
        self.runs += run.complete


def test_a_trigger_learns_from_each_run():
    tiny = build("dit")
    gs.optimize(tiny.pipe, "periodic")
    gate_of(tiny.pipe.transformer).rule.trigger = Bolder()
    skipped = []
    for _ in range(3):
        tiny.run(steps=6)
        skipped.append(filled(tiny.pipe))
    assert skipped == [[], [5], [4, 5]]
