"""Published few-step adapters: what their names tell, and what a pipeline is with one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.tiny import build

import gearshift as gs
from gearshift.algorithms.distillers.hyper import SOURCE
from gearshift.core.errors import BadRecipe, BadValue, CannotRestore, GearshiftError
from gearshift.models.adapters import adapter


def written(tiny, path, metadata=None, fits=True):
    """A file with updates of two layers of a pipeline's denoiser."""
    torch.manual_seed(0)
    state, root = {}, getattr(tiny.pipe, tiny.denoiser)
    for name in [n for n, _ in root.named_modules() if n.endswith("attn1.to_q") or n.endswith("attn.to_q")][:2]:
        rows, columns = root.get_submodule(name).weight.shape
        state[f"{tiny.denoiser}.{name}.lora_A.weight"] = torch.randn(2, columns if fits else columns + 1)
        state[f"{tiny.denoiser}.{name}.lora_B.weight"] = torch.randn(rows, 2)
    path.parent.mkdir(exist_ok=True)
    save_file(state, str(path), metadata)
    return str(path)


@pytest.fixture
def with_adapter(monkeypatch, tmp_path):
    """A tiny pipeline optimized with a published adapter of a name."""

    def made(name, file, recipe="hyper", metadata=None, **settings):
        tiny = build(name)
        tiny.pipe.set_progress_bar_config(disable=True)
        monkeypatch.setenv(SOURCE, written(tiny, tmp_path / file, metadata))
        gs.optimize(tiny.pipe, recipe, **settings)
        return tiny

    return made


def fused(name, file, scale):
    tiny = build(name)
    tiny.pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    tiny.pipe.fuse_lora(lora_scale=scale)
    tiny.pipe.unload_lora_weights()
    return getattr(tiny.pipe, tiny.denoiser).state_dict()


def default_steps(tiny, **more):
    """Timesteps and batch sizes of the denoiser in a call that says no number of steps."""
    seen, root = [], getattr(tiny.pipe, tiny.denoiser)
    handle = root.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args or [kwargs["hidden_states"]])[0]), with_kwargs=True
    )
    call = {k: v for k, v in tiny.parts.call(1).items() if k != tiny.parts.guidance}
    tiny.pipe(**call, **more, generator=torch.Generator().manual_seed(0))
    handle.remove()
    return [len(sample) for sample in seen]


NAMES = [
    ("Hyper-SD15-8steps-lora.safetensors", "TCDScheduler", 8),
    ("lcm-lora-sdv1-5.safetensors", "LCMScheduler", 4),
    ("pytorch_lcm_lora_weights.safetensors", "LCMScheduler", 4),
    ("tcd-sd15.safetensors", "TCDScheduler", 4),
    ("sd_lightning_2step_lora.safetensors", "EulerDiscreteScheduler", 2),
    ("dmd2_4step_lora.safetensors", "LCMScheduler", 4),
    ("pcm_sd15_smallcfg_16step.safetensors", "DDIMScheduler", 16),
    ("Garments-3steps.safetensors", "TCDScheduler", 3),
    ("lcm-lora-sdv1-5/pytorch_lora_weights.safetensors", "LCMScheduler", 4),
]


@pytest.mark.parametrize(("file", "scheduler", "steps"), NAMES)
def test_names_tell_the_scheduler_and_the_steps(with_adapter, file, scheduler, steps):
    tiny = with_adapter("sd", file)
    assert type(tiny.pipe.scheduler).__name__ == scheduler
    batches = default_steps(tiny)
    assert len(batches) == steps
    assert batches[0] == (2 if "cfg" in file else 1), "guided exactly if its name says so"
    notes = " ".join(gs.status(tiny.pipe).applied[0]["notes"])
    assert ("`scheduler` sets another" in notes) == ("Garments" in file)


def test_metadata_tell_the_method_where_the_name_does_not(with_adapter):
    tiny = with_adapter("sd", "mine.safetensors", metadata={"title": "LCM for garments, 6 steps"})
    assert type(tiny.pipe.scheduler).__name__ == "LCMScheduler" and len(default_steps(tiny)) == 6


def test_what_a_call_or_the_recipe_says_goes_before_what_the_name_says(with_adapter):
    tiny = with_adapter("sd", "lcm-8steps.safetensors", {"hyper": {"scheduler": "ddim"}})
    assert type(tiny.pipe.scheduler).__name__ == "DDIMScheduler"
    assert tiny.pipe.scheduler.config.timestep_spacing == "trailing"
    assert default_steps(tiny, num_inference_steps=3, guidance_scale=6.0) == [2, 2, 2]
    kept = with_adapter("sd", "lcm-8steps.safetensors", {"hyper": {"scheduler": "keep"}})
    assert type(kept.pipe.scheduler) is type(build("sd").pipe.scheduler)


@pytest.mark.parametrize(
    ("file", "recipe", "scale"),
    [
        ("Hyper-FLUX.1-dev-8steps-lora.safetensors", "hyper", 0.125),
        ("FLUX.1-Turbo.safetensors", "hyper", 1.0),
        ("Hyper-FLUX.1-dev-8steps-lora.safetensors", {"hyper": {"adapter_scale": 0.5}}, 0.5),
    ],
)
def test_an_adapter_is_merged_at_its_published_scale_or_the_recipes(with_adapter, tmp_path, file, recipe, scale):
    tiny = with_adapter("flux", file, recipe)
    expected = fused("flux", tmp_path / file, scale)
    for name, tensor in tiny.pipe.transformer.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    assert type(tiny.pipe.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    assert tiny.pipe.transformer.config == build("flux").pipe.transformer.config


def test_a_merged_adapter_can_be_taken_off_if_the_original_is_kept(with_adapter):
    plain = build("sd").run(steps=3)
    tiny = with_adapter("sd", "lcm.safetensors", keep_original=True)
    merged = tiny.run(steps=3)
    with gs.disabled(tiny.pipe):
        assert torch.equal(tiny.run(steps=3), plain)
    assert torch.equal(tiny.run(steps=3), merged) and not torch.equal(merged, plain)
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=3), plain)
    with pytest.raises(CannotRestore, match="keep_original"):
        gs.restore(with_adapter("sd", "lcm.safetensors").pipe)


def test_what_does_not_fit_is_one_sentence_and_changes_nothing(monkeypatch, tmp_path):
    tiny = build("sd")
    plain = tiny.run(steps=3)
    monkeypatch.setenv(SOURCE, written(tiny, tmp_path / "lcm.safetensors", fits=False))
    with pytest.raises(GearshiftError, match="does not fit this StableDiffusionPipeline"):
        gs.optimize(tiny.pipe, "hyper")
    monkeypatch.setenv(SOURCE, written(build("flux"), tmp_path / "flux.safetensors"))
    with pytest.raises(GearshiftError, match="does not fit this StableDiffusionPipeline"):
        gs.optimize(tiny.pipe, "hyper")
    assert torch.equal(tiny.run(steps=3), plain) and not any(tiny.pipe.get_list_adapters().values())


def test_adapters_of_ones_own_stay_on_top_whichever_came_first(monkeypatch, tmp_path):
    monkeypatch.setenv(SOURCE, written(build("sd"), tmp_path / "lcm.safetensors"))
    own = written(build("sd"), tmp_path / "own" / "own.safetensors")
    outputs = []
    for first in (True, False):
        tiny = build("sd")
        for optimizing in (first, not first):
            if optimizing:
                gs.optimize(tiny.pipe, "hyper")
            else:
                tiny.pipe.load_lora_weights(str(Path(own).parent), weight_name="own.safetensors", adapter_name="own")
        assert tiny.pipe.get_list_adapters() == {"unet": ["own"]}
        outputs.append(tiny.run(steps=3))
    assert torch.equal(*outputs)
    tiny.pipe.unload_lora_weights()
    assert not torch.equal(tiny.run(steps=3), outputs[0])


@pytest.mark.parametrize(
    "source", ["not/there.safetensors", "./not-there", "/not/there", "a.bin", "garbage.safetensors"]
)
def test_what_is_no_adapter_is_one_sentence_with_its_path(monkeypatch, tmp_path, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "garbage.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(BadValue, match=source):
        adapter(source)
    monkeypatch.setenv(SOURCE, source)
    with pytest.raises(BadRecipe, match=source):
        gs.optimize(build("sd").pipe, "hyper")


@pytest.mark.parametrize("source", ["owner/name", "owner/name:file.safetensors"])
def test_what_the_hub_does_not_give_is_one_sentence_with_its_name(monkeypatch, source):
    tiny = build("sd")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(tiny.pipe, "load_lora_weights", lambda *_, **__: (_ for _ in ()).throw(OSError("no such file")))
    monkeypatch.setenv(SOURCE, source)
    with pytest.raises(GearshiftError, match=f"{source} is no file here, and cannot be had from the hub"):
        gs.optimize(tiny.pipe, "hyper")
