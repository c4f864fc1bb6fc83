"""Enhancers act on the images of a call, in whatever kind they are asked for."""

import numpy as np
import pytest
import torch
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import BadRecipe


def images(tiny, kind="np", **more):
    call = {**tiny.parts.call(more.pop("batch", 1)), "num_inference_steps": 6, "output_type": kind, **more}
    return tiny.pipe(**call, generator=torch.Generator().manual_seed(0)).images


@pytest.mark.parametrize("strength", [0.02, 0.5, 1.0])
def test_a_second_pass_runs_at_least_one_step(tinies, strength):
    tiny, _ = tinies("sd")
    before = images(tiny)
    steps = []
    handle = tiny.pipe.unet.register_forward_pre_hook(lambda *_: steps.append(1))
    gs.optimize(tiny.pipe, img2img_denoise={"strength": strength})
    after = images(tiny)
    handle.remove()
    assert len(steps) > 6 and after.shape == before.shape and not np.array_equal(after, before)
    gs.restore(tiny.pipe)
    assert np.array_equal(images(tiny), before)
    assert type(tiny.pipe).__call__.__qualname__ == "StableDiffusionPipeline.__call__"


@pytest.mark.parametrize("kind", ["pil", "np", "pt"])
def test_images_stay_of_their_kind_and_number(tinies, kind):
    tiny, _ = tinies("sd")
    before = images(tiny, kind, num_images_per_prompt=2, batch=2)
    gs.optimize(tiny.pipe, "img2img_denoise")
    after = images(tiny, kind, num_images_per_prompt=2, batch=2)
    assert type(after) is type(before) and len(after) == len(before) == 4


def test_latents_are_left_alone_and_strength_nought_does_nothing(tinies):
    tiny, plain = tinies("sd")
    gs.optimize(tiny.pipe, "img2img_denoise")
    assert torch.equal(tiny.run(steps=8), plain)
    gs.restore(tiny.pipe)
    gs.optimize(tiny.pipe, "img2img_denoise(strength=0)")
    assert "does nothing" in gs.status(tiny.pipe).applied[0]["notes"][0]


def test_a_pipeline_without_a_sibling_is_refused():
    with pytest.raises(BadRecipe, match="no image-to-image pipeline for DiTPipeline"):
        gs.optimize(build("dit").pipe, "img2img_denoise")


def test_a_saved_pipeline_brings_its_enhancer_back(tinies, tmp_path):
    tiny, _ = tinies("sd")
    gs.optimize(tiny.pipe, "taylor(order=1), img2img_denoise(strength=0.5)")
    here = images(tiny)
    gs.save(tiny.pipe, tmp_path / "m")
    tiny.pipe, kept = gs.load(tmp_path / "m"), tiny.pipe
    there = images(tiny)
    tiny.pipe = kept
    assert np.array_equal(here, there)
