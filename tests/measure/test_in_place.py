"""Layers timed where they stand, and what follows from it."""

import time

import pytest
import torch
from support.timed import as_if
from support.tiny import build
from torch import nn

import gearshift as gs
from gearshift.layers.int8 import Int8Conv2d, Int8Linear
from gearshift.measure import in_place
from gearshift.measure.in_place import Pair, Seconds, timed_in_place
from gearshift.models.example import example_call, layer_inputs


class Busy(nn.Linear):
    """A layer that takes its time, on the clock and on the CPU."""

    def __init__(self, seconds):
        super().__init__(4, 4)
        self.seconds = seconds

    def forward(self, x):
        until = time.process_time() + self.seconds
        while time.process_time() < until:
            pass
        return super().forward(x)


def test_each_kind_is_timed_within_whole_calls_and_the_former_layers_stand_at_the_end():
    net = nn.Sequential(Busy(0.004), nn.Linear(4, 4), Busy(0.004))
    former = list(net)
    pairs = [Pair(net, "0", former[0], Busy(0.001)), Pair(net, "2", former[2], Busy(0.001))]
    timed = timed_in_place(lambda: net(torch.ones(1, 4)), pairs, budget=0.0)
    (kind,) = timed.kinds
    assert kind == pairs[0].kind and list(net) == former
    assert timed.kinds[kind].before >= 0.008 and timed.kinds[kind].speed > 2 and timed.whole.speed > 1.5
    assert timed.layers == timed.kinds[kind]


def test_layers_that_no_call_reaches_have_no_time():
    net = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 8)])
    timed = timed_in_place(lambda: net[0](torch.ones(1, 4)), [Pair(net, "1", net[1], nn.Linear(4, 8))], budget=0.0)
    assert timed.kinds == {} and timed.whole.before > 0


def test_a_call_that_fails_leaves_the_former_layers_without_hooks():
    class Broken(nn.Linear):
        def forward(self, x):
            raise RuntimeError("broken")

    net = nn.Sequential(nn.Linear(4, 4))
    former = net[0]
    with pytest.raises(RuntimeError, match="broken"):
        timed_in_place(lambda: net(torch.ones(1, 4)), [Pair(net, "0", former, Broken(4, 4))], budget=0.0)
    assert net[0] is former and not former._forward_hooks and not former._forward_pre_hooks


@pytest.mark.parametrize(("before", "now", "spread", "noise"), [(1, 1.05, 0.1, True), (1, 0.5, 0.1, False)])
def test_a_difference_within_the_spread_is_noise(before, now, spread, noise):
    assert Seconds(before, now, spread).is_noise is noise


@pytest.mark.parametrize("recipe", ["torch_dynamic", "torch_static"])
def test_small_layers_that_are_slower_in_int8_and_convolutions_that_are_not_faster_stay_in_float(monkeypatch, recipe):
    monkeypatch.setattr(in_place, "timed_in_place", as_if(lambda layer: 0.5 if isinstance(layer, nn.Linear) else 2.0))
    tiny = build("sd")
    gs.optimize(tiny.pipe, recipe, data=[tiny.parts.call(1) | {"num_inference_steps": 1}])
    layers = [m for m in tiny.pipe.unet.modules() if isinstance(m, (Int8Linear, Int8Conv2d))]
    assert layers and not any(isinstance(m, nn.Linear) for m in layers)
    figures = gs.status(tiny.pipe).applied[0]["figures"]
    assert any("0.50 times the speed of the float layer" in reason for reason in figures["left"].values())
    assert figures["linear_speed_over_float"] == 2.0 and figures["layers"] == len(layers)


def test_small_layers_that_hold_most_of_the_weights_are_replaced_for_their_memory(monkeypatch):
    monkeypatch.setattr(in_place, "timed_in_place", as_if(0.5))
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    with pytest.warns(gs.core.errors.GearshiftWarning, match=r"its layers run at 0\.50 times"):
        gs.optimize(net, "torch_dynamic", data=[torch.ones(2, 64)])
    assert all(isinstance(layer, Int8Linear) for layer in net)


def test_large_linear_layers_are_replaced_for_their_memory_and_being_slower_is_said(monkeypatch):
    monkeypatch.setattr(in_place, "timed_in_place", as_if(0.5, whole=0.8))
    net = nn.Sequential(nn.Linear(512, 512))
    with pytest.warns(gs.core.errors.GearshiftWarning, match=r"at 0\.50 times .* a call of the model at 0\.80 times"):
        gs.optimize(net, "torch_dynamic", data=[torch.ones(2, 512)])
    assert isinstance(net[0], Int8Linear)


@pytest.mark.parametrize("name", ["sd", "dit"])
def test_layers_are_seen_at_the_batch_that_the_recipe_names(name):
    tiny = build(name)
    data = [tiny.parts.call(1) | {"num_inference_steps": 1}]

    def largest(batch_size):
        return max(len(x) for x in layer_inputs(tiny.pipe, data, batch_size).values())

    assert largest(3) == 3 * largest(1)


def test_a_language_model_is_called_with_a_batch():
    assert example_call(build("llama").pipe, None, 5)().logits.shape[0] == 5
