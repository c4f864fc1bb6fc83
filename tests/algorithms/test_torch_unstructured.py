"""Zeros: how many, which ones, and that the model is otherwise a plain one."""

import pytest
import torch
from support.each import each
from support.tiny import build
from torch import nn

import gearshift as gs
from gearshift.core.errors import CannotRestore


def linears(model):
    return {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.Linear) and "head" not in n}


@each("sparsity", [0.0, 0.3, 1.0])
@each("method", ["l1", "random"])
def test_exactly_the_share_of_each_layer_goes(method, sparsity):
    tiny = build("llama")
    before = {n: w.clone() for n, w in linears(tiny.pipe).items()}
    gs.optimize(tiny.pipe, torch_unstructured={"pruning_method": method, "sparsity": sparsity})
    for name, weight in linears(tiny.pipe).items():
        assert int((weight == 0).sum()) == round(sparsity * weight.numel())
        assert torch.equal(weight[weight != 0], before[name][weight != 0])
        if method == "l1" and 0 < sparsity < 1:
            assert before[name][weight == 0].abs().max() <= before[name][weight != 0].abs().min()


def test_the_seed_decides_which_random_ones_go():
    def zeros(seed):
        tiny = build("llama")
        gs.optimize(tiny.pipe, "torch_unstructured(pruning_method=random, sparsity=0.5)", seed=seed)
        return tiny.run()

    assert torch.equal(zeros(1), zeros(1)) and not torch.equal(zeros(1), zeros(2))


def test_a_saved_folder_loads_without_gearshift(tmp_path):
    tiny = build("llama")
    gs.optimize(tiny.pipe, "torch_unstructured(sparsity=0.5)")
    gs.save(tiny.pipe, tmp_path / "m")
    plain = type(tiny.pipe).from_pretrained(tmp_path / "m").eval()
    assert torch.equal(tiny.run(pipe=plain), tiny.run())


def test_the_original_comes_back_if_it_was_kept():
    tiny = build("sd")
    plain = tiny.run()
    gs.optimize(tiny.pipe, "torch_unstructured(sparsity=0.5)", keep_original=True)
    assert not torch.equal(tiny.run(), plain)
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(), plain)
    gs.optimize(tiny.pipe, "torch_unstructured(sparsity=0.5)")
    with pytest.raises(CannotRestore, match="keep_original"):
        gs.restore(tiny.pipe)
