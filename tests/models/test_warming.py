"""warm_up: each size once in advance, counted, and nothing left for the calls that follow."""

import pytest
import torch
from support.each import each
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import BadValue
from gearshift.models.warming import Warmed


def test_graphs_of_each_size_are_there_afterwards():
    tiny = build("flux")
    gs.optimize(tiny.pipe, "stable_fast")
    edge = 8 * tiny.pipe.vae_scale_factor
    with pytest.raises(BadValue, match="`data`"):
        gs.warm_up(tiny.pipe, resolutions=[(edge, edge)])
    data = [{**tiny.parts.call(1), "num_inference_steps": 2}]
    state = torch.get_rng_state()
    sizes = [(edge, edge), (edge, 2 * edge)]
    warmed = gs.warm_up(tiny.pipe, resolutions=sizes, batch_sizes=[1, 2], data=data)
    assert [w.graphs for w in warmed] == [1, 1, 1, 1]
    assert warmed[3].size == f"{edge} x {2 * edge}, batch 2"
    assert torch.equal(torch.get_rng_state(), state)
    figures = gs.status(tiny.pipe).applied[0]["figures"]
    assert (figures["graphs"], figures["recompiles"]) == (4, 3)
    gs.warm_up(tiny.pipe, resolutions=sizes[:1], batch_sizes=[2], data=data)
    assert gs.status(tiny.pipe).applied[0]["figures"]["graphs"] == 4
    assert "recompiles: 3" in str(gs.status(tiny.pipe))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_language_models_are_warmed_at_lengths(name):
    tiny = build(name)
    seen = []
    tiny.pipe.register_forward_pre_hook(lambda m, a, k: seen.append(tuple(k["input_ids"].shape)), with_kwargs=True)
    warmed = gs.warm_up(tiny.pipe, lengths=[4, 6], batch_sizes=[1, 3])
    assert [w.size for w in warmed] == [f"{n} tokens, batch {b}" for n in (4, 6) for b in (1, 3)]
    assert {s for s in seen if s[1] > 1} == {(1, 4), (3, 4), (1, 6), (3, 6)}


@each(
    ("name", "wrong", "words"),
    [
        ("dit", {"resolutions": [(8, 8)], "data": [{"class_labels": [0]}]}, "takes no height and width"),
        (
            "dit",
            {"batch_sizes": [0], "data": [{"class_labels": [0]}]},
            "batch_sizes has to list whole numbers of 1 or more",
        ),
        ("dit", {"steps": 0, "data": [{"class_labels": [0]}]}, "steps has to list whole numbers"),
        ("dit", {"batch_sizes": 3}, "batch_sizes has to list whole numbers of 1 or more. Got 3"),
        ("flux", {"resolutions": [32], "data": [{"prompt": ""}]}, r"\(height, width\) pairs. Got 32"),
        ("flux", {"resolutions": (32, 0), "data": [{"prompt": ""}]}, r"\(height, width\) pairs"),
        ("dit", {"lengths": [4]}, "`lengths` is for language models"),
        ("llama", {"steps": 4}, "has no resolution or steps"),
        ("whisper", {}, "no call is known"),
    ],
)
def test_sizes_that_a_model_does_not_have_are_told(name, wrong, words):
    with pytest.raises(BadValue, match=words):
        gs.warm_up(build(name).pipe, **wrong)


def test_a_size_prints_as_a_line():
    assert str(Warmed("batch 1", 61.24, 0.123, 2)) == "batch 1: 61.2 s, then 0.12 s; graphs made: 2"
