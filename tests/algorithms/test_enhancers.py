"""Enhancers act on the images of a call, in whatever kind they are asked for."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.each import each
from support.tiny import build

import gearshift as gs
from gearshift.algorithms.enhancers.realesrgan_upscale import SHIPPED, Larger
from gearshift.core.errors import BadRecipe, BadValue, BrokenFolder, GearshiftWarning
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


@pytest.mark.parametrize("recipe", ["img2img_denoise", "realesrgan_upscale"])
def test_latents_are_left_alone_and_it_is_said(tinies, recipe):
    tiny, plain = tinies("sd")
    gs.optimize(tiny.pipe, recipe)
    with pytest.warns(GearshiftWarning, match=f"{recipe} did nothing: the call asked for latents"):
        assert torch.equal(tiny.run(steps=8), plain)
    gs.warm_up(tiny.pipe, data=[tiny.parts.call(1) | {"num_inference_steps": 2}])  # such calls are not the user's


def test_strength_nought_does_nothing(tinies):
    tiny, _ = tinies("sd")
    gs.optimize(tiny.pipe, "img2img_denoise(strength=0)")
    assert "does nothing" in gs.status(tiny.pipe).applied[0]["notes"][0]


@each("name", ["sd", "sdxl", "sd3", "flux", "zimage"])
def test_the_second_pass_keeps_the_size_of_the_images(name):
    tiny = build(name)
    tiny.pipe.set_progress_bar_config(disable=True)
    gs.optimize(tiny.pipe, "img2img_denoise(strength=0.3)")
    for kind, side in (("pt", slice(-2, None)), ("np", slice(-3, -1))):
        assert images(tiny, kind, num_inference_steps=2, height=32, width=16).shape[side] == (32, 16)
    assert images(tiny, "pil", num_inference_steps=2, height=16, width=32)[0].size == (32, 16)


def test_a_sibling_that_takes_no_strength_is_refused(monkeypatch):
    from gearshift.models import image_to_image

    class Edits:
        def __call__(self, prompt, image, num_inference_steps=50):
            """Nothing."""

    monkeypatch.setattr(image_to_image, "image_to_image_class", lambda pipe: Edits)
    with pytest.raises(BadRecipe, match="Edits has no strength"):
        gs.optimize(build("sd").pipe, "img2img_denoise")


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


def enlarged(images):
    pipe = SimpleNamespace(device=torch.device("cpu"))
    return Larger(read_upscaler(SHIPPED)).after(pipe, images, {})


def gradient(mode, most=255):
    """A picture with a soft gradient in each channel, opaque above and clear below if it has opacity."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    ramp = np.linspace(0.2, 0.8, 8 * 12).reshape(8, 12, 1) * np.linspace(1, 0.7, channels)
    if mode[-1] == "A":
        ramp[..., -1] = np.repeat([1.0, 0.0], 4)[:, None]
    made = (ramp * most).round().astype(np.uint8 if most == 255 else np.uint16)
    return Image.fromarray(made if channels > 1 else made[..., 0])


@each("mode", ["RGB", "RGBA", "L", "LA", "I;16"])
def test_pictures_keep_their_channels_when_enlarged(mode):
    most = 2**16 - 1 if mode == "I;16" else 255
    before = gradient(mode, most)
    (after,) = enlarged([before])
    assert (after.mode, after.size) == (mode, (24, 16))
    small, large = (np.atleast_3d(np.asarray(m, np.float64)) for m in (before, after))
    assert abs(small - large.reshape(8, 2, 12, 2, -1).mean((1, 3))).mean() < 0.04 * most
    if mode[-1] == "A":
        assert (large[:6, :, -1] == 255).all() and (large[-6:, :, -1] == 0).all()


@pytest.mark.parametrize("clear", [False, True])
def test_palettes_give_way_to_colors_and_keep_their_transparency(clear):
    picture = gradient("RGB").quantize(8)
    if clear:
        picture.info["transparency"] = picture.getpixel((0, 0))
    (after,) = enlarged([picture])
    assert after.mode == ("RGBA" if clear else "RGB")
    assert not clear or after.getextrema()[-1] == (0, 255)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_arrays_keep_their_channels_when_enlarged(channels):
    torch.manual_seed(0)
    made = enlarged(torch.rand(2, channels, 8, 12))
    assert made.shape == (2, channels, 16, 24)
    assert enlarged(np.full((1, 8, 12, channels), 0.5, np.float32)).shape == (1, 16, 24, channels)
    assert channels % 2 or torch.equal(enlarged(torch.ones(1, channels, 8, 8))[:, -1], torch.ones(1, 16, 16))


def test_more_channels_are_no_image():
    with pytest.raises(BadValue, match="1 to 4 channels"):
        enlarged(torch.rand(1, 9, 8, 8))


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
