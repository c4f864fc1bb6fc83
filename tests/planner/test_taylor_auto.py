"""The planned cacher: records one call, follows its schedule in the next, keeps it when saved."""

import pytest
import torch
from support.tiny import build

import gearshift as gs
from gearshift.planner.recording import Recording, feedback
from gearshift.planner.rehearsal import count_for
from gearshift.steps.decision import Action


def computed(pipe):
    return gs.status(pipe).last_run["taylor_auto"].steps(Action.COMPUTE)


@pytest.mark.parametrize("name", ["sd", "dit", "flux", "wan", "zimage"])
def test_the_first_call_is_exact_and_the_next_follows_the_plan(name, capsys):
    tiny = build(name)
    plain = tiny.run(steps=12)
    gs.optimize(tiny.pipe, "taylor_auto(speed_factor=0.5)")
    assert torch.equal(tiny.run(steps=12), plain)
    said = capsys.readouterr().err
    planned = int(said.partition("will compute ")[2].partition(" of 12")[0])
    cached = tiny.run(steps=12)
    assert len(computed(tiny.pipe)) == planned < 12 and computed(tiny.pipe)[0] == 0
    assert cached.isfinite().all() and not torch.equal(cached, plain)
    assert torch.equal(tiny.run(steps=12), cached)


def test_another_number_of_steps_or_sampler_gets_a_plan_of_its_own():
    from diffusers import EulerDiscreteScheduler

    tiny = build("sd")
    plain = {n: tiny.run(steps=n) for n in (10, 14)}
    gs.optimize(tiny.pipe, "taylor_auto")
    for steps in (10, 14):
        assert torch.equal(tiny.run(steps=steps), plain[steps])
        assert not torch.equal(tiny.run(steps=steps), plain[steps])
    tiny.pipe.scheduler = EulerDiscreteScheduler.from_config(tiny.pipe.scheduler.config)
    tiny.run(steps=10)
    assert computed(tiny.pipe) == list(range(10))
    tiny.run(steps=10)
    assert len(computed(tiny.pipe)) < 10


def test_with_data_it_plans_at_once_and_the_plan_is_saved(tmp_path):
    tiny = build("sd")
    call = {**tiny.parts.call(1), "num_inference_steps": 12, "return_dict": False}
    tiny.pipe.set_progress_bar_config(disable=True)
    state = torch.get_rng_state()
    gs.optimize(tiny.pipe, "taylor_auto(speed_factor=0.5)", data=[call])
    assert torch.equal(torch.get_rng_state(), state)
    figures = gs.status(tiny.pipe).applied[0]["figures"]
    assert 0 < figures["relative_error_of_the_latent"] < 1 and "of 12" in figures["computed_steps"]
    cached = tiny.run(steps=12)
    assert len(computed(tiny.pipe)) < 12
    gs.save(tiny.pipe, tmp_path / "planned")
    assert torch.equal(tiny.run(steps=12, pipe=gs.load(tmp_path / "planned")), cached)


@pytest.mark.parametrize(("fraction", "expected"), [(1.0, 10), (0.6, 5), (0.0, 2)])
def test_the_number_of_steps_that_a_fraction_of_the_time_buys(fraction, expected):
    recording = Recording(outputs=[None] * 10, seconds=[0.1] * 10, denoising=0.8)
    assert count_for(recording, fraction) == expected
    assert count_for(recording, 0.5, outside=1.0) == 2  # half of two seconds, and 1.2 are not the denoiser's


def test_feedback_is_that_of_each_kind_of_output():
    from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

    def ddim(kind):
        return DDIMScheduler(prediction_type=kind)

    assert feedback(ddim("sample"), 1.0) == 0.0
    assert feedback(ddim("v_prediction"), 0.0) == pytest.approx(1.0)  # alpha / sigma at equal signal and noise
    assert feedback(ddim("epsilon"), 0.0) == pytest.approx(2**0.5)  # 1 / sigma
    assert feedback(EulerDiscreteScheduler(), -2.0) == pytest.approx(0.36788, rel=1e-4)  # 1 / sigma, sigma = e
    assert feedback(FlowMatchEulerDiscreteScheduler(), 0.5) == 2.0
