"""HIGGS: how exact, how small, which layers are left; the layer as a module."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from support.each import each
from support.timed import as_if
from support.tiny import build
from torch import nn
from torch.nn import functional as F

import gearshift as gs
from gearshift import zoo
from gearshift.core.errors import GearshiftWarning
from gearshift.core.recipe import Recipe
from gearshift.core.target import put
from gearshift.kernels import dispatch
from gearshift.layers.higgs import HiggsLinear, group_size
from gearshift.measure import in_place
from gearshift.models.describe import chosen
from gearshift.quant.formats.grouped import dequantize, nbytes, quantize

SETTINGS = [(bits, p) for bits in (2, 3, 4) for p in (1, 2)]
each_setting = pytest.mark.parametrize(("bits", "p"), SETTINGS)


@pytest.fixture(autouse=True)
def a_fourth_of_the_speed(monkeypatch):
    """What the layers' speed is found to be, whatever machine the tests run on."""
    monkeypatch.setattr(in_place, "timed_in_place", as_if(0.25))


def sqnr(exact, rounded):
    exact = exact.detach()
    return float(10 * torch.log10(exact.square().sum() / (exact - rounded).square().sum()))


def layer_bytes(layer):
    return sum(b.numel() * b.element_size() for n, b in layer.named_buffers() if n != "table")


@pytest.fixture(scope="module", params=["text-to-image", "dit", "flux"])
def trained(request):
    """Every fourth linear weight of a trained denoiser."""
    pipe = zoo.load(request.param)
    found = list(chosen(pipe, (nn.Linear,), Recipe()))[::4]
    return [root.get_submodule(path) for _, root, path in found]


@pytest.mark.parametrize("group", [64, 256])
def test_four_bits_in_pairs_beat_plain_ones_of_no_smaller_size(trained, group):
    ours, plain, size, plain_size = [], [], 0, 0
    for layer in trained:
        weight = layer.weight.detach()
        higgs = HiggsLinear.from_float(layer, 4, 2, group)
        rounded = quantize(weight, 4, 2 * higgs.group)  # a zero beside each scale: half as many groups, the same size
        size, plain_size = size + layer_bytes(higgs), plain_size + nbytes(rounded)
        ours.append(sqnr(weight, higgs.weight))
        plain.append(sqnr(weight, dequantize(rounded)))
    assert size < 1.001 * plain_size
    assert all(a > b for a, b in zip(ours, plain, strict=True))
    assert sum(ours) / len(ours) > sum(plain) / len(plain) + 0.6
    assert min(ours) > 21.4


def test_pairs_beat_plain_ones_of_the_same_group_and_more_bits(trained):
    ours, plain = [], []
    for layer in trained:
        weight = layer.weight.detach()
        higgs = HiggsLinear.from_float(layer, 4, 2, 64)
        rounded = quantize(weight, 4, higgs.group)
        assert layer_bytes(higgs) < 0.96 * nbytes(rounded)
        ours.append(sqnr(weight, higgs.weight))
        plain.append(sqnr(weight, dequantize(rounded)))
    assert sum(ours) / len(ours) > sum(plain) / len(plain) + 0.3


def test_outliers_do_not_matter():
    linear = nn.Linear(1024, 32, bias=False)
    with torch.no_grad():
        linear.weight[:, 5] *= 60
    assert sqnr(linear.weight, HiggsLinear.from_float(linear).weight) > 21.0
    few = torch.arange(1024) != 5  # the ones beside the outlier, that plain rounding loses
    weight, plain = linear.weight.detach(), dequantize(quantize(linear.weight, 4, 512))
    assert sqnr(weight[:, few], plain[:, few]) < 12.0


@each_setting
def test_what_each_width_reaches(bits, p):
    layer = HiggsLinear.from_float(nn.Linear(512, 64), bits, p)
    floor = {(2, 1): 9.3, (2, 2): 9.7, (3, 1): 14.7, (3, 2): 15.3, (4, 1): 20.5, (4, 2): 21.2}
    assert sqnr(nn.Linear(512, 64).weight, layer.weight) < 0  # another layer's
    weight = torch.randn(1024, 512)  # few rows would differ by a tenth of a dB from draw to draw
    linear = nn.Linear(512, 1024)
    linear.weight.data = weight
    assert sqnr(weight, HiggsLinear.from_float(linear, bits, p).weight) > floor[bits, p]
    assert layer_bytes(layer) == 64 * 512 * bits // 8 + 64 * 2 * 2 + 64


@each_setting
@each("width", [8, 24, 192, 512])
@each("lead", [(), (5,), (2, 3), (7, 9), (0,)])
def test_answers_are_those_of_the_float_weight(bits, p, width, lead):
    torch.manual_seed(0)
    layer = HiggsLinear.from_float(nn.Linear(width, 16), bits, p, 64)
    x = torch.randn(*lead, width)
    with torch.no_grad():
        assert torch.allclose(layer(x), F.linear(x, layer.weight * 1, layer.bias), atol=1e-4)


def test_pieces_of_a_large_weight_make_no_difference(monkeypatch):
    layer, x = HiggsLinear.from_float(nn.Linear(64, 40)), torch.randn(30, 64)
    want = layer(x)
    monkeypatch.setattr(dispatch, "TILE", 64 * 12)
    assert torch.allclose(layer(x), want, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types(dtype):
    linear, x = nn.Linear(128, 24), torch.randn(4, 128)
    layer = HiggsLinear.from_float(linear)
    want = layer(x)
    moved = copy.deepcopy(layer).to(dtype)
    assert moved.weight.dtype == moved(x.to(dtype)).dtype == dtype
    assert moved.scale.dtype == torch.float16 and moved.table.dtype == torch.float32
    assert torch.allclose(moved(x.to(dtype)).float(), want, atol=0.05)
    assert torch.equal(moved.to(torch.float32).scale, layer.scale)


@pytest.mark.parametrize(
    ("width", "most", "group"), [(4096, 256, 256), (192, 256, 192), (192, 64, 64), (320, 256, 160)]
)
def test_groups_divide_the_inputs(width, most, group):
    assert group_size(width, most) == group


def test_widths_that_no_block_divides_have_no_layer():
    assert HiggsLinear.from_float(nn.Linear(100, 8)) is None


def test_the_seed_decides_the_signs():
    linear = nn.Linear(64, 8)
    one, same, other = (HiggsLinear.from_float(linear, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.codes, same.codes) and torch.equal(one.signs, same.signs)
    assert not torch.equal(one.signs, other.signs)


@pytest.mark.parametrize("rows", [3, 40])
def test_gradients_are_those_of_the_float_weight(rows):
    layer = HiggsLinear.from_float(nn.Linear(64, 16))
    layer.bias.requires_grad_()
    mine, theirs = (torch.ones(rows, 64).requires_grad_() for _ in range(2))
    ahead = torch.randn(rows, 16)
    layer(mine).backward(ahead)
    F.linear(theirs, layer.weight * 1).backward(ahead)
    assert torch.allclose(mine.grad, theirs.grad, atol=1e-5)
    assert torch.allclose(layer.bias.grad, ahead.sum(0), atol=1e-5)


@each_setting
def test_copies_pickles_and_states_are_bit_equal(bits, p):
    layer, x = HiggsLinear.from_float(nn.Linear(64, 16), bits, p), torch.randn(3, 64)
    want = layer(x)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), want)
    assert torch.equal(copy.deepcopy(layer)(x), want)
    assert set(layer.state_dict()) == {"codes", "scale", "signs", "bias", "weight"}
    fresh = HiggsLinear(64, 16, True, "meta", bits=bits, p=p, block=64, group=64)
    fresh.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(fresh(x), want)


def test_adapters_of_peft_train_on_it():
    peft = pytest.importorskip("peft")
    layer = HiggsLinear.from_float(nn.Linear(64, 16))
    net = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["0"]), nn.Sequential(layer))
    net(torch.randn(3, 64)).square().mean().backward()
    assert any(p.grad is not None for p in net.parameters() if p.requires_grad)


@pytest.mark.compiled
@pytest.mark.parametrize(("bits", "rows"), [(3, 3), (2, 40)])
def test_compiles_whole(bits, rows):
    layers = HiggsLinear.from_float(nn.Linear(128, 16), bits), nn.SiLU(), HiggsLinear.from_float(nn.Linear(16, 8), bits)
    net, x = nn.Sequential(*layers), torch.randn(rows, 128)
    with torch.no_grad():
        assert torch.allclose(torch.compile(net, fullgraph=True)(x), net(x), atol=1e-4)


@pytest.mark.parametrize("quantizer", ["higgs", "higgs(weight_bits=2, p=1)", "higgs(weight_bits=3, group_size=64)"])
def test_a_language_model(quantizer):
    tiny = build("llama")
    plain = tiny.run()
    with pytest.warns(GearshiftWarning, match=r"at 0\.25 times the speed of float"):
        gs.optimize(tiny.pipe, quantizer, batch_size=3)
    (applied,) = gs.status(tiny.pipe).applied
    layers = [m for m in tiny.pipe.modules() if isinstance(m, HiggsLinear)]
    assert len(layers) == applied["figures"]["layers"] > 0
    assert {layer.rows for layer in layers} == {3}
    assert applied["figures"]["size_after"] < applied["figures"]["size_before"]
    assert any("FLUTE" in note and "CUDA" in note for note in applied["notes"])
    assert not torch.equal(tiny.run(), plain) and tiny.run().isfinite().all()
    assert not isinstance(tiny.pipe.get_output_embeddings(), HiggsLinear)


def test_gpt2_whose_layers_are_not_nn_linear(tmp_path):
    tiny = build("gpt2")
    names = {n for n, m in tiny.pipe.named_modules() if type(m).__name__ == "Conv1D"}
    before = {n: tiny.pipe.get_submodule(n).weight.clone() for n in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)
        gs.optimize(tiny.pipe, "higgs")
    for name in names:
        layer = tiny.pipe.get_submodule(name)
        assert type(layer.linear) is HiggsLinear and layer.weight.shape == before[name].shape
        assert sqnr(before[name], layer.weight) > 20
    gs.save(tiny.pipe, tmp_path / "m")
    assert torch.equal(tiny.run(pipe=gs.load(tmp_path / "m")), tiny.run())


def test_zeros_of_a_pruner_are_told_about():
    tiny = build("llama")
    with pytest.warns(GearshiftWarning):
        gs.optimize(tiny.pipe, "torch_unstructured(sparsity=0.5), higgs")
    notes = gs.status(tiny.pipe).applied[1]["notes"]
    assert any("Zeros of pruned weights" in note for note in notes)


def left_in_float(applied):
    return {n for n, why in applied["figures"]["left"].items() if "among the" in why}


@pytest.mark.parametrize("percent", [0, 5, 20])
def test_the_layers_that_change_the_answers_most_are_left(percent):
    tiny = build("dit")
    call = {**tiny.parts.call(1), "num_inference_steps": 12}
    with pytest.warns(GearshiftWarning):
        gs.optimize(tiny.pipe, diffusers_higgs={"skip_layers": percent, "weight_bits": 2}, data=[call], batch_size=2)
    (applied,) = gs.status(tiny.pipe).applied
    left = left_in_float(applied)
    layers = {n: m for n, m in tiny.pipe.transformer.named_modules() if isinstance(m, HiggsLinear)}
    every = len(layers) + len(left)
    assert len(left) == round(every * percent / 100)
    assert {m.rows for m in layers.values()} == {2 * 2 * 16}  # two halves of guidance, 16 tokens, batch of two
    if percent:
        harm = applied["figures"]["harm"]
        assert len(harm) == every
        assert min(harm[n] for n in left) >= max(h for n, h in harm.items() if n not in left)
        assert all("answers change most" in applied["figures"]["left"][n] for n in left)


def test_harm_is_the_error_of_the_denoisers_answer():
    tiny = build("dit")
    call = {**tiny.parts.call(1), "num_inference_steps": 1}
    net, seen = tiny.pipe.transformer, []
    path = "transformer_blocks.1.ff.net.2"
    handle = net.register_forward_pre_hook(lambda m, a, k: seen.append((a, k)), with_kwargs=True)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        tiny.pipe(**call)
        handle.remove()
        ((args, keywords),) = seen
        exact, layer = net(*args, **keywords)[0], net.get_submodule(path)
        put(net, path, HiggsLinear.from_float(layer, seed=7))
        off = net(*args, **keywords)[0]
        put(net, path, layer)
    with pytest.warns(GearshiftWarning):
        gs.optimize(tiny.pipe, "diffusers_higgs", data=[call], seed=7)
    harm = gs.status(tiny.pipe).applied[0]["figures"]["harm"]
    want = (off - exact).square().sum() / exact.square().sum()
    assert harm[f"transformer.{path}"] == pytest.approx(float(want), rel=1e-3)


def test_without_an_example_call_the_weights_decide_and_a_note_says_so():
    tiny = build("dit")
    gs.optimize(tiny.pipe, "diffusers_higgs")
    (applied,) = gs.status(tiny.pipe).applied
    assert any("no example call is known" in note for note in applied["notes"])
    assert left_in_float(applied)
    assert all("weight changes most" in applied["figures"]["left"][n] for n in left_in_float(applied))


def test_measuring_that_would_take_too_long_is_not_begun(monkeypatch):
    from gearshift.algorithms.common import layer_sensitivity

    monkeypatch.setattr(layer_sensitivity, "MOST_SECONDS", 0.0)
    tiny = build("dit")
    with pytest.warns(GearshiftWarning):
        gs.optimize(tiny.pipe, "diffusers_higgs", data=[tiny.parts.call(1)])
    assert any("would have taken" in note for note in gs.status(tiny.pipe).applied[0]["notes"])
