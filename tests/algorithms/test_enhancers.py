"""Enhancers act on the images of a call, in whatever kind they are asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import build

import gearshift as gs
from gearshift.algorithms.enhancers.realesrgan_upscale import SHIPPED
from gearshift.core.errors import BadRecipe, BrokenFolder
from gearshift.models.upscaler import Upscaler, read_upscaler
from gearshift.zoo import data
from gearshift.zoo.train.upscaler import judged


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


@pytest.mark.parametrize("kind", ["pil", "np", "pt"])
def test_images_come_out_twice_as_large(tinies, kind):
    tiny, _ = tinies("sd")
    before = images(tiny, kind, batch=2)
    gs.optimize(tiny.pipe, "img2img_denoise, realesrgan_upscale")
    after = images(tiny, kind, batch=2)
    sizes = [m[0].size if kind == "pil" else m.shape[-3:-1] if kind == "np" else m.shape[-2:] for m in (before, after)]
    assert tuple(sizes[1]) == tuple(2 * side for side in sizes[0]) and len(after) == 2
    assert gs.status(tiny.pipe).applied[-1]["figures"]["scale"] == 2


def test_the_shipped_upscaler_beats_bicubic_on_images_it_never_saw():
    if not Path(data.FOLDER).is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    ours, bicubic = judged(read_upscaler(SHIPPED), 200)
    assert ours > bicubic + 1.5


@pytest.mark.parametrize("sides", [(160, 96), (70, 131), (40, 33)])
def test_tiles_leave_no_seams(sides):
    network = read_upscaler(SHIPPED)
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 9), size=sides, mode="bicubic").clamp(0, 1)
    whole, tiled = network.enlarge(smooth, tile=512), network.enlarge(smooth, tile=96)
    assert whole.shape[-2:] == (2 * sides[0], 2 * sides[1])
    assert (whole - tiled).abs().max() < 1 / 255


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_released_files_are_read_whatever_their_size(tmp_path, scale):
    torch.manual_seed(0)
    network = Upscaler(scale, width=8, growth=4, blocks=1)
    torch.save({"params_ema": network.state_dict()}, tmp_path / "x.pth")
    read = read_upscaler(tmp_path / "x.pth")
    x = torch.rand(1, 3, 9, 7)
    assert torch.equal(read(x), network(x)) and read(x).shape[-2:] == (9 * scale, 7 * scale)
    torch.save({"other": torch.ones(1)}, tmp_path / "y.pth")
    with pytest.raises(BrokenFolder, match="does not hold the weights"):
        read_upscaler(tmp_path / "y.pth")
    (tmp_path / "z.pth").write_bytes(b"nonsense")
    with pytest.raises(BrokenFolder, match="cannot be read"):
        read_upscaler(tmp_path / "z.pth")
