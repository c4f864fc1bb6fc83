"""A language model with 8-bit or 4-bit weights: near the float one, saved, loaded, restored, beside half."""

import warnings

import pytest
import torch
from support.tiny import build
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import gearshift as gs
from gearshift.algorithms.compilers import ipex_llm
from gearshift.core.errors import BadRecipe, GearshiftWarning
from gearshift.core.model import size_bytes

TOKENS = torch.randint(3, 256, (2, 24), generator=torch.Generator().manual_seed(1))
CLOSE = {8: 2e-4, 4: 2e-2}  # nats of Kullback-Leibler divergence
each_width = pytest.mark.parametrize("bits", [8, 4])
each_tie = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])


@pytest.fixture(autouse=True)
def no_time_for_timing(monkeypatch):
    monkeypatch.setattr(ipex_llm, "SECONDS", 0)


def llama(tied=False):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=256, num_key_value_heads=2, tie_word_embeddings=tied, pad_token_id=0, **sizes)
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def logits(model):
    return model(input_ids=TOKENS).logits.float()


def written(model):
    return model.generate(TOKENS, max_new_tokens=8, min_new_tokens=8, do_sample=False)


def optimized(model, recipe, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)  # so small a model is slower than before
        return gs.optimize(model, recipe, **keywords)


def kinds(model):
    return {type(m).__name__ for m in model.modules() if isinstance(m, nn.Linear)}


@each_width
@each_tie
def test_the_probabilities_stay_close(bits, tied):
    model = llama(tied)
    exact, size = logits(model), size_bytes(model)
    optimized(model, {"ipex_llm": {"weight_bits": bits}})
    distance = F.kl_div(logits(model).log_softmax(-1), exact.log_softmax(-1), log_target=True, reduction="none")
    assert 0 < distance.sum(-1).mean() < CLOSE[bits]
    assert kinds(model) == ({"Int8WeightLinear"} if bits == 8 else {"Int8WeightLinear", "GroupedLinear"})
    figures = gs.status(model).applied[0]["figures"]
    assert figures["layers"] == 15
    assert figures["sqnr_mean"] > {8: 40, 4: 21}[bits]
    assert figures["size_after"] == size_bytes(model) < {8: 0.45, 4: 0.35}[bits] * size


@each_width
@each_tie
@pytest.mark.parametrize("before", [[], ["half"]], ids=["plain", "half"])
def test_a_saved_folder_answers_bit_for_bit(bits, tied, before, tmp_path):
    model = optimized(llama(tied), [*before, {"ipex_llm": {"weight_bits": bits}}])
    gs.save(model, tmp_path / "saved")
    loaded = gs.load(tmp_path / "saved")
    assert torch.equal(logits(loaded), logits(model))
    assert torch.equal(written(loaded), written(model))
    assert loaded.dtype == (torch.float16 if before else torch.float32)
    gs.save(loaded, tmp_path / "again")
    assert torch.equal(logits(gs.load(tmp_path / "again")), logits(model))


@each_tie
def test_the_original_comes_back(tied):
    model = llama(tied)
    exact = logits(model)
    optimized(model, "ipex_llm(weight_bits=4)", keep_original=True)
    with gs.disabled(model):
        assert torch.equal(logits(model), exact)
    gs.restore(model)
    assert torch.equal(logits(model), exact)
    assert model.config.tie_word_embeddings is tied
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


@each_tie
def test_the_head_has_8_bits_unless_it_is_left_alone(tied):
    assert optimized(llama(tied), "ipex_llm(weight_bits=4)").lm_head.bits == 8
    assert optimized(llama(tied), "ipex_llm(weight_bits=4)", include=["*head"]).lm_head.bits == 8
    left = optimized(llama(tied), "ipex_llm(weight_bits=4)", exclude=["lm_head"])
    assert type(left.lm_head) is nn.Linear
    assert left.config.tie_word_embeddings is tied


def test_narrow_layers_get_4_bits_too():
    tiny = build("llama")  # 32 wide
    optimized(tiny.pipe, "ipex_llm(weight_bits=4)")
    assert tiny.pipe.model.layers[0].self_attn.q_proj.bits == 4
    assert tiny.pipe.model.layers[0].mlp.down_proj.bits == 4


@pytest.mark.parametrize(("name", "layers"), [("gpt2", 9), ("opt", 13), ("marian", 17)])
def test_other_architectures(name, layers):
    tiny = build(name)
    exact = tiny.run()
    optimized(tiny.pipe, "ipex_llm")
    assert gs.status(tiny.pipe).applied[0]["figures"]["layers"] == layers
    assert (tiny.run() - exact).norm() < 0.05 * exact.norm()


def test_it_says_when_a_token_takes_longer(monkeypatch):
    seconds = iter([1.0, 1.25])
    monkeypatch.setattr(ipex_llm, "token_seconds", lambda model: next(seconds))
    with pytest.warns(GearshiftWarning, match=r"a token takes 1\.25 times as long"):
        gs.optimize(llama(), "ipex_llm")


def test_it_says_when_it_has_no_kernels(monkeypatch):
    monkeypatch.setattr("gearshift.kernels.cpu.weight_only.kernels", lambda: None)
    with pytest.warns(GearshiftWarning, match="runs without its kernels"):
        gs.optimize(llama(), "ipex_llm")


def test_a_token_is_timed():
    assert 0 < ipex_llm.token_seconds(llama()) < 10


@pytest.mark.parametrize("other", ["torch_dynamic", "torch_compile"])
def test_it_is_the_only_one_to_decide_weights_and_runtime(other):
    with pytest.raises(BadRecipe, match="ipex_llm"):
        gs.optimize(llama(), ["ipex_llm", other])
