"""Smaller dense models: units that do nothing can go without a trace, and every library loads what is left."""

import pytest
import torch
from support.each import each
from support.tiny import build, randomize
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    CohereConfig,
    CohereForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

import gearshift as gs
from gearshift.algorithms.pruners.torch_structured import CRITERIA
from gearshift.core.errors import BadRecipe, CannotRestore, GearshiftError, GearshiftWarning
from gearshift.models import prunable_groups

KINDS = {
    "neurons": {},
    "heads": {"sparsity": 0.0, "head_sparsity": 0.5, "prune_num_heads": True},
    "head dimensions": {"prune_head_dims": True},
}


def groups(root, kind):
    if kind == "neurons":
        return list(prunable_groups.feed_forward(root))
    return list(
        prunable_groups.channel_groups(root)
        if kind == "channels"
        else prunable_groups.attention_groups(root, kind == "head dimensions")
    )


def silence(root, group, units):
    """Make some units do nothing: what they give is multiplied by nought."""
    with torch.no_grad():
        for side in group.inputs:
            weight = root.get_submodule(side.path).weight
            columns = torch.cat([m[units].flatten() for m in side.maps])
            weight.index_fill_(0 if prunable_groups.turned(root.get_submodule(side.path)) else 1, columns, 0.0)
        for side in group.outputs:
            layer = root.get_submodule(side.path)
            if isinstance(layer, nn.GroupNorm):
                continue
            rows = torch.cat([m[units].flatten() for m in side.maps])
            layer.weight.index_fill_(1 if prunable_groups.turned(layer) else 0, rows, 0.0)


def root_of(tiny):
    return getattr(tiny.pipe, tiny.denoiser) if hasattr(tiny, "denoiser") else tiny.pipe


CASES = [
    *((m, k) for m in ("llama", "gpt2", "opt") for k in ("neurons", "heads")),
    ("opt", "head dimensions"),
    ("whisper", "neurons"),
    ("whisper", "heads"),
    ("sd", "heads"),
    ("dit", "neurons"),
    ("dit", "heads"),
    ("flux", "neurons"),
]


@each(("model", "kind"), CASES)
def test_units_that_do_nothing_go_without_a_trace(model, kind):
    tiny = build(model)
    root = root_of(tiny)
    found = groups(root, kind)
    assert found
    for group in found:
        half = torch.arange(0, group.units, 2)[: group.units // 2]
        silence(root, group, half)
    silenced = tiny.run()
    before = sum(p.numel() for p in root.parameters())
    settings = {**KINDS[kind], "sparsity": 0.0 if kind == "heads" else 0.5}
    gs.optimize(tiny.pipe, torch_structured=settings, exclude=["*.layers.0", "*.layers.1"] if "dim" in kind else [])
    assert sum(p.numel() for p in root.parameters()) < before
    torch.testing.assert_close(tiny.run(), silenced, rtol=1e-3, atol=1e-4)


@each("criterion", CRITERIA)
@each("globally", [False, True])
def test_every_criterion_takes_the_share(criterion, globally):
    tiny = build("llama")
    data = [torch.randint(3, 128, (2048,))]
    settings = {
        "type": criterion,
        "sparsity": 0.25,
        "global_pruning": globally,
        "it_steps": 2,
        "calibration_samples": 4,
    }
    gs.optimize(tiny.pipe, torch_structured=settings, data=data)
    left = [layer.mlp.down_proj.in_features for layer in tiny.pipe.model.layers]
    assert abs(sum(left) - 96) <= 2 and (globally or left == [48, 48])
    assert tiny.run().isfinite().all()


@pytest.mark.parametrize("model", ["llama", "opt"])
def test_a_uniform_language_model_loads_without_gearshift(model, tmp_path):
    tiny = build(model)
    gs.optimize(tiny.pipe, "torch_structured(sparsity=0.5)")
    gs.save(tiny.pipe, tmp_path / "m")
    plain = type(tiny.pipe).from_pretrained(tmp_path / "m").eval()
    assert torch.equal(tiny.run(pipe=plain), tiny.run())


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ("llama", "global_pruning=True"),
        ("sd", "prune_num_heads=True, head_sparsity=0.5"),
        ("gpt2", "prune_num_heads=True, head_sparsity=0.5"),
    ],
)
def test_others_are_shrunk_when_gearshift_loads_them(model, recipe, tmp_path):
    tiny = build(model)
    gs.optimize(tiny.pipe, f"torch_structured(sparsity=0.5, {recipe})")
    gs.save(tiny.pipe, tmp_path / "m")
    assert torch.equal(tiny.run(pipe=gs.load(tmp_path / "m")), tiny.run())


def test_the_original_comes_back_if_it_was_kept():
    tiny = build("sd")
    plain = tiny.run()
    gs.optimize(tiny.pipe, "torch_structured(sparsity=0.5)", keep_original=True)
    pruned = tiny.run()
    with gs.disabled(tiny.pipe):
        assert torch.equal(tiny.run(), plain)
    assert torch.equal(tiny.run(), pruned)
    gs.restore(tiny.pipe)
    gs.optimize(tiny.pipe, "torch_structured(sparsity=0.5)")
    with pytest.raises(CannotRestore, match="keep_original"):
        gs.restore(tiny.pipe)


SIZES = {"vocab_size": 128, "hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 2}
SHARED = {**SIZES, "num_attention_heads": 12, "num_key_value_heads": 4}
MIXED = {"num_experts": 4, "num_experts_per_tok": 2}
HEADS = {"sparsity": 0.0, "prune_num_heads": True, "head_sparsity": 0.5}
BOTH = {"sparsity": 0.25, "prune_num_heads": True, "head_sparsity": 0.5}
FIFTEEN = HEADS | {"head_sparsity": 0.34}  # of 24 heads, which 96 dimensions cannot be shared out among
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHARED)),
    "llama tied": lambda: LlamaForCausalLM(LlamaConfig(**SHARED, tie_word_embeddings=True)),
    "many heads": lambda: LlamaForCausalLM(
        LlamaConfig(**(SHARED | {"num_attention_heads": 24, "num_key_value_heads": 8}))
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**(SHARED | {"num_key_value_heads": 2}))),
    "norms over all heads": lambda: Olmo2ForCausalLM(Olmo2Config(**SHARED)),
    "norms of each head": lambda: CohereForCausalLM(CohereConfig(**SHARED, use_qk_norm=True)),
    "phi": lambda: PhiForCausalLM(PhiConfig(**(SHARED | {"num_key_value_heads": 12}))),
    "experts": lambda: OlmoeForCausalLM(OlmoeConfig(**SHARED, **MIXED)),
    "a shared expert": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(**SHARED, **MIXED, moe_intermediate_size=32, shared_expert_intermediate_size=64)
    ),
    "a dense layer as wide as the experts": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            **SHARED, **MIXED, moe_intermediate_size=64, shared_expert_intermediate_size=64, mlp_only_layers=[0]
        )
    ),
}


def made(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS[name]()
    randomize(model, 0)
    return model.eval()


@torch.no_grad()
def logits(model):
    return model(torch.arange(3, 15)[None]).logits


@pytest.mark.parametrize(
    ("name", "settings"),
    [*((name, BOTH) for name in MODELS if name != "experts"), ("many heads", FIFTEEN), ("experts", HEADS)],
)
def test_what_is_left_is_the_same_when_it_is_loaded_by_whoever_can(name, settings, tmp_path):
    model = made(name)
    before = sum(p.numel() for p in model.parameters())
    gs.optimize(model, torch_structured=settings)
    assert sum(p.numel() for p in model.parameters()) < before
    cached, uncached = (
        model.generate(torch.arange(3, 9)[None], max_new_tokens=5, use_cache=cache, pad_token_id=0)
        for cache in (True, False)
    )
    assert torch.equal(cached, uncached)
    gs.save(model, tmp_path / "m")
    assert torch.equal(logits(gs.load(tmp_path / "m")), logits(model))
    if "gearshift.load" not in " ".join(gs.status(model).applied[0]["notes"]):
        assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()), logits(model))


@pytest.mark.parametrize("name", ["llama", "qwen2", "a shared expert", "norms of each head"])
def test_configurations_say_what_they_can(name):
    model = made(name)
    plain = made(name).config.to_dict()
    gs.optimize(model, torch_structured=BOTH, keep_original=True)
    changed = {k for k, v in model.config.to_dict().items() if plain.get(k) != v}
    width = "shared_expert_intermediate_size" if "expert" in name else "intermediate_size"
    assert {width, "num_attention_heads", "num_key_value_heads"} <= changed | {"head_dim"}
    assert changed - {"head_dim", "_name_or_path"} == {width, "num_attention_heads", "num_key_value_heads"}
    gs.restore(model)
    assert {k: v for k, v in model.config.to_dict().items() if k in plain} == plain
    assert torch.equal(logits(model), logits(made(name)))


def test_an_encoder_is_run_on_tokens_and_comes_back(tmp_path):
    model = BertForSequenceClassification(BertConfig(**SIZES, num_attention_heads=12)).eval()
    gs.optimize(model, torch_structured=BOTH)
    gs.save(model, tmp_path / "m")
    assert torch.equal(logits(gs.load(tmp_path / "m")), logits(model))


@pytest.mark.parametrize("name", ["flux", "wan", "sd3"])
def test_heads_go_with_their_norms_and_their_second_stream(name, tmp_path):
    tiny = build(name)
    gs.optimize(tiny.pipe, torch_structured=HEADS, data=[tiny.parts.call(1)])
    assert tiny.run(steps=2).isfinite().all()
    gs.save(tiny.pipe, tmp_path / "m")
    assert torch.equal(tiny.run(steps=2, pipe=gs.load(tmp_path / "m")), tiny.run(steps=2))


def test_what_does_not_run_afterwards_is_refused_and_put_back(monkeypatch):
    model = made("norms over all heads")
    config = model.config.to_dict()
    monkeypatch.setattr(prunable_groups, "beside", lambda *_: ([], []))
    with pytest.raises(GearshiftError, match="Olmo2ForCausalLM does not run with what would be left of it"):
        gs.optimize(model, torch_structured=HEADS)
    assert torch.equal(logits(model), logits(made("norms over all heads"))) and model.config.to_dict() == config


def test_what_would_not_come_back_is_refused_and_put_back(monkeypatch):
    model = made("many heads")
    monkeypatch.setattr(prunable_groups, "resize", lambda layer, shape: None)
    with pytest.raises(GearshiftError, match="would not be the same after saving and loading"):
        gs.optimize(model, torch_structured=FIFTEEN)
    assert torch.equal(logits(model), logits(made("many heads")))


def test_nothing_is_taken_out_silently():
    with pytest.raises(BadRecipe, match="finds no heads in LlamaForCausalLM"):
        model = made("llama")
        for layer in model.model.layers:
            layer.self_attn.out = layer.self_attn.o_proj
            del layer.self_attn.o_proj
        gs.optimize(model, torch_structured=BOTH)
    with pytest.warns(GearshiftWarning, match="removed nothing"):
        gs.optimize(made("llama"), torch_structured={"sparsity": 0.0})
    model = gs.optimize(made("llama"), torch_structured={"prune_head_dims": True, "sparsity": 0.5})
    assert "No head dimensions were found that can be removed." in gs.status(model).applied[0]["notes"]
