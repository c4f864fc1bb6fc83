"""`optimize(verify=True)`: one call is timed before and after, and a slower model is said."""

import pytest
import torch
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import GearshiftWarning
from gearshift.models import speed


@pytest.fixture
def seconds(monkeypatch):
    """What each measured call takes, by turns of three."""

    def take(*each):
        left = [s for s in each for _ in range(1 + speed.REPEATS)]
        monkeypatch.setattr(speed, "once", lambda call: (call(), left.pop(0))[1])
        return left

    return take


def call(tiny):
    return {**tiny.parts.call(1), "num_inference_steps": 2}


def test_both_times_and_their_ratio_are_in_the_status(seconds):
    tiny, left = build("dit"), seconds(3.0, 1.5)
    gs.optimize(tiny.pipe, "fora", verify=True, data=[call(tiny)])
    figures = gs.status(tiny.pipe).figures
    assert not left and (figures["seconds_before"], figures["seconds_after"], figures["speed"]) == (3.0, 1.5, 2.0)


def test_a_model_that_became_slower_is_said_and_stays_as_asked(seconds):
    tiny = build("dit")
    seconds(1.0, 2.5)
    with pytest.warns(GearshiftWarning, match=r"fora made a call 2\.50 times as long as before on this machine"):
        gs.optimize(tiny.pipe, "fora", verify=True, data=[call(tiny)])
    assert [a["name"] for a in gs.status(tiny.pipe).applied] == ["fora"]


def test_a_model_of_no_known_call_says_what_to_give():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.line = torch.nn.Linear(64, 64)

        def forward(self, one, two):
            return self.line(one) + two

    with pytest.warns(GearshiftWarning, match="could not be verified: no call of this model is known; give `data`"):
        gs.optimize(Odd(), "torch_dynamic", verify=True)
