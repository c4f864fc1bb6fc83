"""Quantizers on causal architectures that write their layers in other ways; tools/coverage.py runs all on all."""

import pytest
import torch
from support.causal import VOCABULARY, causal, logits
from torch import nn

import gearshift as gs
from gearshift.algorithms.quantizers import sqnr
from gearshift.layers.base import QuantizedLayer
from gearshift.layers.linear_view import is_linear

SAMPLE = {
    "falcon": "gptq",  # a subclass of nn.Linear with a forward of its own
    "gpt2": "ipex_llm",  # Conv1D
    "openai-gpt": "gptq",  # blocks that answer with lists
    "bloom": "awq",
    "gpt_neox": "fp8",
    "mpt": "hqq",
    "opt": "llm_int8",
    "mixtral": "torchao",  # experts that are one tensor
    "phi3": "quanto",
    "mamba": "higgs",
}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("architecture", SAMPLE)
def test_linear_layers_are_replaced_or_named_and_survive_saving(architecture, tmp_path):
    model, name = causal(architecture), SAMPLE[architecture]
    exact = logits(model)
    gs.optimize(model, name, data=[torch.randint(3, VOCABULARY, (2, 16))])
    output = logits(model)
    floating = {p for p, m in model.named_modules() if is_linear(m) and not isinstance(m, QuantizedLayer)}
    left = gs.status(model).applied[0]["figures"]["left"]
    head = {p for p, m in model.named_modules() if m is model.get_output_embeddings()}
    assert floating - head <= left.keys()
    assert any(isinstance(m, QuantizedLayer) for m in model.modules())
    assert sqnr(exact, output) > 3
    if architecture == "mixtral":
        assert any("3 dimensions" in reason for reason in left.values())
    gs.save(model, tmp_path / "model")
    assert torch.equal(logits(gs.load(tmp_path / "model")), output)


def test_a_subclass_is_replaced_with_what_it_computes():
    model = causal("falcon")
    named = {path for path, m in model.named_modules() if type(m).__name__ == "FalconLinear"}
    assert named and not any(type(model.get_submodule(path)) is nn.Linear for path in named)
    gs.optimize(model, "fp8")
    assert all(isinstance(model.get_submodule(path), QuantizedLayer) for path in named)


@pytest.mark.parametrize("name", ["hqq", "fp8", "quanto"])
def test_a_head_that_shared_the_embeddings_weight_keeps_its_own_after_loading(name, tmp_path):
    model = causal("gpt2")
    assert model.config.tie_word_embeddings
    gs.optimize(model, name, include=["lm_head"])
    output = logits(model)
    assert isinstance(model.lm_head, QuantizedLayer) and not model.config.tie_word_embeddings
    gs.save(model, tmp_path / "model")
    assert torch.equal(logits(gs.load(tmp_path / "model")), output)
