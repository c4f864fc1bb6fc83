"""Many pipelines: a sample of the sweep, steps that a scheduler takes twice, nothing silently without effect."""

import warnings

import pytest
import torch
from support.each import each
from support.sweeping import RECIPES, STEPS, counted, inner, swept
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import GearshiftWarning
from gearshift.steps.decision import Action

SAMPLE = [("flux2", "whole denoiser"), ("mochi", "stacks of blocks"), ("kandinsky5", "each block")]
SAMPLE += [("stable_audio", "quantized"), ("cascade_decoder", "whole denoiser")]


@pytest.mark.filterwarnings("ignore")
@each("name, kind", SAMPLE)
def test_a_sample_of_the_sweep(name, kind):
    assert swept(name, RECIPES[kind]).startswith("works")


def test_a_step_that_the_pipeline_takes_twice_is_one():
    """Cosmos calls the scheduler's step once for the clean sample and once more for the next latents."""
    tiny = build("cosmos")
    gs.optimize(tiny.pipe, RECIPES["whole denoiser"])
    with counted([inner(tiny.pipe.transformer)]) as passes:
        tiny.run(steps=STEPS)
    log = gs.status(tiny.pipe).last_run["periodic"]
    assert (log.total, len(list(log))) == (STEPS, 2 * STEPS)
    assert passes[0] == 2 * 4 and len(log.steps(Action.REUSE)) == 2


class Loop(torch.nn.Module):
    """A stand-in for a denoiser that has no row, with time in other units than the scheduler's."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(2)])

    def forward(self, sample, timestep):
        hidden = sample.movedim(1, -1)
        for block in self.blocks:
            hidden = hidden + block(hidden) * (1 + timestep)
        return hidden.movedim(-1, 1)


class Past(Loop):
    """It does not call its blocks, but computes with their weights."""

    def forward(self, sample, timestep):
        hidden = sample.movedim(1, -1)
        for block in self.blocks:
            hidden = hidden + torch.nn.functional.linear(hidden, block.weight, block.bias) * (1 + timestep)
        return hidden.movedim(-1, 1)


def pipeline(denoiser):
    """The tiny DiT's pipeline with another denoiser, called by a loop of its own."""
    pipe = build("dit").pipe
    pipe.register_modules(transformer=denoiser)
    return pipe


def sampled(pipe, steps=6):
    scheduler, sample = pipe.scheduler, torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(steps)
    with torch.no_grad():
        for t in scheduler.timesteps:
            sample = scheduler.step(pipe.transformer(sample, (1000 - t) * 0.37), t, sample).prev_sample
    return sample


def test_a_denoiser_without_a_row_and_with_time_in_units_of_its_own_is_cached():
    pipe = pipeline(Loop())
    plain = sampled(pipe)
    gs.optimize(pipe, {"fora": {"interval": 2, "start_step": 2}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with counted([pipe.transformer]) as calls:
            cached = sampled(pipe)
    assert calls[0] == 6 and gs.status(pipe).last_run["fora"].steps(Action.REUSE)
    assert not torch.equal(cached, plain)
    gs.restore(pipe)
    assert torch.equal(sampled(pipe), plain)


def test_blocks_that_are_never_called_are_told_before_the_second_call():
    pipe = pipeline(Past())
    gs.optimize(pipe, {"fora": {"interval": 2}})
    with pytest.warns(GearshiftWarning, match="fora has no effect on Past: .*site: block"):
        sampled(pipe, steps=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampled(pipe, steps=3)
