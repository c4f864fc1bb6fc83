"""half: what stays in float32, autoencoders that overflow, and what float16 has no numbers for."""

import warnings

import pytest
import torch
from diffusers import AutoencoderKL
from support.tiny import build, names, randomize
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import gearshift as gs
from gearshift.core.errors import BadRecipe, GearshiftError, GearshiftWarning
from gearshift.models.float32 import narrow, run

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY = {"vocab_size": 128, **SIZES}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "vocab_size": 128}


def made(cls, config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cls(config)
    randomize(model, 0)
    return model.eval()


def loud(name, gain=3e4, force=False):
    """A pipeline whose autoencoder's values are beyond float16's range on the way."""
    tiny = build(name)
    tiny.pipe.vae.decoder.conv_in.weight.data *= gain
    tiny.pipe.vae.register_to_config(force_upcast=force)
    return tiny


def images(tiny, pipe=None):
    pipe = pipe or tiny.pipe
    call = tiny.parts.call(1) | {"num_inference_steps": 2, "output_type": "pt"}
    call = {k: v.to(pipe.unet.dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in call.items()}
    pipe.set_progress_bar_config(disable=True)
    return pipe(**call, generator=torch.Generator().manual_seed(0)).images.float()


ROTARY = {
    "llama": lambda: made(LlamaForCausalLM, LlamaConfig(**TINY, max_position_embeddings=4096)),
    "phi": lambda: made(PhiForCausalLM, PhiConfig(**TINY, max_position_embeddings=4096)),
}


@pytest.mark.parametrize("name", ROTARY)
def test_distant_positions_are_as_exact_as_when_transformers_loads_float16(name, tmp_path):
    plain = ROTARY[name]()
    plain.save_pretrained(tmp_path)
    theirs = type(plain).from_pretrained(tmp_path, dtype=torch.float16)
    ours = gs.optimize(ROTARY[name](), "half")
    mine, other = (dict(m.named_buffers()) | dict(m.named_parameters()) for m in (ours, theirs))
    assert all(torch.equal(tensor, other[path]) and tensor.dtype == other[path].dtype for path, tensor in mine.items())
    tokens = torch.randint(3, 128, (1, 300), generator=torch.Generator().manual_seed(0))
    places = torch.arange(3700, 4000)[None]
    with torch.no_grad():
        assert torch.equal(*(m(tokens, position_ids=places).logits for m in (ours, theirs)))
        exact, rounded = (m(tokens, position_ids=places).logits.float() for m in (plain, ours))
    assert 10 * (exact.square().mean() / (exact - rounded).square().mean()).log10() > 45


def test_what_the_library_keeps_in_float32_stays_so_and_comes_back(tmp_path):
    t5 = gs.optimize(made(T5ForConditionalGeneration, T5Config(**T5)), "half")
    wide = {path for path, p in t5.named_parameters() if p.dtype == torch.float32}
    assert wide == {path for path, _ in t5.named_parameters() if ".wo." in path}
    tiny = build("wan")
    plain = tiny.run(steps=3)
    gs.optimize(tiny.pipe, "half", keep_original=True)
    rounded = tiny.run(steps=3)
    wide = {path for path, p in tiny.pipe.transformer.named_parameters() if p.dtype == torch.float32}
    assert "scale_shift_table" in wide and "condition_embedder.time_embedder.linear_1.weight" in wide
    assert {p.dtype for _, _, p in narrow(tiny.pipe.transformer)} == {torch.float16}
    gs.save(tiny.pipe, tmp_path / "m")
    again = gs.load(tmp_path / "m")
    assert wide == {path for path, p in again.transformer.named_parameters() if p.dtype == torch.float32}
    assert torch.equal(tiny.run(steps=3, pipe=again), rounded)
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=3), plain)


def test_an_autoencoder_that_overflows_stays_as_it_is(tmp_path):
    tiny = loud("sd")
    plain = images(tiny)
    with pytest.warns(GearshiftWarning, match=r"AutoencoderKL overflows in float16.* so it stays in float32"):
        gs.optimize(tiny.pipe, "half", keep_original=True)
    rounded = images(tiny)
    assert (rounded - plain).norm() < 0.05 * plain.norm()
    assert tiny.pipe.vae.dtype == torch.float32 and tiny.pipe.unet.dtype == torch.float16
    gs.save(tiny.pipe, tmp_path / "m")
    assert torch.equal(images(tiny, gs.load(tmp_path / "m")), rounded)
    with gs.disabled(tiny.pipe):
        assert torch.equal(images(tiny), plain)
    gs.restore(tiny.pipe)
    assert torch.equal(images(tiny), plain) and "decode" not in vars(tiny.pipe.vae)


@pytest.mark.parametrize(("name", "gain", "force"), [("sd", 1.0, False), ("sdxl", 3e4, True)])
def test_autoencoders_that_fit_or_that_the_pipeline_widens_are_cast(name, gain, force):
    tiny = loud(name, gain, force)
    plain = images(tiny)
    gs.optimize(tiny.pipe, "half")
    assert tiny.pipe.vae.dtype == torch.float16
    assert (images(tiny) - plain).norm() < 0.05 * plain.norm()


def test_an_autoencoder_alone_that_overflows_is_refused_and_left():
    vae = loud("sd").pipe.vae
    with pytest.raises(GearshiftError, match="AutoencoderKL overflows in float16"):
        gs.optimize(vae, "half")
    assert vae.dtype == torch.float32
    assert isinstance(gs.optimize(build("sd").pipe.vae, "half"), AutoencoderKL)


def test_every_autoencoder_of_the_tiny_pipelines_can_be_tried():
    for name in names():
        vae = getattr(build(name).pipe, "vae", None)
        assert vae is None or run(vae), name


def test_weights_beyond_float16_are_refused_by_name():
    tiny = build("sd")
    tiny.pipe.unet.conv_in.weight.data[0] = 1e5
    with pytest.raises(BadRecipe, match=r"unet\.conv_in\.weight reaches 1e\+05"):
        gs.optimize(tiny.pipe, "half")
    assert tiny.pipe.unet.dtype == torch.float32


def test_a_language_model_that_overflows_is_refused():
    model = build("llama").pipe
    for layer in model.model.layers:
        layer.mlp.up_proj.weight.data *= 3e4
    with pytest.raises(GearshiftError, match="LlamaForCausalLM overflows in float16"), warnings.catch_warnings():
        gs.optimize(model, "half")
