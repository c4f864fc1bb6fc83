"""Recoverers train through cachers: what is filled in is to meet the original's outputs too."""

import pytest
import torch
from support.each import each
from support.tiny import build

import gearshift as gs
from gearshift import zoo
from gearshift.models.diffusers import denoisers
from gearshift.steps.decision import Action
from gearshift.training.cached_training import ThroughCachers, stretches
from gearshift.training.diffusion import distillation_samples

STEPS = 8
CACHED = [
    ("sd", {"deepcache": {"interval": 3}}),
    ("sd", {"periodic": {"cache_interval": 3, "start_step": 2, "cache_mode": "default"}}),
    ("flux", {"taylor": {"order": 1, "cache_interval": 3, "start_step": 2}}),
]
TRAINED = {"learning_rate": 0.003, "num_epochs": 4}


def call(tiny):
    return {**tiny.parts.call(1), "num_inference_steps": STEPS}


def image(tiny):
    return tiny.pipe(**call(tiny), generator=torch.Generator().manual_seed(1)).images


def figures(model):
    return gs.status(model).applied[-1]["figures"]


def recorded(tiny, cacher):
    """What a cached pipeline learns from: the outputs of the original."""
    gs.optimize(tiny.pipe, cacher)
    with gs.disabled(tiny.pipe):
        return distillation_samples(tiny.pipe, [call(tiny)] * 2, 0)


@pytest.mark.parametrize(("model", "cacher"), CACHED)
def test_runs_are_cut_where_a_step_is_computed(model, cacher):
    tiny = build(model)
    found = recorded(tiny, cacher)
    image(tiny)
    (log,) = gs.status(tiny.pipe).last_run.values()
    cut = stretches(found, denoisers(tiny.pipe))
    counted = [sample for stretch in cut for sample in stretch.training_samples[stretch.warm :]]
    assert sorted(map(id, counted)) == sorted(map(id, found))
    firsts = [stretch.training_samples[stretch.warm].step for stretch in cut]
    assert sorted(firsts) == sorted(2 * list(log.steps(Action.COMPUTE)))


@pytest.mark.parametrize(("model", "cacher"), CACHED)
def test_the_loss_of_a_stretch_is_what_a_run_would_be_off_by(model, cacher):
    tiny = build(model)
    found = recorded(tiny, cacher)
    students = denoisers(tiny.pipe)
    through = ThroughCachers(students)
    for stretch in stretches(found, students):
        filled = len(stretch.training_samples) - stretch.warm > 1
        assert (float(through(stretch)) > 1e-6) == filled


@pytest.mark.parametrize("apart", [False, True], ids=["one recipe", "two calls"])
def test_a_cached_pipeline_comes_closer_to_the_original(apart):
    model, cacher = CACHED[-1]
    tiny, alone = build(model), build(model)
    plain = image(tiny)
    gs.optimize(alone.pipe, cacher)
    recoverer, data = {"text_to_image_perp": TRAINED}, [call(tiny)] * 3
    if apart:
        gs.optimize(tiny.pipe, cacher)
        image(tiny)
        seen = gs.status(tiny.pipe).last_run
        gs.optimize(tiny.pipe, recoverer, data=data)
        assert gs.status(tiny.pipe).last_run == seen
    else:
        gs.optimize(tiny.pipe, {**cacher, **recoverer}, data=data)
    assert any("Trained through" in note for applied in gs.status(tiny.pipe).applied for note in applied["notes"])
    assert (image(tiny) - plain).norm() < 0.8 * (image(alone) - plain).norm()


def test_a_trained_pipeline_comes_closer_with_guidance():
    call = {"guidance_scale": 4.5, "num_inference_steps": STEPS, "output_type": "latent"}

    def latents(pipe):
        return pipe(["a red coat"], **call, generator=torch.Generator().manual_seed(1)).images

    pipe, alone = zoo.load("text-to-image"), zoo.load("text-to-image")
    plain = latents(pipe)
    gs.optimize(alone, CACHED[0][1])
    data = [{"prompt": ["a red bag", "a blue coat"], **call}] * 4
    trained = {"learning_rate": 3e-4, "num_epochs": 2}
    gs.optimize(pipe, {**CACHED[0][1], "text_to_image_perp": trained}, data=data)
    assert (latents(pipe) - plain).norm() < (latents(alone) - plain).norm()


@each(("model", "guidance"), [("sd", 5.0), ("sdxl", 5.0), ("pixart", 5.0), ("dit", 5.0), ("flux", 3.5)])
def test_lessons_know_their_guidance(model, guidance):
    tiny = build(model)
    found = distillation_samples(tiny.pipe, [{**call(tiny), "guidance_scale": guidance}], 0)
    first = {"sd": guidance, "sdxl": guidance, "pixart": guidance, "dit": 1 - guidance, "flux": None}[model]
    assert len(found) == STEPS
    assert [sample.guidance for sample in found] == [first and pytest.approx(first, rel=1e-3)] * STEPS
