"""Planned cachers with every scheduler of diffusers that samples plain tensors: finite, planned, near the original."""

import inspect
import warnings

import diffusers
import pytest
import torch
from support.runs import filled

import gearshift as gs
from gearshift.core.errors import GearshiftWarning
from gearshift.planner import step_search

STEPS, WIDTH = 8, 8
OTHERWISE = {  # those that sample tokens, take further arguments or other packages, or two steps at most
    "AmusedScheduler", "BlockRefinementScheduler", "CogVideoXDPMScheduler", "CosineDPMSolverMultistepScheduler",
    "DDPMWuerstchenScheduler", "DPMSolverSDEScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler",
    "HeliosDMDScheduler", "HeliosScheduler", "KarrasVeScheduler", "PiflowScheduler", "RFD4ProteinaScheduler",
    "RePaintScheduler", "SCMScheduler", "ScoreSdeVeScheduler", "VQDiffusionScheduler",
}  # fmt: skip
NAMES = sorted(n for n in dir(diffusers) if n.endswith("Scheduler") and inspect.isclass(getattr(diffusers, n)))


class Smooth(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, sample, timestep):
        return torch.tanh(self.line(sample) / 4) * (1 + timestep / 2000)


def run(net, scheduler):
    torch.manual_seed(0)
    x = torch.randn(2, WIDTH) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    scheduler.set_timesteps(STEPS)
    scale = getattr(scheduler, "scale_model_input", lambda x, t: x)
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = net(scale(x, t), t)
            x = scheduler.step(output, t, x).prev_sample
    return x


@pytest.mark.parametrize("name", [n for n in NAMES if n not in OTHERWISE])
def test_every_scheduler_is_planned_for(name, monkeypatch):
    halved = lambda recording, fraction: recording.steps // 2  # noqa: E731  whatever it is timed at
    monkeypatch.setattr(step_search, "count_for", halved)
    torch.manual_seed(0)
    net, make = Smooth().eval(), getattr(diffusers, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", GearshiftWarning)
        plain = run(net, make())
        off = {}
        for recipe in ("auto(cache_mode=default)", "taylor_auto", "taylor(order=1)"):
            gs.optimize(net, recipe)
            scheduler = make()
            [run(net, scheduler) for _ in range(2)]
            got = run(net, scheduler)
            ticks = len(scheduler.timesteps)
            assert got.isfinite().all() and ticks // 4 <= len(filled(net)) <= (ticks + 1) // 2, recipe
            off[recipe] = float((got - plain).norm() / plain.norm())
            gs.restore(net)
    assert off["taylor_auto"] <= max(5 * off["auto(cache_mode=default)"], 0.25), off


def test_those_that_are_left_out_exist():
    assert set(NAMES) >= OTHERWISE
