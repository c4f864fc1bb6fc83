"""Smaller dense models: units that do nothing can go without a trace, and every library loads what is left."""

import pytest
import torch
from support.tiny import build
from torch import nn

import gearshift as gs
from gearshift.algorithms.pruners.torch_structured import CRITERIA
from gearshift.core.errors import CannotLift
from gearshift.models import structure

KINDS = {
    "neurons": {},
    "heads": {"sparsity": 0.0, "head_sparsity": 0.5, "prune_num_heads": True},
    "head dimensions": {"prune_head_dims": True},
}


def groups(root, kind):
    if kind == "neurons":
        return list(structure.feed_forward(root))
    return list(
        structure.channels(root) if kind == "channels" else structure.attention(root, kind == "head dimensions")
    )


def silence(root, group, units):
    """Make some units do nothing: what they give is multiplied by nought."""
    with torch.no_grad():
        for side in group.inputs:
            weight = root.get_submodule(side.path).weight
            columns = torch.cat([m[units].flatten() for m in side.maps])
            weight.index_fill_(0 if structure.turned(root.get_submodule(side.path)) else 1, columns, 0.0)
        for side in group.outputs:
            layer = root.get_submodule(side.path)
            if isinstance(layer, nn.GroupNorm):
                continue
            rows = torch.cat([m[units].flatten() for m in side.maps])
            layer.weight.index_fill_(1 if structure.turned(layer) else 0, rows, 0.0)


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


@pytest.mark.parametrize(("model", "kind"), CASES)
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


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("globally", [False, True])
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
    with pytest.raises(CannotLift, match="keep_original"):
        gs.restore(tiny.pipe)
