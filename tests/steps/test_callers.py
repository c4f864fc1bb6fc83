"""However a denoiser is called: other schedulers, threads, hooks, loops by hand, calls by hand."""

import threading

import pytest
import torch
from support.runs import Stop, filled
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import GearshiftWarning
from gearshift.steps.decision import Action
from gearshift.steps.gate import gate_of
from gearshift.steps.run import current


def test_a_call_by_hand_after_an_interrupted_run_is_computed(tinies):
    tiny, _ = tinies("sd")
    unet, given = tiny.pipe.unet, {}

    def stop(pipe, step, timestep, kwargs):
        if step == 3:
            raise Stop
        return kwargs

    def listen(module, args, kwargs):
        given.update(args=args, kwargs=kwargs)

    handle = unet.register_forward_pre_hook(listen, with_kwargs=True)
    tiny.run(steps=8)
    handle.remove()
    with torch.no_grad():
        by_hand = unet(*given["args"], **given["kwargs"])[0]
        gs.optimize(tiny.pipe, "periodic")
        with pytest.raises(Stop):
            tiny.run(steps=8, callback_on_step_end=stop)
        assert torch.equal(unet(*given["args"], **given["kwargs"])[0], by_hand)
    gs.restore(tiny.pipe)


@pytest.mark.parametrize("how", ["taylor(order=1)", "adaptive_precision, fastercache", "a fitted plan"])
def test_threads_that_share_a_denoiser_do_not_mix(tinies, how):
    tiny, _ = tinies("sd")
    if how == "a fitted plan":
        call = {**tiny.parts.call(1), "num_inference_steps": 8, "output_type": "latent"}
        gs.plan(tiny.pipe, speed=2.0, data=[call]).apply(tiny.pipe)
    else:
        gs.optimize(tiny.pipe, how)
    pipes = []
    for _ in range(4):
        pipe = type(tiny.pipe).from_pipe(tiny.pipe)
        pipe.scheduler = type(tiny.pipe.scheduler).from_config(tiny.pipe.scheduler.config)
        pipes.append(pipe)
    alone = [tiny.run(steps=8, seed=i, pipe=p) for i, p in enumerate(pipes)]
    together = [None] * 4

    def work(i):
        together[i] = tiny.run(steps=8, seed=i, pipe=pipes[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    gs.restore(tiny.pipe)


@pytest.mark.parametrize(
    "scheduler",
    [
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "PNDMScheduler",
        "LMSDiscreteScheduler",
        "DDPMScheduler",
        "LCMScheduler",
        "KDPM2DiscreteScheduler",
        "DPMSolverSinglestepScheduler",
    ],
)
def test_a_scheduler_put_in_afterwards_is_found(tinies, scheduler):
    import diffusers

    tiny, _ = tinies("sd")
    before = tiny.pipe.scheduler
    gs.optimize(tiny.pipe, "periodic")
    tiny.pipe.scheduler = getattr(diffusers, scheduler).from_config(before.config)
    output = tiny.run(steps=8)
    (log,) = gs.status(tiny.pipe).last_run.values()
    ticks = len(tiny.pipe.scheduler.timesteps)
    assert len(log.table) == ticks == log.total
    assert log.steps(Action.REUSE) == [s for s in range(3, ticks) if (s - 2) % 2]
    assert output.isfinite().all() and current() is None
    gs.restore(tiny.pipe)
    assert not {"step", "set_timesteps"} & vars(tiny.pipe.scheduler).keys()
    tiny.pipe.scheduler = before


def test_image_to_image_with_a_strength_counts_its_own_steps(tinies):
    from diffusers import StableDiffusionImg2ImgPipeline

    tiny, start = tinies("sd")
    gs.optimize(tiny.pipe, "periodic")
    pipe = StableDiffusionImg2ImgPipeline.from_pipe(tiny.pipe)
    output = tiny.run(steps=10, pipe=pipe, image=start, strength=0.6)
    log = gs.status(pipe).last_run["periodic"]
    assert [d.action.value[0] for d in log] == list("cccrcr")
    assert log.total == 6 and output.isfinite().all()
    gs.restore(tiny.pipe)


@pytest.mark.parametrize("hooks_first", [True, False])
def test_gates_live_beside_offloading_hooks(hooks_first):
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    tiny = build("sd")
    plain = tiny.run(steps=8)

    class Counting(ModelHook):
        calls = 0

        def pre_forward(self, module, *args, **kwargs):
            Counting.calls += 1
            return args, kwargs

    if hooks_first:
        add_hook_to_module(tiny.pipe.unet, Counting())
    gs.optimize(tiny.pipe, "periodic")
    if not hooks_first:
        add_hook_to_module(tiny.pipe.unet, Counting())
    tiny.run(steps=8)
    assert len(filled(tiny.pipe)) == 3
    assert Counting.calls == 8  # hooks stand around gates, whichever came first
    gs.restore(tiny.pipe)
    assert gate_of(tiny.pipe.unet) is None
    assert torch.equal(tiny.run(steps=8), plain)
    remove_hook_from_module(tiny.pipe.unet)
    assert torch.equal(tiny.run(steps=8), plain)


@pytest.mark.parametrize("hooks_first", [True, False])
def test_hooks_that_fetch_the_next_blocks_weights_do_so_around_what_is_filled_in(hooks_first):
    """As group offloading does once it knows the order: a block's weights are fetched by the hook of the one before."""
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    class Fetching(ModelHook):
        def __init__(self, number):
            super().__init__()
            self.number = number

        def pre_forward(self, module, *args, **kwargs):
            assert there == {self.number}
            there.add((self.number + 1) % len(blocks))
            return args, kwargs

        def post_forward(self, module, output):
            there.discard(self.number)
            return output

    tiny, there = build("sd"), {0}
    unet = tiny.pipe.unet
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]

    def hook():
        for number, block in enumerate(blocks):
            add_hook_to_module(block, Fetching(number))

    gs.optimize(tiny.pipe, "deepcache")
    wanted = tiny.run(steps=6)
    gs.restore(tiny.pipe)
    plain = tiny.run(steps=6)
    for step in (hook, lambda: gs.optimize(tiny.pipe, "deepcache"))[:: 1 if hooks_first else -1]:
        step()
    assert torch.equal(tiny.run(steps=6), wanted) and filled(tiny.pipe)
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=6), plain)
    for block in blocks:
        remove_hook_from_module(block)
    assert torch.equal(tiny.run(steps=6), plain)


@pytest.mark.parametrize("recipe", ["stable_fast", "deepcache, stable_fast"])
def test_offloading_hooks_go_on_around_what_is_compiled(recipe):
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    tiny, calls = build("sd"), []

    class Counting(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            calls.append(module)
            return args, kwargs

    plain = tiny.run(steps=4)
    gs.optimize(tiny.pipe, recipe)
    wanted = tiny.run(steps=4)
    gs.restore(tiny.pipe)
    add_hook_to_module(tiny.pipe.unet, Counting())
    gs.optimize(tiny.pipe, recipe)
    torch.testing.assert_close(tiny.run(steps=4), wanted, rtol=1e-3, atol=1e-4)
    assert len(calls) == 4
    assert gs.status(tiny.pipe).applied[-1]["figures"]["graphs"] == len(recipe.split())
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=4), plain) and len(calls) == 8
    gs.optimize(tiny.pipe, recipe)
    remove_hook_from_module(tiny.pipe.unet)
    tiny.run(steps=4)
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=4), plain) and len(calls) == 8


def test_a_forward_that_somebody_put_in_is_not_compiled_away():
    tiny = build("dit")
    own = tiny.pipe.transformer.forward
    tiny.pipe.transformer.forward = lambda *args, **kwargs: type(out := own(*args, **kwargs))(out.sample * 0.5)
    halved = tiny.run(steps=4)
    with pytest.warns(GearshiftWarning, match="DiTTransformer2DModel was given a forward that is not its class's own"):
        gs.optimize(tiny.pipe, "stable_fast")
    torch.testing.assert_close(tiny.run(steps=4), halved, rtol=1e-3, atol=1e-4)  # convolutions in another layout


def test_a_module_and_a_loop_of_the_callers_own():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    calls = []
    net.register_forward_pre_hook(lambda m, a: calls.append(1))

    def loop():
        x = torch.ones(2, 4)
        with torch.no_grad(), gs.sampling() as run:
            for _ in range(10):
                x = x - 0.1 * net(x)
                run.tick()
        return x

    plain = loop()
    gs.optimize(net, {"periodic": {"custom_model": True, "cache_mode": "taylor"}})
    cached = loop()
    (log,) = gs.status(net).last_run.values()
    assert log.steps(Action.REUSE) == [3, 5, 7, 9]
    assert 0 < (cached - plain).abs().max() < 0.05
    gs.restore(net)
    assert torch.equal(loop(), plain)


@pytest.mark.parametrize("marked", [True, False])
def test_a_hand_written_loop_without_scheduler_is_a_run_only_if_it_is_marked(tinies, marked, capsys):
    tiny, _ = tinies("dit")
    net = tiny.pipe.transformer
    labels = torch.tensor([1])

    def loop(run=None):
        x = torch.ones(1, net.config.in_channels, net.config.sample_size, net.config.sample_size)
        for t in (900, 700, 500, 300, 100):
            with torch.no_grad():
                out = net(x, timestep=torch.tensor([t]), class_labels=labels).sample
            x = x - 0.1 * out[:, : x.shape[1]]
            if run is not None:
                run.tick()
        return x

    plain = loop()
    gs.optimize(net, "periodic")
    if marked:
        with gs.sampling() as run:
            loop(run)
        (log,) = gs.status(net).last_run.values()
        assert log.steps(Action.REUSE) == [3]
    else:
        assert torch.equal(loop(), plain) and gs.status(net).last_run == {} and current() is None
        assert "gearshift.sampling" in capsys.readouterr().err
    gs.restore(net)


@pytest.mark.parametrize("same", [True, False])
def test_calls_by_hand_are_computed_whatever_their_latents_and_timesteps(tinies, same):
    tiny, _ = tinies("dit")
    net = tiny.pipe.transformer
    shape = (1, net.config.in_channels, net.config.sample_size, net.config.sample_size)
    noise = [torch.Generator().manual_seed(0 if same else t) for t in (900, 700, 500, 300, 100)]
    calls = [(torch.randn(shape, generator=g), t) for g, t in zip(noise, (900, 700, 500, 300, 100), strict=True)]
    with torch.no_grad():
        plain = [net(x, timestep=torch.tensor([t]), class_labels=torch.tensor([1])).sample for x, t in calls]
        gs.optimize(net, "periodic(start_step=0)")
        cached = [net(x, timestep=torch.tensor([t]), class_labels=torch.tensor([1])).sample for x, t in calls]
    assert all(torch.equal(a, b) for a, b in zip(plain, cached, strict=True))
    assert current() is None
    gs.restore(net)


def test_two_denoisers_share_a_run_and_are_logged_apart(tinies):
    tiny, _ = tinies("wan22", 12)
    gs.optimize(tiny.pipe, "periodic")
    tiny.run(steps=12)
    logs = gs.status(tiny.pipe).last_run
    assert set(logs) == {"periodic (transformer)", "periodic (transformer_2)"}
    steps = [{d.step for d in log} for log in logs.values()]
    assert sorted(steps[0] | steps[1]) == list(range(12)) and not steps[0] & steps[1]
