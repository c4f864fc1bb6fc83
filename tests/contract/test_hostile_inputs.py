"""Every quantizer on weights at the edges: what it makes of them is finite wherever the float model is."""

import pytest
import torch
from support.tiny import build
from torch import nn

import gearshift as gs
from gearshift.core.errors import GearshiftError
from gearshift.core.facts import Kind, Trait
from gearshift.core.registry import registry
from gearshift.layers.base import QuantizedLayer
from gearshift.layers.linear_view import as_linear, is_linear, matrix

OWN_TESTS = ("torchao_autoquant",)  # it compiles
CLASSES = [
    c
    for c in registry()
    if Trait.FLOAT_WEIGHTS in c.facts.removes and Trait.TORCH_FORWARD not in c.facts.removes and c.name not in OWN_TESTS
]
LANGUAGE = [c.name for c in CLASSES if Kind.LANGUAGE in c.facts.kinds]
EDGES = {
    "zeros": lambda w: w.zero_(),
    "zero rows": lambda w: w[: len(w) // 2].zero_(),
    "zero columns": lambda w: w[:, : w.shape[1] // 2].zero_(),
    "an outlier": lambda w: w[0, :1].fill_(1e4),
    "denormals": lambda w: w[: len(w) // 2].mul_(1e-42),
    "constant": lambda w: w.fill_(0.01),
}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def layers(model):
    return {path: layer for path, layer in model.named_modules() if is_linear(layer) and "head" not in path}


@pytest.mark.parametrize("name", LANGUAGE)
@torch.no_grad()
def test_a_language_model_of_hostile_weights(name):
    tiny = build("gpt2")
    for n, layer in enumerate(layers(tiny.pipe).values()):
        list(EDGES.values())[n % len(EDGES)](matrix(layer).data)
    real = {path: as_linear(layer) for path, layer in layers(tiny.pipe).items()}
    dead = {path: (layer.weight == 0).all(1) for path, layer in real.items()}
    gs.optimize(tiny.pipe, name, data=[tiny.call(32)])
    assert tiny.run().isfinite().all()
    twins = {path: layer for path, layer in layers(tiny.pipe).items() if isinstance(layer, QuantizedLayer)}
    for path, twin in twins.items():
        width, channels = real[path].in_features, real[path].out_features
        for x in (torch.randn(3, width), torch.zeros(2, width), torch.randn(0, width), torch.randn(width)):
            y = twin(x)
            assert y.isfinite().all() and y.shape == (*x.shape[:-1], channels)
            bias = torch.zeros(channels) if twin.bias is None else twin.bias
            assert torch.equal(y[..., dead[path]], bias[dead[path]].expand_as(y[..., dead[path]]))


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_layer_of_infinities_is_left_and_named_or_the_model_is_refused(name):
    tiny = build("llama")
    broken = tiny.pipe.model.layers[1].self_attn.v_proj
    broken.weight.data[2, 2] = float("inf")
    try:
        gs.optimize(tiny.pipe, name, data=[tiny.call(32)])
    except GearshiftError:
        assert not gs.status(tiny.pipe).applied
    else:
        left = gs.status(tiny.pipe).applied[0]["figures"].get("left", {})
        assert any("infinities" in reason for reason in left.values()) or name == "half"
    assert type(tiny.pipe.model.layers[1].self_attn.v_proj) is nn.Linear
