"""Channels of models with plain convolutions: what is found by tracing can go, and what cannot go stays."""

import subprocess
import sys

import pytest
import torch
from support.each import each
from torch import nn

import gearshift as gs
from gearshift.algorithms.pruners.torch_structured import CRITERIA
from gearshift.core.errors import BadRecipe
from gearshift.models import channel_tracing, prunable_groups

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def resnet(kind="basic"):
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 1], layer_type=kind, num_labels=5, hidden_act="relu"
    )
    return lively(ResNetForImageClassification(config))


def sequence():
    return lively(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.PReLU(8),
            nn.MaxPool2d(4),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.PReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(12 * 16, 10),
            nn.ReLU(),
            nn.Linear(10, 5),
        )
    )


def lively(model):
    """Norms as training leaves them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


@torch.no_grad()
def answer(model):
    output = model(IMAGES)
    return getattr(output, "logits", output)


def size(model):
    return sum(p.numel() for p in model.parameters())


def silence(model, groups):
    """Make every second channel give exactly nought, and its readers small."""
    with torch.no_grad():
        for group in groups:
            for side in group.outputs:
                layer = model.get_submodule(side.path)
                for tensor in (layer.weight, getattr(layer, "bias", None)):
                    if tensor is not None:
                        tensor[side.maps[0][::2].flatten()] = 0
            for side in group.inputs:
                model.get_submodule(side.path).weight[:, side.maps[0][::2].flatten()] *= 1e-3


MODELS = {"basic": resnet, "bottleneck": lambda: resnet("bottleneck"), "sequence": sequence}
GROUPS = {"basic": 5, "bottleneck": 8, "sequence": 3}


@pytest.mark.parametrize("name", MODELS)
def test_channels_that_give_nought_go_without_a_trace(name):
    model = MODELS[name]()
    groups = channel_tracing.traced_channels(model, [IMAGES])
    assert len(groups) == GROUPS[name]
    silence(model, groups)
    silent, before = answer(model), size(model)
    gs.optimize(model, "torch_structured(sparsity=0.5)", data=[IMAGES])
    assert size(model) < 0.5 * before
    torch.testing.assert_close(answer(model), silent, rtol=1e-4, atol=1e-5)


@each(("name", "globally"), [("basic", True), ("sequence", False)])
@each("criterion", CRITERIA)
def test_every_criterion_takes_the_share(name, criterion, globally):
    model = MODELS[name]()
    shape = answer(model).shape
    whole = sum(g.units for g in channel_tracing.traced_channels(model, [IMAGES]))
    settings = {"type": criterion, "sparsity": 0.5, "global_pruning": globally, "it_steps": 2}
    gs.optimize(model, torch_structured=settings, data=[IMAGES, IMAGES])
    left = gs.status(model).applied[0]["figures"]["channels left"]
    assert answer(model).shape == shape and answer(model).isfinite().all()
    assert left.endswith(f"of {whole}") and abs(int(left.split()[0]) - whole / 2) <= 0.1 * whole


def test_layers_say_their_new_sizes():
    model = sequence()
    gs.optimize(model, "torch_structured(sparsity=0.5)", data=[IMAGES])
    assert (model[0].out_channels, model[1].num_features, model[4].in_channels, model[4].out_channels) == (4, 4, 4, 6)
    assert model[2].num_parameters == 4
    assert len(model[5].running_mean) == len(model[5].running_var) == model[5].num_features == 6
    assert (model[9].in_features, model[9].out_features, model[11].in_features) == (6 * 16, 5, 5)


def test_gradients_leave_the_norms_as_they_were():
    model = sequence().train()
    before = model[1].running_mean.clone()
    gs.optimize(model, "torch_structured(type=TaylorImportance, sparsity=0.5)", data=[IMAGES], exclude=["0", "4"])
    assert model.training and torch.equal(model[1].running_mean, before) and model[9].out_features == 5


def test_the_original_comes_back_if_it_was_kept():
    model = resnet()
    plain = answer(model)
    gs.optimize(model, "torch_structured(sparsity=0.5)", keep_original=True)
    pruned = answer(model)
    with gs.disabled(model):
        assert torch.equal(answer(model), plain)
    assert torch.equal(answer(model), pruned)
    assert torch.equal(answer(gs.restore(model)), plain)


def test_a_saved_model_gives_equal_bits_in_a_fresh_process(tmp_path):
    model = resnet("bottleneck")
    gs.optimize(model, "torch_structured(sparsity=0.5, global_pruning=True, it_steps=2)")
    gs.save(model, tmp_path / "m")
    torch.save(IMAGES, tmp_path / "x.pt")
    code = (
        "import sys, torch, gearshift as gs; torch.set_num_threads(1)\n"
        "model, x = gs.load(sys.argv[1] + '/m'), torch.load(sys.argv[1] + '/x.pt')\n"
        "assert 'torch_pruning' not in sys.modules\n"
        "with torch.no_grad(): torch.save(model(x).logits, sys.argv[1] + '/y.pt')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert torch.equal(torch.load(tmp_path / "y.pt"), answer(model))


def test_globs_leave_layers_whole():
    model = sequence()
    gs.optimize(model, "torch_structured(sparsity=0.5)", data=[IMAGES], exclude=["1", "9"])
    assert (model[0].out_channels, model[4].out_channels, model[9].out_features) == (8, 6, 10)


class Shuffled(nn.Module):
    """A first part that can shrink; the rest mixes channels in ways that cannot."""

    def __init__(self, middle):
        super().__init__()
        self.first, self.second, self.middle = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), middle
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.last(self.middle(self.second(self.first(x).relu())))


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 10, 1)
        self.norm, self.last = nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        return self.last(self.norm(torch.cat([self.one(x), self.two(x)], 1)))


@each(
    "middle",
    [
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.ConvTranspose2d(8, 8, 2),
        nn.GroupNorm(2, 8),
        nn.ChannelShuffle(2),
        nn.Softmax(1),
        nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Flatten(1, 2)),
    ],
)
def test_what_cannot_go_stays(middle):
    model = Shuffled(middle).eval()
    paths = {group.path for group in channel_tracing.traced_channels(model, [IMAGES])}
    assert paths in ({"first"}, {"first", "second"}) and ("second" not in paths or isinstance(middle, nn.Sequential))
    gs.optimize(model, "torch_structured(sparsity=0.5)", data=[IMAGES])
    assert answer(model).shape[1] == 4 and model.first.out_channels == 4


def test_joined_channels_go_from_both():
    model = lively(Reads())
    groups = channel_tracing.traced_channels(model, [IMAGES])
    silence(model, groups)
    silent = answer(model)
    gs.optimize(model, "torch_structured(sparsity=0.5)", data=[IMAGES])
    assert (model.one.out_channels, model.two.out_channels, model.norm.num_features) == (3, 5, 8)
    torch.testing.assert_close(answer(model), silent, rtol=1e-4, atol=1e-5)


def test_finding_changes_nothing():
    model = sequence().train()
    before, state = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    for group in channel_tracing.traced_channels(model, [IMAGES]):
        assert prunable_groups.shape(model.get_submodule(group.path))[0] == group.units
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert model.training and torch.equal(torch.get_rng_state(), state)


def test_what_is_lacking_is_said_in_a_sentence(monkeypatch):
    with pytest.raises(BadRecipe, match="found by tracing a call, which needs `data`"):
        gs.optimize(sequence(), "torch_structured")
    with pytest.raises(BadRecipe, match=r"Sequential could not be traced to find its channels: .*expected input"):
        gs.optimize(sequence(), "torch_structured", data=[IMAGES[:, :2]])
    with pytest.raises(BadRecipe, match="TaylorImportance reads gradients and needs `data`"):
        gs.optimize(resnet(), "torch_structured(type=TaylorImportance)")
    with pytest.raises(BadRecipe, match="finds no neurons or channels"):
        gs.optimize(nn.Conv2d(3, 4, 1), "torch_structured", data=[IMAGES])
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(BadRecipe, match=r"torch_pruning, which is not installed.*gearshift\[pruning\]"):
        gs.optimize(sequence(), "torch_structured", data=[IMAGES])
