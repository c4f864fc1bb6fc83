"""What the verbs promise before and after anything is changed."""

import pytest
import torch
from support.each import each
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import BadRecipe, CannotRestore, GearshiftError, GearshiftWarning, MissingExtra, WrongModel
from gearshift.core.extras import need
from gearshift.measure import in_place
from gearshift.measure.in_place import seconds_of


@each(
    ("recipe", "words"),
    [
        ("deepcache", "deepcache needs a U-Net with down, middle and up blocks; DiTPipeline has none"),
        ("tailor", "did you mean 'taylor'"),
        ("fora(interval=0)", "must be one of 1, 2, 3, 4, 5"),
        ("fora, taylor", "both set which steps are computed"),
        ("half, torch_dynamic", "both set the number format of the weights"),
        ("torch_compile(backend=tvm)", "backend 'tvm' needs the package tvm"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_before_anything_changes(recipe, words):
    tiny = build("dit")
    before = tiny.run()
    with pytest.raises(BadRecipe, match=words.replace("(", r"\(")):
        gs.optimize(tiny.pipe, recipe)
    assert gs.status(tiny.pipe).applied == []
    assert torch.equal(tiny.run(), before)
    assert not any("forward" in vars(m) for m in tiny.pipe.transformer.modules())


@pytest.mark.parametrize("model", [7, "a folder", {"unet": None}, object()])
def test_what_is_no_model_is_told_so(model):
    with pytest.raises(WrongModel, match="works on diffusers pipelines and torch modules"):
        gs.optimize(model, "taylor")


def test_a_module_that_is_no_denoiser_is_told_so():
    with pytest.raises(BadRecipe, match="is another torch module"):
        gs.optimize(torch.nn.Linear(2, 2), "taylor")


def test_a_missing_package_names_its_extra():
    with pytest.raises(MissingExtra, match=r"needs the package no_such_package.*pip install 'gearshift\[demo\]'"):
        need("no_such_package", "demo", "this")


def test_an_algorithm_that_fails_midway_leaves_the_model_as_it_was(monkeypatch):
    from gearshift.steps import install

    tiny = build("dit")
    before = tiny.run()

    def fail(*_):
        raise RuntimeError("midway")

    monkeypatch.setattr(install, "Ruling", fail)
    with pytest.raises(RuntimeError, match="midway"):
        gs.optimize(tiny.pipe, "fora")
    assert gs.status(tiny.pipe).applied == []
    assert torch.equal(tiny.run(), before)


def test_the_model_that_comes_back_is_the_one_that_went_in():
    tiny = build("sd")
    kind = type(tiny.pipe)
    assert gs.optimize(tiny.pipe, ["qkv_diffusers", "deepcache"]) is tiny.pipe and type(tiny.pipe) is kind


def test_a_recipe_of_nothing_adds_nothing():
    tiny = build("dit")
    gs.optimize(tiny.pipe, [])
    assert not any("forward" in vars(m) for m in tiny.pipe.transformer.modules())
    assert str(gs.status(tiny.pipe)) == "Nothing was done to this model."


@pytest.mark.parametrize("recipe", ["torch_dynamic", "half"])
def test_replaced_weights_come_back_only_if_they_were_kept(recipe):
    for keep in (True, False):
        tiny = build("sd")
        plain = tiny.run()
        gs.optimize(tiny.pipe, recipe, keep_original=keep)
        changed = tiny.run()
        assert not torch.equal(changed, plain)
        if keep:
            with gs.disabled(tiny.pipe):
                assert torch.equal(tiny.run(), plain)
            assert torch.equal(tiny.run(), changed)
            assert torch.equal((gs.restore(tiny.pipe), tiny.run())[1], plain)
        else:
            with pytest.raises(CannotRestore, match="keep_original"):
                gs.restore(tiny.pipe)
            assert torch.equal(tiny.run(), changed)


def test_half_says_where_it_is_slower(monkeypatch):
    tiny = build("dit")
    took = iter((2.0, 5.0))
    monkeypatch.setattr("gearshift.measure.in_place.seconds_of", lambda call: (call(), next(took))[1])
    with pytest.warns(GearshiftWarning, match=r"makes calls of the model take 2\.5 times as long as before"):
        gs.optimize(tiny.pipe, "half", data=[tiny.parts.call(1)])
    assert gs.status(tiny.pipe).applied[0]["figures"]["call_seconds_over_float32"] == 2.5


def test_seconds_are_of_calls_after_one_to_warm_up(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(in_place, "clock", lambda: lambda: float(next(now)) ** 2)
    calls = []
    assert seconds_of(lambda: calls.append(1)) == 5.0  # 1, 5 and 9
    assert len(calls) == 4


def test_half_of_tied_weights_comes_back():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=True, **sizes)).eval()
    with torch.no_grad():
        plain = model(torch.arange(8)[None]).logits
        gs.optimize(model, "half", keep_original=True)
        assert {p.dtype for p in model.parameters()} == {torch.float16}
        assert torch.equal(gs.restore(model)(torch.arange(8)[None]).logits, plain)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_optimizing_in_two_goes_equals_one_recipe():
    one, two = build("sd"), build("sd")
    gs.optimize(one.pipe, "qkv_diffusers, torch_dynamic, deepcache")
    for recipe in ("deepcache", "qkv_diffusers", "torch_dynamic"):
        gs.optimize(two.pipe, recipe)
    assert [a["name"] for a in gs.status(two.pipe).applied] == ["qkv_diffusers", "torch_dynamic", "deepcache"]
    assert torch.equal(one.run(), two.run())
    with pytest.raises(BadRecipe, match="both set which steps"):
        gs.optimize(two.pipe, "taylor")


def test_disabled_may_be_nested_and_refuses_optimizing_inside():
    tiny = build("dit")
    plain = tiny.run()
    gs.optimize(tiny.pipe, "qkv_diffusers, fora")
    changed = tiny.run()
    with gs.disabled(tiny.pipe), gs.disabled(tiny.pipe):
        assert torch.equal(tiny.run(), plain)
        with pytest.raises(GearshiftError, match="inside of `disabled`"):
            gs.optimize(tiny.pipe, "torch_dynamic")
    assert torch.equal(tiny.run(), changed)


def test_status_says_what_was_done_and_decided():
    tiny = build("sd")
    gs.optimize(tiny.pipe, "torch_dynamic, deepcache(interval=3)", keep_original=True)
    tiny.run(steps=6)
    text = str(gs.status(tiny.pipe))
    assert "torch_dynamic(weight_bits='qint8')" in text and "size after" in text
    assert "#..#.." in text and "reused: 4 of 6" in text


def test_adapters_load_onto_fused_and_int8_layers():
    """LoRA trained for the plain model acts on the optimized one as it does on the plain one."""
    from peft import LoraConfig

    results = {}
    for recipe in ([], ["qkv_diffusers"], ["qkv_diffusers", "torch_dynamic"]):
        tiny = build("sd")
        gs.optimize(tiny.pipe, recipe)
        before = tiny.run()
        torch.manual_seed(0)
        tiny.pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
        results[str(recipe)] = tiny.run()
        assert not torch.allclose(results[str(recipe)], before, atol=1e-3)
    plain, fused, int8 = results.values()
    assert torch.allclose(fused, plain, atol=1e-4)
    assert (int8 - plain).norm() < 0.2 * plain.norm()


def test_the_verb_keeps_its_name_when_its_namesake_is_imported():
    import importlib

    importlib.import_module("gearshift.algorithms.cachers")
    assert "periodic" in gs.algorithms()
