"""What the engine promises, whatever the algorithm."""

import copy
import pickle
import warnings

import pytest
import torch
from support.each import each
from support.runs import Stop, filled
from support.tiny import names

import gearshift as gs
from gearshift.core.errors import GearshiftWarning
from gearshift.steps.decision import Action
from gearshift.steps.gate import Gate, gate_of
from gearshift.steps.run import current

BACKBONE = ["periodic", "taylor", "adaptive(threshold=0.2)"]  # the same site: in turn, one for each pipeline
SITES = ["flux_caching", "fora", "deepcache", "pab", "fastercache"]
STEPS = {"adaptive(threshold=0.2)": 24, "fastercache": 16}  # fewer leave nothing to skip


@pytest.mark.parametrize("name", names())
@each("site", ["backbone", *SITES])
def test_a_cacher_skips_and_comes_off_bit_for_bit(tinies, name, site):
    recipe = BACKBONE[names().index(name) % len(BACKBONE)] if site == "backbone" else site
    steps = STEPS.get(recipe, 8)
    tiny, plain = tinies(name, steps)
    if gs.problems(tiny.pipe, recipe):
        unet = name in ("sd", "sdxl")
        assert (recipe == "fora" and unet) or (recipe == "deepcache" and not unet)
        return
    gs.optimize(tiny.pipe, recipe)
    try:
        cached = tiny.run(steps=steps)
        assert cached.isfinite().all() and not torch.equal(cached, plain)
        assert filled(tiny.pipe)
        with gs.disabled(tiny.pipe):
            assert torch.equal(tiny.run(steps=steps), plain)
        assert torch.equal(tiny.run(steps=steps), cached)
        assert current() is None
    finally:
        gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=steps), plain)
    assert not any("forward" in vars(m) for m in getattr(tiny.pipe, tiny.denoiser).modules())
    assert not {"step", "set_timesteps"} & vars(tiny.pipe.scheduler).keys()


@pytest.mark.parametrize("name", ["sd", "flux", "dit", "wan"])
@pytest.mark.parametrize(
    "recipe", ["periodic(cache_interval=1)", "flux_caching(cache_interval=1)", "taylor(start_step=10)"]
)
def test_a_plan_that_computes_every_step_is_exact(tinies, name, recipe):
    tiny, plain = tinies(name)
    gs.optimize(tiny.pipe, recipe)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)
        assert torch.equal(tiny.run(steps=8), plain)
    gs.restore(tiny.pipe)


def test_a_run_without_a_filled_step_says_so(tinies):
    tiny, _ = tinies("dit")
    gs.optimize(tiny.pipe, "taylor(start_step=10)")
    with pytest.warns(GearshiftWarning, match="taylor reused nothing in the 8 steps"):
        tiny.run(steps=8)
    gs.restore(tiny.pipe)


@pytest.mark.parametrize("recipe", ["taylor(order=1)", "flux_caching"])
def test_an_interrupted_run_changes_nothing_in_the_next(tinies, recipe):
    tiny, _ = tinies("sd")

    def stop(pipe, step, timestep, kwargs):
        if step == 4:
            raise Stop
        return kwargs

    gs.optimize(tiny.pipe, recipe)
    undisturbed = tiny.run(steps=8)
    with pytest.raises(Stop):
        tiny.run(steps=8, seed=5, callback_on_step_end=stop)
    assert torch.equal(tiny.run(steps=8), undisturbed)
    gs.restore(tiny.pipe)


def test_another_batch_size_step_count_or_guidance_between_runs(tinies):
    tiny, _ = tinies("sd")
    calls = [{"steps": 8, "batch": 2}, {"steps": 5}, {"steps": 8, "guidance": 1.0}, {"steps": 8}]
    fresh = []
    for call in calls:
        gs.optimize(tiny.pipe, "taylor(order=1)")
        fresh.append(tiny.run(**call))
        gs.restore(tiny.pipe)
    gs.optimize(tiny.pipe, "taylor(order=1)")
    for call, expected in zip(calls, fresh, strict=True):
        assert torch.equal(tiny.run(**call), expected)
    gs.restore(tiny.pipe)


def test_a_batch_that_changes_within_a_run_is_computed(tinies):
    """Guidance switched off midway halves the denoiser's batch."""
    tiny, _ = tinies("sd")

    def off(pipe, step, timestep, kwargs):
        if step == 1:
            pipe._guidance_scale = 1.0
            kwargs["prompt_embeds"] = kwargs["prompt_embeds"].chunk(2)[-1]
        return kwargs

    call = {"callback_on_step_end": off, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    gs.optimize(tiny.pipe, "periodic(cache_interval=3, start_step=1)")
    tiny.run(steps=8, **call)
    (log,) = gs.status(tiny.pipe).last_run.values()
    assert log.table[(2, 0)].reason.startswith("the inputs' shape")
    assert log.table[(3, 0)].action is Action.REUSE
    gs.restore(tiny.pipe)


@pytest.mark.parametrize(("name", "branches"), [("sd", 1), ("wan", 2), ("flux", 1)])
def test_guidance_in_one_call_or_two_needs_no_option(tinies, name, branches):
    tiny, _ = tinies(name)
    gs.optimize(tiny.pipe, "periodic")
    tiny.run(steps=8)
    (log,) = gs.status(tiny.pipe).last_run.values()
    assert {d.branch for d in log} == set(range(branches))
    assert log.steps(Action.REUSE, 0) == log.steps(Action.REUSE, branches - 1)
    gs.restore(tiny.pipe)


def test_copies_pickles_and_state_dicts(tinies):
    tiny, plain = tinies("sd")
    names_before = list(tiny.pipe.unet.state_dict())
    gs.optimize(tiny.pipe, "deepcache")
    assert list(tiny.pipe.unet.state_dict()) == names_before
    cached = tiny.run(steps=8)
    unet = copy.deepcopy(tiny.pipe.unet)
    inside = [m for m in unet.modules() if gate_of(m)]
    assert inside and all(gate_of(m).module is m for m in inside)
    assert isinstance(pickle.loads(pickle.dumps(gate_of(unet.mid_block))), Gate)
    twin = copy.deepcopy(tiny.pipe)
    assert torch.equal(tiny.run(steps=8, pipe=twin), cached)
    gs.restore(twin)
    assert torch.equal(tiny.run(steps=8, pipe=twin), plain)
    assert torch.equal(tiny.run(steps=8), cached)
    gs.restore(tiny.pipe)


def test_an_output_that_somebody_wrote_into_is_not_reused(tinies):
    tiny, _ = tinies("sd")
    gs.optimize(tiny.pipe, "periodic")
    clean = tiny.run(steps=8)
    handle = tiny.pipe.unet.register_forward_hook(lambda m, a, out: (out[0].add_(0),))
    spoiled = tiny.run(steps=8)
    handle.remove()
    assert torch.equal(spoiled, clean)
    gs.restore(tiny.pipe)


def test_gradients_are_never_cut(tinies):
    tiny, _ = tinies("dit")
    net = tiny.pipe.transformer
    gs.optimize(net, "periodic")
    x = torch.ones(1, net.config.in_channels, net.config.sample_size, net.config.sample_size, requires_grad=True)
    for t in (900, 700, 500, 300):
        out = net(x, timestep=torch.tensor([t]), class_labels=torch.tensor([1])).sample
        assert out.requires_grad
    gs.restore(net)
