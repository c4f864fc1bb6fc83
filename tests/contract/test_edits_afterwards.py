"""Edits of a model after it was optimized: what is written to weights arrives, and undoing it is exact."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.tiny import build
from torch import nn
from transformers.pytorch_utils import Conv1D

import gearshift as gs
from gearshift.core.facts import Family, Kind, Trait
from gearshift.core.registry import registry

OWN_TESTS = ("torchao_autoquant",)  # it compiles
FAMILIES = {Family.QUANTIZER, Family.FACTORIZER, Family.SCHEDULER}
CLASSES = [
    cls
    for cls in registry()
    if (cls.facts.family in FAMILIES or Trait.FLOAT_WEIGHTS in cls.facts.removes)
    and Trait.TORCH_FORWARD not in cls.facts.removes
    and cls.name not in OWN_TESTS
]
STORES = {f"{c.name} nested": {c.name: {"store": "nested"}} for c in CLASSES if "store" in c.params()}
PIPELINES = {c.name: c.name for c in CLASSES if Kind.DIFFUSION in c.facts.kinds} | STORES
MODELS = {c.name: c.name for c in CLASSES if Kind.LANGUAGE in c.facts.kinds}
CLOSE = 0.01  # what merging and taking out again adds in 16 bits; in others it is exact
PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def adapted(root, seed=0):
    """Draw a module's adapters anew, large enough to be seen through any rounding."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in root.named_parameters():
        if "lora_" in name:
            fan_in = parameter.shape[1]
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator).to(parameter) / fan_in**0.5


def distance(a, b):
    return float((a - b).norm() / b.norm())


def test_layers_within_fused_ones_go_back_from_under_adapters():
    tiny = build("flux")
    tiny.pipe.transformer.add_adapter(LoraConfig(r=4, target_modules=PROJECTIONS), "one")
    adapted(tiny.pipe.transformer)
    exact = tiny.run(steps=2)
    tiny = build("flux")
    gs.optimize(tiny.pipe, "qkv_diffusers, hqq_diffusers", keep_original=True)
    tiny.pipe.transformer.add_adapter(LoraConfig(r=4, target_modules=PROJECTIONS), "one")
    adapted(tiny.pipe.transformer)
    beside = tiny.run(steps=2)
    with gs.disabled(tiny.pipe):
        assert torch.equal(tiny.run(steps=2), exact)
    assert torch.equal(tiny.run(steps=2), beside) and not torch.equal(beside, exact)


def by_data(layer, change):
    layer.weight.data = layer.weight.data + change


def through_data(layer, change):
    layer.weight.data.add_(change)


@torch.no_grad()
def copied(layer, change):
    layer.weight.copy_(layer.weight + change)


def by_parameter(layer, change):
    layer.weight = nn.Parameter(layer.weight.detach() + change, requires_grad=False)


def by_state(layer, change):
    weight = layer.weight.detach() + change
    layer.load_state_dict({"weight": weight, **({} if layer.bias is None else {"bias": layer.bias.detach()})})


WRITES = {
    by_data: "transformer_blocks.0.attn.to_v",
    through_data: "transformer_blocks.0.attn.to_q",
    copied: "transformer_blocks.0.ff.net.2",
    by_parameter: "transformer_blocks.0.attn.add_v_proj",
    by_state: "transformer_blocks.0.attn.to_out.0",
}


@pytest.mark.parametrize("name", PIPELINES)
def test_adapters_merge_into_a_pipeline_and_weights_are_written_to(name):
    tiny, edited = build("flux"), build("flux")
    exact = tiny.run(steps=2)
    gs.optimize(tiny.pipe, PIPELINES[name])
    denoiser, plain = tiny.pipe.transformer, tiny.run(steps=2)
    allowed = 0.05 + 2 * distance(plain, exact)
    denoiser.add_adapter(LoraConfig(r=4, target_modules=PROJECTIONS), "one")
    adapted(denoiser)
    beside = tiny.run(steps=2)
    for safe in (False, True):
        denoiser.fuse_lora(safe_fusing=safe)
        assert distance(tiny.run(steps=2), beside) < allowed < distance(plain, beside)
        denoiser.unfuse_lora()
    denoiser.unload_lora()
    assert distance(tiny.run(steps=2), plain) < CLOSE
    for write, path in WRITES.items():
        layer, real = denoiser.get_submodule(path), edited.pipe.transformer.get_submodule(path)
        change = real.weight.detach().std() * torch.randn(real.weight.shape)
        write(layer, change.to(layer.weight.dtype))
        real.weight.data.add_(change)
    exact = edited.run(steps=2)
    assert distance(tiny.run(steps=2), exact) < allowed < distance(plain, exact)


@pytest.mark.parametrize("name", MODELS)
def test_adapters_merge_into_a_language_model_and_come_off_again(name):
    tiny = build("gpt2")  # its layers are no nn.Linear; those are in the pipelines
    exact = tiny.run()
    gs.optimize(tiny.pipe, MODELS[name], data=[tiny.call(64)])
    plain = tiny.run()
    whole = get_peft_model(tiny.pipe, LoraConfig(r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)).eval()
    adapted(whole)
    beside = tiny.run(pipe=whole)
    for safe in (False, True):
        whole.merge_adapter(safe_merge=safe)
        assert distance(tiny.run(pipe=whole), beside) < 0.1 + 2 * distance(plain, exact) < distance(plain, beside)
        whole.unmerge_adapter()
        assert distance(tiny.run(pipe=whole), beside) < CLOSE
    assert distance(tiny.run(pipe=whole.unload()), plain) < CLOSE


def test_a_conv1d_is_still_one_and_has_its_weight_its_own_way_round():
    tiny = build("gpt2")
    before = {path: m.weight.shape for path, m in tiny.pipe.named_modules() if isinstance(m, Conv1D)}
    gs.optimize(tiny.pipe, "hqq")
    assert {p: m.weight.shape for p, m in tiny.pipe.named_modules() if isinstance(m, Conv1D)} == before
    assert {p: tiny.pipe.state_dict()[f"{p}.weight"].shape for p in before} == before


NESTED = {"adaptive_precision": {"store": "nested"}}


@pytest.mark.parametrize("recipe", ["qkv_diffusers", "qkv_diffusers, hqq_diffusers", NESTED])
def test_the_float_models_state_dict_can_be_loaded(recipe):
    tiny, other = build("flux"), build("flux", seed=1)
    gs.optimize(tiny.pipe, recipe)
    tiny.pipe.transformer.load_state_dict(other.pipe.transformer.state_dict())
    assert distance(tiny.run(steps=2), other.run(steps=2)) < 0.05


def test_what_a_library_saves_of_a_quantized_model_is_the_float_model_it_stands_for(tmp_path):
    tiny = build("gpt2")
    gs.optimize(tiny.pipe, "hqq")
    tiny.pipe.save_pretrained(tmp_path)
    again = type(tiny.pipe).from_pretrained(tmp_path).eval()
    assert distance(tiny.run(pipe=again), tiny.run()) < 1e-4
