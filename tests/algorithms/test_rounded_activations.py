"""What rounds activations besides weights says so."""

import pytest
import torch
from support.each import each
from support.quantized import MAKERS
from support.tiny import build
from torch import nn

import gearshift as gs
from gearshift.kernels.cpu import weight_only

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@torch.no_grad()
def steps(layer):
    """Relative distance of a layer's outputs from those of its own weight, for few or many tokens of mixed size."""
    found = []
    for tokens in (5, 40):
        x = torch.randn(tokens, layer.in_features).exp() * torch.randn(tokens, layer.in_features)
        want = x.double() @ layer.weight.double().T
        found.append(float((layer(x) - want).norm() / want.norm()))
    return max(found)


@each("kind", MAKERS)
def test_a_layer_rounds_activations_where_it_says_so_and_nowhere_else(kind):
    layer = MAKERS[kind](nn.Linear(128, 64, bias=False))
    assert (steps(layer) > 1e-4) is (layer.activations() is not None)


def test_without_the_kernels_4_bit_layers_do_not(monkeypatch):
    layer = MAKERS["weights 4"](nn.Linear(128, 64, bias=False))
    monkeypatch.setattr(weight_only, "kernels", lambda: None)
    assert layer.activations() is None and steps(layer) < 1e-4


@pytest.mark.parametrize("recipe", ["torch_dynamic", {"torchao": {"quant_type": "int4dq"}}])
def test_status_says_it(recipe):
    tiny = build("llama")
    gs.optimize(tiny.pipe, recipe)
    assert "Activations are rounded too, to 8 bits" in str(gs.status(tiny.pipe))


@pytest.mark.parametrize("recipe", ["hqq", "higgs", {"torchao": {"quant_type": "int8wo"}}])
def test_status_does_not_say_it_of_others(recipe):
    tiny = build("llama")
    gs.optimize(tiny.pipe, recipe)
    assert "Activations are rounded" not in str(gs.status(tiny.pipe))
