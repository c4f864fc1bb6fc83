"""Token ids are read however they come, and examples end where a model's positions do."""

import numpy as np
import pytest
import torch
from support.each import each
from support.tiny import build, language

import gearshift as gs
from gearshift.core.errors import BadRecipe, GearshiftError, GearshiftWarning
from gearshift.core.examples import examples
from gearshift.models.texts import as_tokens, cut_to_positions, positions, texts

ROW = [1, 2, 3]
WAYS = {
    "list": ROW,
    "lists": [ROW],
    "tuple": tuple(ROW),
    "array": np.array(ROW),
    "int32": torch.tensor(ROW, dtype=torch.int32),
    "tensor": torch.tensor([ROW]),
}


@each("way", WAYS)
def test_token_ids_become_a_tensor_of_rows(way):
    wanted = torch.tensor([ROW])
    found = as_tokens(WAYS[way])
    assert torch.equal(found, wanted) and found.dtype == torch.long
    assert torch.equal(next(texts([WAYS[way]])), wanted)
    inside = as_tokens({"input_ids": WAYS[way] if way != "int32" else ROW, "other": "kept"})
    assert torch.equal(inside["input_ids"].view(1, -1), wanted) and inside["other"] == "kept"


def test_rows_of_unequal_length_get_a_mask():
    found = as_tokens([[1, 2, 3], [4]])
    assert found["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_flat_list_is_one_example_and_an_iterator_is_read_twice():
    assert [t.tolist() for t in texts(ROW)] == [[ROW]]
    data = examples(iter([1, 2]))
    assert list(data) == list(data) == [1, 2]


@each("item", [[1, "x"], [[1], ["x"]], [1.5], [True], [10**30], [[]], []])
def test_what_is_no_token_id_is_said(item):
    with pytest.raises(BadRecipe):
        as_tokens(item)


class Config:
    def __init__(self, **values):
        self.__dict__.update(values)


@each(
    ("config", "most"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"n_positions": 64}, 64),
        ({"n_ctx": 64}, 64),
        ({"max_seq_len": 64}, 64),
        ({"max_target_positions": 64, "max_position_embeddings": 128}, 64),
        ({"seq_length": 64}, 64),
        ({"text_config": Config(max_position_embeddings=64)}, 64),
        (
            {
                "max_position_embeddings": 64,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            },
            256,
        ),
        ({"hidden_size": 64}, None),
    ],
)
def test_positions_have_several_names(config, most):
    model = type("Model", (), {"config": Config(**config)})()
    assert positions(model) == most
    items = [torch.ones(1, 300, dtype=torch.long), {"input_ids": torch.ones(1, 300, dtype=torch.long)}]
    if most is None:
        assert cut_to_positions(model, items) == items
        return
    with pytest.warns(GearshiftWarning, match=f"300 tokens and Model has {most} positions"):
        tensor, named = cut_to_positions(model, items)
    assert tensor.shape == named["input_ids"].shape == (1, most)


@pytest.mark.filterwarnings("ignore::gearshift.core.errors.GearshiftWarning")
@each("recipe", ["gptq(weight_bits=4)", "awq", "torch_static", "hqq"])
@each("data", [[ROW * 60] * 2, ROW * 60, [{"input_ids": ROW * 60, "attention_mask": [1] * 180}], [np.array(ROW * 60)]])
def test_calibration_reads_all_of_them_also_beyond_the_last_position(recipe, data):
    model = build("gpt2").pipe if "gpt2" in language.BUILDERS else None
    assert positions(model) < 180
    gs.optimize(model, recipe, data=data)
    assert gs.status(model).applied


def test_a_runtime_says_by_what_it_is_called_instead():
    from gearshift import CausalGenerator

    runtime = CausalGenerator.__new__(CausalGenerator)
    with pytest.raises(AttributeError, match="call `generate` of it") as caught:
        runtime.can_generate()
    assert isinstance(caught.value, GearshiftError) and not hasattr(runtime, "no_such_thing")
