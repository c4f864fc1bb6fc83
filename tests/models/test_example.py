"""Example calls: what is called with what, where nothing or little was given."""

import pytest
import torch
from support.each import each
from support.tiny import build
from torch import nn

import gearshift as gs
from gearshift.core.errors import BadRecipe
from gearshift.models.example import example_call


@each("name", ["llama", "gpt2", "opt"])
@each("data", [None, ["text"], [{"input_ids": torch.ones(1, 4, dtype=torch.long)}]])
def test_language_models_are_called_with_tokens(name, data):
    tokens = 4 if data and not isinstance(data[0], str) else 32
    assert example_call(build(name).pipe, data)().logits.shape[1] == tokens


@pytest.mark.parametrize("name", ["whisper", "marian"])
@pytest.mark.parametrize("data", [None, ["text"]])
def test_nothing_is_known_of_encoder_decoders_without_arguments(name, data):
    model = build(name).pipe
    assert example_call(model, data) is None
    assert gs.status(gs.optimize(model, "torch_dynamic", data=data)).applied


def test_any_module_takes_the_first_item():
    assert example_call(nn.Linear(3, 2), [torch.zeros(5, 3)])().shape == (5, 2)
    assert example_call(nn.Linear(3, 2)) is None


@pytest.mark.parametrize("verb", ["plan", "warm_up"])
def test_arguments_without_names_are_refused(verb):
    model, given = build("dit").pipe, {"data": [{1: 2}], **({"speed": 2.0} if verb == "plan" else {})}
    with pytest.raises(BadRecipe, match="by their names"):
        getattr(gs, verb)(model, **given)
