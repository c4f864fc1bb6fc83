"""The quantizers over groups of few bits: what they spare, what a model goes through with them, and what they say."""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.tiny import build
from torch import nn

import gearshift as gs
from gearshift.core.errors import BadRecipe, GearshiftWarning
from gearshift.layers.grouped import GroupedLinear
from gearshift.layers.linear_view import matrix
from gearshift.models.calibration import walk
from gearshift.quant.formats.grouped import dequantize, quantize
from gearshift.zoo import language

LANGUAGE = ["hqq(weight_bits=4)", "gptq", "awq"]
CALIBRATED = ["gptq", "awq"]
needs_model = pytest.mark.skipif(
    not (language.folder(must_exist=False) / "config.json").is_file(), reason="the zoo's Llama is not here"
)


def optimized(model, recipe, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)
        return gs.optimize(model, recipe, **settings)


def tokens(count=4, length=64):
    return [torch.randint(3, 128, (length,), generator=torch.Generator().manual_seed(n)) for n in range(count)]


def figures(model):
    return gs.status(model).applied[0]["figures"]


@pytest.fixture(scope="module")
def trained():
    """Two blocks of the zoo's Llama, its tokenizer, and some text."""
    model, tokenizer = language.load_language()
    model.model.layers = model.model.layers[:2]
    model.config.num_hidden_layers = 2
    return model, tokenizer, [language.calibration_text()[:6_000]]


@needs_model
@pytest.mark.parametrize("recipe", ["gptq(weight_bits=4)", "gptq(weight_bits=2, group_size=64)", "awq"])
def test_outputs_err_clearly_less_than_with_rounding_to_nearest(trained, recipe):
    model, tokenizer, text = trained
    small, reference = copy.deepcopy(model), copy.deepcopy(model)
    optimized(small, recipe, data=text, tokenizer=tokenizer)
    assert figures(small)["output_error_over_rounding_to_nearest"] < 0.75
    for layer in reference.model.layers.modules():
        if type(layer) is nn.Linear:
            twin = next(m for m in small.modules() if isinstance(m, GroupedLinear))
            layer.weight.data = dequantize(quantize(layer.weight, twin.bits, twin.group))
    unseen = tokenizer(language.validation_text()[:2_000], return_tensors="pt").input_ids[:, :256]
    with torch.no_grad():
        exact, ours, nearest = (m(input_ids=unseen).logits for m in (model, small, reference))
    assert (ours - exact).norm() < 0.92 * (nearest - exact).norm()


@needs_model
@pytest.mark.parametrize("bits", [2, 4])
def test_hqq_is_above_rounding_to_nearest(trained, bits):
    model = copy.deepcopy(trained[0])
    nearest = []
    for layer in model.model.layers.modules():
        if type(layer) is nn.Linear:
            weight = layer.weight.detach()
            noise = (dequantize(quantize(weight, bits, 64)) - weight).square().sum()
            nearest.append(float(10 * (weight.square().sum() / noise).log10()))
    optimized(model, {"hqq": {"weight_bits": bits}})
    ours = list(figures(model)["sqnr"].values())
    assert len(ours) == len(nearest) and all(a > b for a, b in zip(ours, nearest, strict=True))
    assert bits == 2 or min(ours) > 19


@needs_model
def test_four_bits_cost_less_than_three_percent_of_perplexity():
    exact, tokenizer = language.load_language()
    small = optimized(copy.deepcopy(exact), "hqq(weight_bits=4)")
    text = language.validation_text()
    before, after = (language.perplexity(m, tokenizer, text, limit=4) for m in (exact, small))
    assert after < 1.03 * before


@pytest.mark.parametrize("recipe", LANGUAGE)
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_every_model_survives_saving_copying_and_restoring(name, recipe, tmp_path):
    tiny = build(name)
    plain, state = tiny.run(), {k: v.clone() for k, v in tiny.pipe.state_dict().items()}
    optimized(tiny.pipe, recipe, data=tokens(), keep_original=True)
    small = tiny.run()
    assert 0 < (small - plain).norm() < 0.4 * plain.norm()
    gs.save(tiny.pipe, tmp_path / "m")
    assert torch.equal(tiny.run(pipe=gs.load(tmp_path / "m")), small)
    assert torch.equal(tiny.run(pipe=copy.deepcopy(tiny.pipe)), small)
    with gs.disabled(tiny.pipe):
        assert torch.equal(tiny.run(), plain)
    assert torch.equal(tiny.run(), small)
    gs.restore(tiny.pipe)
    assert all(torch.equal(v, state[k]) for k, v in tiny.pipe.state_dict().items())


@pytest.mark.parametrize("recipe", LANGUAGE)
def test_adapters_train_above_them(recipe):
    tiny = build("llama")
    optimized(tiny.pipe, recipe, data=tokens())
    adapted = get_peft_model(tiny.pipe, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    given = tokens(1)[0][None]
    step = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(6):
        losses.append(adapted(input_ids=given, labels=given).loss)
        step.zero_grad()
        losses[-1].backward()
        step.step()
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("recipe", CALIBRATED)
def test_the_seed_decides_what_a_model_without_data_is_calibrated_on(recipe):
    def answer(seed):
        tiny = build("llama")
        tiny.pipe.config.max_position_embeddings = 32  # so that it writes little
        optimized(tiny.pipe, recipe, seed=seed)
        assert "wrote itself" in gs.status(tiny.pipe).applied[0]["notes"][0]
        return tiny.run()

    first = answer(1)
    assert torch.equal(answer(1), first) and not torch.equal(answer(2), first)


@pytest.mark.parametrize("recipe", CALIBRATED)
def test_data_is_texts_tokens_or_arguments(recipe):
    def answer(data, **settings):
        tiny = build("llama")
        optimized(tiny.pipe, recipe, data=data, **settings)
        return tiny.run()

    def tokenizer(text, **_):
        return {"input_ids": [int(n) for n in text.split()]}

    given = tokens()
    texts = [" ".join(map(str, item.tolist())) for item in given]
    joined = torch.cat(given)[None]
    assert torch.equal(answer(given), answer(texts, tokenizer=tokenizer))
    assert answer([{"input_ids": joined, "attention_mask": torch.ones_like(joined)}]).isfinite().all()
    with pytest.raises(BadRecipe, match="tokenizer"):
        answer(texts)
    with pytest.raises(BadRecipe):
        answer([])
    assert torch.equal(answer(texts[0], tokenizer=tokenizer), answer(texts[:1], tokenizer=tokenizer))


def test_where_scales_cannot_be_folded_the_layer_keeps_them():
    tiny = build("gpt2")  # the activation before the second layer of its feed-forward keeps no scale
    for block in tiny.pipe.transformer.h:
        block.mlp.c_fc.bias.data[::7] = 30  # a few inputs of it large, so that scales are worth while
        block.mlp.c_proj.weight.data[::7] *= 0.05
    optimized(tiny.pipe, "awq", data=tokens())
    for block in tiny.pipe.transformer.h:
        assert block.mlp.c_proj.input_scale is not None
        assert block.attn.c_attn.input_scale is None


def test_folded_scales_leave_the_float_model_as_it_was():
    tiny = build("llama")
    plain = tiny.run()
    norms = [layer.input_layernorm for layer in tiny.pipe.model.layers]
    for norm in norms:
        norm.weight.data[::9] = 20
    before, loud = [norm.weight.clone() for norm in norms], tiny.run()
    optimized(tiny.pipe, "awq", data=tokens(), keep_original=True)
    assert all(not torch.equal(norm.weight, w) for norm, w in zip(norms, before, strict=True))
    applied = gs.core.record.record_of(tiny.pipe).applied[0]
    for change in applied.changes[1:]:
        change.revert()  # the float layers with scaled columns, below norms with scaled weights
    assert torch.allclose(tiny.run(), loud, atol=1e-4) and not torch.allclose(loud, plain, atol=1e-2)


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2"])
def test_blocks_are_walked_one_by_one_and_see_what_the_whole_model_gives_them(name):
    model = build(name).pipe
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"][:-1]
    batches = [{"input_ids": item[None]} for item in tokens(3)]
    whole, walked = {}, {}

    def listen(into):
        return lambda layer, args: into.setdefault(layer, []).append(args[0].flatten(0, -2))

    handles = [layer.register_forward_pre_hook(listen(whole)) for layer in layers]
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    for handle in handles:
        handle.remove()
    for block in walk(model, layers, batches):
        assert block.module is not model
        for layer in (layer for group in block.groups for layer in group):
            block.watch({layer: walked.setdefault(layer, []).append})
    assert walked.keys() == set(layers)
    for layer in layers:
        assert torch.allclose(torch.cat(walked[layer]), torch.cat(whole[layer]), atol=1e-5)


def test_models_of_two_stacks_are_one_block_and_are_calibrated_all_the_same():
    tiny = build("marian")
    layers = [m for n, m in tiny.pipe.named_modules() if isinstance(m, nn.Linear) and "lm_head" not in n]
    (block,) = walk(tiny.pipe, layers, [tiny.call(6)])
    assert sum(map(len, block.groups)) == len(layers) and block.module is tiny.pipe
    plain = tiny.run()
    optimized(tiny.pipe, "gptq", data=[tiny.call(6, batch=4, seed=n) for n in range(3)])
    assert (tiny.run() - plain).norm() < 0.3 * plain.norm()


def test_layers_that_no_sample_reaches_are_rounded_and_named():
    tiny = build("llama")
    tiny.pipe.model.layers[0].idle = nn.Linear(32, 32)
    optimized(tiny.pipe, "gptq", data=tokens())
    idle = tiny.pipe.model.layers[0].idle
    assert isinstance(idle, GroupedLinear) and matrix(idle).shape == (32, 32)
    assert any("layers.0.idle" in note for note in gs.status(tiny.pipe).applied[0]["notes"])


def test_what_is_missing_is_said():
    tiny = build("llama")
    with pytest.warns(GearshiftWarning) as said:
        gs.optimize(tiny.pipe, "gptq(use_exllama=true)", data=tokens())
    assert sum("ExLlama" in str(w.message) for w in said) == 1
    pipe = build("dit").pipe
    optimized(pipe, "hqq_diffusers(weight_bits=4, backend=gemlite)")
    if not torch.cuda.is_available():
        assert any("gemlite is not used here" in note for note in gs.status(pipe).applied[0]["notes"])
