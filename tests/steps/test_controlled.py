"""ControlNets: not computed on steps that are filled in, and exactly what they were on all others."""

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from support.each import each
from support.sweeping import counted, inner
from support.tiny import build

import gearshift as gs

STEPS = 8
KINDS = ["sd_controlnet", "sdxl_controlnet", "sd3_controlnet", "flux_controlnet"]


def network(tiny):
    """Something in the ControlNet that is called once in each of its passes."""
    return next(m for m in tiny.pipe.controlnet.modules() if not list(m.children()))


@pytest.mark.filterwarnings("ignore")
@each("kind", KINDS)
def test_a_controlnet_is_computed_where_the_denoiser_is(kind):
    tiny = build(kind)
    denoiser = inner(getattr(tiny.pipe, tiny.denoiser))
    plain = tiny.run(steps=STEPS)
    gs.optimize(tiny.pipe, {"taylor": {"cache_interval": 3, "start_step": 2}})
    with counted([network(tiny)]) as control, counted([denoiser]) as passes:
        output = tiny.run(steps=STEPS)
    assert control[0] == passes[0] < STEPS
    assert torch.equal(output, always_controlled(tiny))
    with gs.disabled(tiny.pipe), counted([network(tiny)]) as control:
        assert torch.equal(tiny.run(steps=STEPS), plain) and control[0] == STEPS
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=STEPS), plain) and "forward" not in vars(tiny.pipe.controlnet)


def always_controlled(tiny):
    """The same run with the ControlNet computed on every step, as if it had no gate."""
    gate = vars(tiny.pipe.controlnet)["forward"]
    gate.on = False
    with counted([network(tiny)]) as control:
        output = tiny.run(steps=STEPS)
    gate.on = True
    assert control[0] == STEPS
    return output


@pytest.mark.filterwarnings("ignore")
@each("recipe", ["periodic", "adaptive(threshold=0.2)", "auto", "fora", "fastercache", "deepcache"])
def test_every_cacher_answers_as_with_the_controlnet_on_every_step(recipe):
    tiny = build("sd_controlnet")
    gs.optimize(tiny.pipe, recipe)
    tiny.run(steps=STEPS)  # planners find their schedule in a first run
    assert torch.equal(tiny.run(steps=STEPS), always_controlled(tiny))


@pytest.mark.filterwarnings("ignore")
def test_where_the_pipeline_changes_the_output_the_controlnet_is_computed():
    """In guess mode zeros are put beside what a ControlNet says: its tensors never come to the denoiser themselves."""
    tiny = build("sd_controlnet")
    plain = tiny.run(steps=STEPS, guess_mode=True)
    gs.optimize(tiny.pipe, "periodic(cache_interval=1)")
    assert torch.equal(tiny.run(steps=STEPS, guess_mode=True), plain)
    gs.restore(tiny.pipe)
    gs.optimize(tiny.pipe, "periodic")
    with counted([network(tiny)]) as control:
        tiny.run(steps=STEPS, guess_mode=True)
    assert control[0] == STEPS


class Bringing(ModelHook):
    """Weights that are there while a module runs, as offloading has it."""

    def init_hook(self, module):
        self.kept = module.conv_in.weight.data.clone()
        return module

    def pre_forward(self, module, *args, **kwargs):
        module.conv_in.weight.data.copy_(self.kept)
        return args, kwargs

    def post_forward(self, module, output):
        module.conv_in.weight.data.fill_(torch.nan)
        return output


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_brought_for_each_call_are_there_when_it_is_made_later():
    tiny = build("sd_controlnet")
    gs.optimize(tiny.pipe, "periodic")
    output = tiny.run(steps=STEPS)
    add_hook_to_module(tiny.pipe.controlnet, Bringing())
    with counted([network(tiny)]) as control:
        assert torch.equal(tiny.run(steps=STEPS), output)
    assert control[0] < STEPS
