"""Runs that stack, are broken off or cut short, and what they leave behind: nothing."""

import contextlib
import gc
import weakref

import pytest
import torch
from support.each import each
from support.runs import Stop, filled
from support.tiny import build

import gearshift as gs
from gearshift.steps.decision import Action
from gearshift.steps.run import current


def after(step, do):
    """A callback that does something at the end of one step."""

    def callback(pipe, at, timestep, kwargs):
        if at == step:
            do(pipe)
        return kwargs

    return callback


def fail(pipe):
    raise Stop


def other_scheduler(tiny):
    """A pipeline of the same parts with a scheduler of its own."""
    copy = type(tiny.pipe).from_pipe(tiny.pipe)
    copy.scheduler = type(tiny.pipe.scheduler).from_config(tiny.pipe.scheduler.config)
    return copy


@pytest.fixture(scope="module")
def inner():
    """What a callback does: other pipelines run, to their end or not; the denoiser is called by hand."""
    optimized, plain, shared = build("sd"), build("sd"), {}
    gs.optimize(optimized.pipe, "periodic")

    def broken(tiny):
        with pytest.raises(Stop):
            optimized.run(steps=6, callback_on_step_end=after(2, fail))

    def sharing(tiny):
        copy = shared.setdefault(tiny.pipe, other_scheduler(tiny))
        return tiny.run(steps=5, seed=3, pipe=copy)

    def by_hand(tiny):
        unet = tiny.pipe.unet
        width = unet.config.cross_attention_dim
        with torch.no_grad():
            return unet(torch.ones(1, unet.config.in_channels, 8, 8), 7, torch.ones(1, 4, width)).sample

    def untrained(tiny):
        tiny.pipe.scheduler.add_noise(torch.ones(1), torch.ones(1), torch.tensor([5]))
        plain.pipe.scheduler.set_timesteps(4)

    return {
        "optimized": lambda tiny: optimized.run(steps=5, seed=3),
        "plain": lambda tiny: plain.run(steps=3),
        "broken off": broken,
        "one denoiser": sharing,
        "by hand": by_hand,
        "set only": untrained,
    }


@pytest.mark.parametrize("recipe", ["taylor(order=1)", "deepcache", "adaptive_precision(profile=performance)", "auto"])
def test_a_callback_that_samples_leaves_the_run_unharmed(inner, recipe):
    tiny = build("sd")
    gs.optimize(tiny.pipe, recipe)
    tiny.run(steps=8)
    alone, skipped = tiny.run(steps=8), filled(tiny.pipe)
    for what, do in inner.items():
        seen = [do(tiny) for _ in range(2)][-1:]
        inside = []
        got = tiny.run(steps=8, callback_on_step_end=after(3, lambda pipe: inside.append(do(tiny))))  # noqa: B023
        assert torch.equal(got, alone), what
        assert current() is None, what
        assert seen == [None] or torch.equal(inside[0], seen[0]), what
        if what != "one denoiser":
            tiny.run(steps=8)
            assert filled(tiny.pipe) == skipped, what


def test_a_pipeline_that_runs_itself_in_its_callback_goes_on():
    """The scheduler's own state is the inner run's then; nothing is reused of what was before."""
    tiny = build("sd")
    gs.optimize(tiny.pipe, "periodic")
    got = tiny.run(steps=8, callback_on_step_end=after(3, lambda pipe: tiny.run(steps=4)))
    assert got.isfinite().all() and current() is None


def test_two_loops_that_take_turns_do_not_mix():
    tiny = build("sd")
    gs.optimize(tiny.pipe, "periodic")
    unet, width = tiny.pipe.unet, tiny.pipe.unet.config.cross_attention_dim
    schedulers = [type(tiny.pipe.scheduler).from_config(tiny.pipe.scheduler.config) for _ in range(2)]

    def sample(scheduler, steps, seed):
        x = torch.randn(1, unet.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(seed))
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            with torch.no_grad():
                output = unet(x, t, torch.ones(1, 4, width)).sample
            x = scheduler.step(output, t, x).prev_sample
            yield x

    for scheduler in schedulers:
        [*sample(scheduler, 3, 0)]  # from here on they are heard
    alone = [[*sample(schedulers[0], 9, 1)][-1], [*sample(schedulers[1], 9, 2)][-1]]
    turns = [*zip(sample(schedulers[0], 9, 1), sample(schedulers[1], 9, 2), strict=True)][-1]
    assert torch.equal(turns[0], alone[0]) and torch.equal(turns[1], alone[1])
    assert filled(tiny.pipe) == [3, 5, 7]
    gs.restore(tiny.pipe)


def live():
    gc.collect()
    return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())


@each(
    ("recipe", "error"),
    [("taylor", Stop), ("deepcache", KeyboardInterrupt), ("fastercache", Stop), ("taylor_auto", KeyboardInterrupt)],
)
def test_a_run_that_was_broken_off_holds_nothing(recipe, error):
    tiny = build("sd")
    gs.optimize(tiny.pipe, recipe)
    [tiny.run(steps=6) for _ in range(2)]
    before = live()

    def stop(pipe):
        raise error

    for step in (3, 4):
        with contextlib.suppress(error):
            tiny.run(steps=6, callback_on_step_end=after(step, stop))
    assert current() is None and live() <= before
    there = weakref.ref(tiny.pipe.unet), weakref.ref(tiny.pipe.scheduler)
    del tiny
    gc.collect()
    assert [ref() for ref in there] == [None, None]


def test_a_failing_denoiser_or_scheduler_ends_the_run():
    tiny = build("sd")
    gs.optimize(tiny.pipe, "periodic")
    held = []

    def fails(module, args):
        held.append(current())
        if len(held) == 4:
            raise Stop

    hook = tiny.pipe.unet.mid_block.register_forward_pre_hook(fails)
    with pytest.raises(Stop):
        tiny.run(steps=8)
    hook.remove()
    assert held[-1].over and not held[-1].logs and current() is None


def test_an_exception_that_somebody_holds_keeps_the_run_only_until_the_model_is_restored():
    tiny = build("sd")
    gs.optimize(tiny.pipe, "periodic")
    with pytest.raises(Stop) as caught:
        tiny.run(steps=8, callback_on_step_end=after(4, fail))
    run = current()
    gs.restore(tiny.pipe)
    assert caught.value is not None and (run is None or run.over) and current() is None


@pytest.mark.parametrize("recipe", ["auto", "taylor_auto"])
def test_runs_that_end_before_the_schedule_are_planned(recipe):
    tiny = build("sdxl")

    def run(end, steps=12):
        return tiny.run(steps=steps, denoising_end=end, output_type="latent")

    plain = run(0.7)
    gs.optimize(tiny.pipe, recipe)
    assert torch.equal(run(0.7), plain)
    run(0.7)
    assert filled(tiny.pipe) and max(filled(tiny.pipe)) < 9
    run(None)
    (log,) = gs.status(tiny.pipe).last_run.values()
    assert not set(log.steps(Action.REUSE)) & {9, 10, 11}
    run(None), run(None)  # recorded to the end, and planned
    assert set(filled(tiny.pipe)) & {9, 10, 11}
    run(0.7)
    assert filled(tiny.pipe) and current() is None
