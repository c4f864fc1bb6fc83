"""The layers as drop-in modules: saving, copying, dtypes, shapes, gradients, readers of `weight`, compilation."""

from __future__ import annotations

import copy
import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.each import each
from torch import nn

from gearshift.algorithms.quantizers import sqnr
from gearshift.core.errors import GearshiftWarning
from gearshift.kernels.cpu import onednn
from gearshift.layers.int8 import Int8Conv2d, Int8Layer, Int8Linear, int8_class, supports

both_signs = pytest.mark.parametrize("unsigned", [False, True], ids=["qint8", "quint8"])
both_kinds = pytest.mark.parametrize("kind", ["linear", "conv"])


def layer_and_input(kind: str, unsigned: bool = False) -> tuple[Int8Layer, torch.Tensor]:
    if kind == "linear":
        return Int8Linear.from_float(nn.Linear(64, 32), unsigned), torch.randn(3, 5, 64)
    return Int8Conv2d.from_float(nn.Conv2d(8, 16, 3, 2, 1), unsigned), torch.randn(2, 8, 9, 9)


def skeleton(kind: str, unsigned: bool) -> Int8Layer:
    return Int8Linear(64, 32, unsigned=unsigned) if kind == "linear" else Int8Conv2d(8, 16, 3, 2, 1, unsigned=unsigned)


@both_kinds
@both_signs
def test_state_goes_through_safetensors_bit_equal(kind: str, unsigned: bool, tmp_path: Path) -> None:
    layer, x = layer_and_input(kind, unsigned)
    want = layer(x)
    assert set(layer.state_dict()) == {"qweight", "scale", "bias", "weight"} | ({"zero_point"} if unsigned else set())
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    fresh = skeleton(kind, unsigned)
    fresh(x)  # packs the empty weight, which loading has to throw away
    fresh.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    assert torch.equal(fresh(x), want)
    with torch.inference_mode():
        fresh = skeleton(kind, unsigned)
        fresh(x)
        fresh.load_state_dict(layer.state_dict())
        assert torch.equal(fresh(x), want)


@both_kinds
@both_signs
def test_copies_and_pickles_are_bit_equal_and_apart(kind: str, unsigned: bool) -> None:
    layer, x = layer_and_input(kind, unsigned)
    want = layer(x)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    pickled, copied = torch.load(buffer, weights_only=False), copy.deepcopy(layer)
    assert torch.equal(pickled(x), want)
    assert torch.equal(copied(x), want)
    copied.qweight.zero_()
    assert not torch.equal(copied(x), want)
    assert torch.equal(layer(x), want)


@both_kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_answers_in_the_dtype_it_was_asked_in(kind: str, dtype: torch.dtype) -> None:
    layer, x = layer_and_input(kind)
    y = layer(x.to(dtype))
    assert y.dtype == dtype
    assert torch.allclose(y.float(), layer(x), atol=0.15)
    assert layer.to(dtype).weight.dtype == dtype
    assert layer.scale.dtype == torch.float32


@both_signs
@each("lead", [(), (4,), (2, 3), (0,), (2, 0), (2, 1, 3)])
def test_any_leading_dimensions(lead: tuple[int, ...], unsigned: bool) -> None:
    float_layer = nn.Linear(64, 32)
    layer, x = Int8Linear.from_float(float_layer, unsigned), torch.randn(*lead, 64)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            assert layer(x).shape == float_layer(x).shape
            assert torch.allclose(layer(x), float_layer(x), atol=0.1)


@both_kinds
def test_not_contiguous_input(kind: str) -> None:
    layer, x = layer_and_input(kind)
    assert torch.equal(layer(x.transpose(0, -1).contiguous().transpose(0, -1)), layer(x))


def test_convolutions_answer_in_the_layout_of_the_input_and_take_one_image() -> None:
    layer, x = layer_and_input("conv")
    assert layer(x.to(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer(x[:1])[0], layer(x[0]))
    assert layer(x[:0]).shape == (0, 16, 5, 5)


@both_kinds
@both_signs
def test_gradients_are_those_of_the_dequantized_layer(kind: str, unsigned: bool) -> None:
    layer, x = layer_and_input(kind, unsigned)
    assert layer.bias is not None
    layer.bias.requires_grad_()
    real = nn.Linear(64, 32) if kind == "linear" else nn.Conv2d(8, 16, 3, 2, 1)
    real.load_state_dict({"weight": layer.weight * 1, "bias": layer.bias})
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = layer(mine)
    ahead = torch.randn_like(y)
    y.backward(ahead)
    real(theirs).backward(ahead)
    assert torch.allclose(mine.grad, theirs.grad, atol=1e-5)
    assert torch.allclose(layer.bias.grad, real.bias.grad, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(layer(x), y)


@both_kinds
def test_weight_reads_as_float_and_takes_what_is_written(kind: str) -> None:
    layer, _ = layer_and_input(kind)
    assert layer.weight.dtype == torch.float32
    assert layer.weight.shape == layer.qweight.shape
    other = torch.randn(layer.weight.shape)
    for write in (lambda w: w.mul_(0.5), lambda w: w.data.mul_(3), lambda w: w.copy_(other)):
        want = write(layer.weight.clone())
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", GearshiftWarning)
            write(layer.weight)
        assert sqnr(want, layer.weight) > 30


def test_threads_share_a_layer() -> None:
    layer, x = layer_and_input("linear")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: layer(x).detach(), range(16)))
    assert all(torch.equal(result, results[0]) for result in results)


def test_packs_once_and_again_after_a_write(monkeypatch: pytest.MonkeyPatch) -> None:
    if not onednn.available():
        pytest.skip("this machine has no oneDNN int8 kernels")
    made: list[onednn.Packed] = []
    pack = onednn._pack

    def counted(values: torch.Tensor) -> onednn.Packed:
        made.append(pack(values))
        return made[-1]

    monkeypatch.setattr(onednn, "_pack", counted)
    layer, x = layer_and_input("linear")
    layer(x), layer(x)
    assert len(made) == 1
    layer.load_state_dict(layer.state_dict())
    layer(x)
    assert len(made) == 2


def test_adapters_of_peft_train_on_it() -> None:
    peft = pytest.importorskip("peft")
    layer, x = layer_and_input("linear")
    net = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["0"]), nn.Sequential(layer))
    net(x).square().mean().backward()
    assert any(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_what_has_no_int8_layer() -> None:
    for conv in (nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 3, dilation=2), nn.Conv2d(8, 8, 3, padding="same")):
        assert not supports(conv)
        with pytest.raises(ValueError, match="cannot stand for"):
            Int8Conv2d.from_float(conv)
    assert supports(nn.Conv2d(8, 8, 3, 2, 1))
    assert int8_class(Int8Linear(8, 8)) is None


@pytest.mark.compiled
def test_compiles_whole_without_packing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(Int8Linear.from_float(nn.Linear(16, 8)), nn.SiLU(), Int8Linear.from_float(nn.Linear(8, 4)))
    x = torch.randn(3, 16)
    want = net(x)
    compiled = torch.compile(net, fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(x), want, atol=1e-5)
        monkeypatch.setattr(onednn, "_pack", lambda values: pytest.fail("packed again"))
        assert torch.allclose(compiled(x), want, atol=1e-5)


@both_kinds
def test_exports_as_one_operator(kind: str) -> None:
    layer, x = layer_and_input(kind)
    program = torch.export.export(nn.Sequential(layer), (x,))
    assert any("gearshift.int8" in str(node.target) for node in program.graph.nodes)
    assert torch.equal(program.module()(x), layer(x))
