"""Adapters over saving and loading: outputs are equal bit for bit, and what can be switched can be switched still."""

import peft
import pytest
import torch
from support.tiny import build

import gearshift as gs
from gearshift.core.adapters import aside
from gearshift.core.errors import GearshiftError

LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
RANDOM = {"init_lora_weights": False, "target_modules": LAYERS}
LANGUAGE = {"init_lora_weights": False, "target_modules": ["q_proj", "v_proj", "down_proj"], "r": 4}


def add(model, config=None, name="one", seed=1):
    torch.manual_seed(seed)
    model.add_adapter(config or peft.LoraConfig(r=4, lora_alpha=8, **RANDOM), name)
    return model.eval()


def loaded_gives_the_same(tiny, folder):
    """The loaded model, after comparing outputs; saving changes nothing."""
    before = tiny.run(steps=2)
    gs.save(tiny.pipe, folder)
    again = gs.load(folder)
    assert torch.equal(tiny.run(steps=2), before)
    assert torch.equal(tiny.run(steps=2, pipe=again), before)
    return again


CONFIGS = {
    "DoRA": peft.LoraConfig(r=4, use_dora=True, **RANDOM),
    "patterns": peft.LoraConfig(r=4, rank_pattern={"to_q": 2}, alpha_pattern={"to_k": 3}, use_rslora=True, **RANDOM),
    "PiSSA": peft.LoraConfig(r=4, init_lora_weights="pissa", target_modules=LAYERS),
    "by pattern": peft.LoraConfig(r=4, init_lora_weights=False, target_modules=r".*attn1\.to_[qk]"),
    "LoHa": peft.LoHaConfig(r=4, init_weights=False, target_modules=LAYERS),
    "LoKr": peft.LoKrConfig(r=4, init_weights=False, target_modules=LAYERS),
    "IA3": peft.IA3Config(target_modules=LAYERS, feedforward_modules=[], init_ia3_weights=False),
    "OFT": peft.OFTConfig(r=4, oft_block_size=0, init_weights=False, target_modules=LAYERS),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_each_kind_of_adapter_is_kept(kind, tmp_path):
    tiny = build("wan")
    plain = tiny.run(steps=2)
    add(tiny.pipe.transformer, CONFIGS[kind])
    again = loaded_gives_the_same(tiny, tmp_path / "x")
    assert not torch.equal(tiny.run(steps=2), plain)
    again.transformer.unload_lora()
    tiny.pipe.transformer.unload_lora()
    assert torch.equal(tiny.run(steps=2, pipe=again), tiny.run(steps=2))


def two(model):
    add(model, name="one", seed=1)
    add(model, peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "proj_out"]), "two", 2)


STATES = {
    "both, scaled": lambda net: net.set_adapters(["one", "two"], weights=[0.5, 0.25]),
    "one active": lambda net: net.set_adapter("two"),
    "disabled": lambda net: net.disable_adapters(),
    "fused": lambda net: net.fuse_lora(0.7),
    "one fused": lambda net: net.fuse_lora(adapter_names=["one"]),
    "one deleted": lambda net: net.delete_adapters("one"),
}
AFTERWARDS = {
    "both, scaled": lambda net: net.set_adapter("one"),
    "one active": lambda net: net.set_adapters(["one", "two"]),
    "disabled": lambda net: net.enable_adapters(),
    "fused": lambda net: net.unfuse_lora(),
    "one fused": lambda net: net.unfuse_lora(),
    "one deleted": lambda net: net.set_adapters(["two"], weights=[2.0]),
}


@pytest.mark.parametrize("state", STATES)
def test_what_is_active_scaled_or_fused_is_kept_and_can_be_changed(state, tmp_path):
    tiny = build("wan")
    two(tiny.pipe.transformer)
    STATES[state](tiny.pipe.transformer)
    again = loaded_gives_the_same(tiny, tmp_path / "x")
    for net in (tiny.pipe.transformer, again.transformer):
        AFTERWARDS[state](net)
    assert torch.equal(tiny.run(steps=2, pipe=again), tiny.run(steps=2))
    assert {n: c.target_modules for n, c in again.transformer.peft_config.items()} == {
        n: c.target_modules for n, c in tiny.pipe.transformer.peft_config.items()
    }


RECIPES = ["qkv_diffusers, taylor", "half", "hqq_diffusers", "adaptive_precision", {"quanto": {"weight_bits": "qint8"}}]


@pytest.mark.parametrize("first", ["adapter first", "recipe first"])
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.filterwarnings("ignore::gearshift.core.errors.GearshiftWarning")
def test_adapters_go_with_recipes_in_either_order(recipe, first, tmp_path):
    tiny = build("wan")
    if first == "adapter first":
        add(tiny.pipe.transformer)
    gs.optimize(tiny.pipe, recipe)
    if first == "recipe first":
        add(tiny.pipe.transformer)
    again = loaded_gives_the_same(tiny, tmp_path / "x")
    assert gs.status(again).applied[0]["name"] == gs.status(tiny.pipe).applied[0]["name"]
    for pipe in (tiny.pipe, again):
        pipe.transformer.unload_lora()
    assert torch.equal(tiny.run(steps=2, pipe=again), tiny.run(steps=2))


@pytest.mark.parametrize("first", ["adapter first", "recipe first"])
@pytest.mark.filterwarnings("ignore::gearshift.core.errors.GearshiftWarning")
def test_layers_beneath_adapters_change_places_with_the_originals(first):
    tiny = build("wan")
    plain, recipe = tiny.run(steps=2), {"hqq_diffusers": {}}
    if first == "recipe first":
        gs.optimize(tiny.pipe, recipe, keep_original=True)
        quantized = tiny.run(steps=2)
    add(tiny.pipe.transformer)
    if first == "adapter first":
        gs.optimize(tiny.pipe, recipe, keep_original=True)
    both = tiny.run(steps=2)
    with gs.disabled(tiny.pipe):
        adapted = tiny.run(steps=2)
    assert torch.equal(tiny.run(steps=2), both)
    tiny.pipe.transformer.unload_lora()
    if first == "recipe first":
        assert torch.equal(tiny.run(steps=2), quantized)
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=2), plain)
    add(tiny.pipe.transformer)
    assert torch.equal(tiny.run(steps=2), adapted)


def test_sizes_that_adapters_do_not_fit_are_refused_and_they_stand_where_they_stood():
    model = add(build("llama").pipe, peft.LoraConfig(**LANGUAGE))
    layer = model.model.layers[0].mlp.down_proj
    with pytest.raises(GearshiftError, match="down_proj has another size now, which the adapter"), aside({"": model}):
        assert type(model.model.layers[0].mlp.down_proj) is torch.nn.Linear
        model.model.layers[0].mlp.down_proj = torch.nn.Linear(48, 32)
    assert model.model.layers[0].mlp.down_proj is layer and "one" in model.peft_config


def test_a_pruner_finds_what_lies_beneath_an_adapter_and_says_that_it_does_not_fit():
    tiny = build("llama")
    add(tiny.pipe, peft.LoraConfig(**LANGUAGE))
    before = tiny.run()
    with pytest.raises(GearshiftError, match="has another size now, which the adapter on it does not fit; first merge"):
        gs.optimize(tiny.pipe, "torch_structured(sparsity=0.3)")
    assert torch.equal(tiny.run(), before)


def test_adapters_on_convolutions_of_a_unet_are_kept(tmp_path):
    tiny = build("sd")
    gs.optimize(tiny.pipe, "deepcache, qkv_diffusers")
    add(tiny.pipe.unet, peft.LoraConfig(r=4, init_lora_weights=False, target_modules=["conv1", "to_q"]))
    loaded_gives_the_same(tiny, tmp_path / "x")


def with_controlnet(pipe):
    """A pipeline of the same components and a ControlNet that has its say."""
    import diffusers

    torch.manual_seed(3)
    sizes = {"conditioning_channels": 3, "conditioning_embedding_out_channels": (8, 16)}
    net = diffusers.ControlNetModel.from_unet(pipe.unet, **sizes).eval()
    for name, parameter in net.named_parameters():
        if name.startswith(("controlnet_down", "controlnet_mid")):
            torch.nn.init.normal_(parameter, std=0.1)
    names = ("safety_checker", "feature_extractor", "image_encoder")
    components = {**pipe.components, **dict.fromkeys(names)}
    made = diffusers.StableDiffusionControlNetPipeline(**components, controlnet=net, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize(
    "recipe", ["taylor(start_step=1)", "deepcache", "fora, torch_dynamic", "qkv_diffusers", "half", "quanto"]
)
@pytest.mark.filterwarnings("ignore::gearshift.core.errors.GearshiftWarning")
def test_a_controlnet_and_adapters_on_both_networks_are_kept(recipe, tmp_path):
    tiny = build("sd")
    pipe = with_controlnet(tiny.pipe)
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    image = torch.rand(1, 3, size, size)
    plain = tiny.run(steps=3, pipe=pipe, image=image)
    for part in (pipe.unet, pipe.controlnet):
        add(part, peft.LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    adapted = tiny.run(steps=3, pipe=pipe, image=image)
    gs.optimize(pipe, recipe, keep_original=True)
    changed = tiny.run(steps=3, pipe=pipe, image=image)
    gs.save(pipe, tmp_path / "x")
    assert torch.equal(tiny.run(steps=3, pipe=gs.load(tmp_path / "x"), image=image), changed)
    gs.restore(pipe)
    assert torch.equal(tiny.run(steps=3, pipe=pipe, image=image), adapted) and not torch.equal(adapted, plain)


@pytest.mark.parametrize("recipe", [None, "hqq", "torch_unstructured"])
@pytest.mark.filterwarnings("ignore::gearshift.core.errors.GearshiftWarning")
def test_an_adapter_of_a_language_model_is_kept(recipe, tmp_path):
    tiny = build("llama")
    if recipe:
        gs.optimize(tiny.pipe, recipe)
    add(tiny.pipe, peft.LoraConfig(**LANGUAGE))
    again = loaded_gives_the_same(tiny, tmp_path / "x")
    again.disable_adapters()
    tiny.pipe.disable_adapters()
    assert torch.equal(tiny.run(pipe=again), tiny.run())


REFUSED = {
    "modules_to_save": peft.LoraConfig(modules_to_save=["lm_head"], **LANGUAGE),
    "layer_replication": peft.LoraConfig(layer_replication=[(0, 2), (1, 2)], **LANGUAGE),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_not_come_back_is_refused_before_anything_is_written(what, tmp_path):
    tiny = build("llama")
    add(tiny.pipe, REFUSED[what])
    before = tiny.run()
    with pytest.raises(GearshiftError, match=f"{what} of 'one' is not supported"):
        gs.save(tiny.pipe, tmp_path / "x")
    assert list(tmp_path.iterdir()) == [] and torch.equal(tiny.run(), before)


def test_a_model_inside_of_peft_s_own_class_is_refused(tmp_path):
    wrapped = peft.get_peft_model(build("llama").pipe, peft.LoraConfig(**LANGUAGE))
    with pytest.raises(GearshiftError, match="PeftModel cannot be saved"):
        gs.save(wrapped, tmp_path / "x")
