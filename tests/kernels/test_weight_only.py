"""8-bit and 4-bit weights for decoding: how exact, the kernels against plain torch, the layers as drop-in modules."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.each import each
from torch import nn
from torch.nn import functional as F

from gearshift.kernels.cpu import weight_only
from gearshift.kernels.cpu.native import native
from gearshift.kernels.cpu.weight_only import matmul4, matmul8, reference, unpack
from gearshift.layers.linear_view import as_linear, in_place_of
from gearshift.layers.weight_only import Int8WeightLinear, empty, from_float
from gearshift.quant.formats import grouped
from gearshift.quant.formats.int8 import quantize_weight
from gearshift.quant.rounding.least_squares import pack4

both_bits = pytest.mark.parametrize("bits", [8, 4])
each_group = pytest.mark.parametrize("group", [32, 64, 128])


@pytest.fixture
def kernels():
    if weight_only.kernels() is None:
        pytest.skip(str(weight_only.problem()))


@pytest.fixture
def no_kernels(monkeypatch):
    monkeypatch.setattr(weight_only, "kernels", lambda: None)


def sqnr(exact, rounded):
    return float(10 * (exact.square().sum() / (exact - rounded).square().sum()).log10())


def error(y, exact):
    return float((y - exact).norm() / exact.norm())


def packed(bits, out=48, inputs=256, group=64):
    weight = torch.randn(out, inputs)
    return quantize_weight(weight) if bits == 8 else pack4(weight, group)


def multiply(x, weight, bias=None):
    return (matmul4 if isinstance(weight, grouped.Grouped) else matmul8)(x, weight, bias)


@each_group
def test_four_bits_beat_rounding_to_levels_up_to_the_largest_magnitude(group):
    weight = torch.randn(128, 1024)
    groups = weight.unflatten(1, (-1, group))
    step = groups.abs().amax(-1, True) / 7
    plain = sqnr(weight, ((groups / step).round() * step).flatten(1))
    ours = sqnr(weight, unpack(pack4(weight, group)))
    assert ours > plain + 1.8
    assert ours > sqnr(weight, unpack(grouped.quantize(weight, 4, group))) + 0.4
    assert group != 64 or ours > 21.3


@pytest.mark.parametrize("value", [0.0, 3.0, -0.25])
def test_groups_of_one_value_are_exact(value):
    weight = torch.full((64, 64), value)
    assert torch.allclose(unpack(pack4(weight)), weight, rtol=1e-3, atol=0)


@each("rows", [1, 2, 3, 4, 17, 64])
@each_group
def test_four_bit_kernel_equals_plain_torch(rows, group, kernels):
    weight, x = packed(4, 48, 384, group), torch.randn(rows, 384)
    floats = weight._replace(scale=weight.scale.float(), zero=weight.zero.float())
    for one in (weight, floats):
        assert error(matmul4(x, one), reference(x, one)) < 1e-5
        assert error(matmul4(x, one), F.linear(x, unpack(one))) < 0.01


@each("rows", [1, 2, 3, 4, 17, 64])
@each("inputs", [256, 100, 7])
def test_eight_bit_kernel_equals_plain_torch(rows, inputs, kernels):
    weight, x = packed(8, 48, inputs), torch.randn(rows, inputs)
    assert error(matmul8(x, weight), reference(x, weight)) < 1e-5


@both_bits
def test_many_rows_are_float_products(bits, kernels, monkeypatch):
    monkeypatch.setattr(weight_only, "TILE", 1 << 12)
    weight, x = packed(bits), torch.randn(200, 256)
    assert error(multiply(x, weight), F.linear(x, unpack(weight))) < 1e-5


@both_bits
@pytest.mark.parametrize("rows", [1, 17, 200])
def test_without_kernels_the_answer_is_nearly_the_same(bits, rows, no_kernels):
    weight, x = packed(bits), torch.randn(rows, 256)
    assert error(multiply(x, weight), F.linear(x, unpack(weight))) < 0.02


@each_group
def test_unpacking_equals_plain_torch(group, kernels):
    weight = packed(4, group=group)
    assert torch.allclose(unpack(weight), grouped.dequantize(weight), atol=1e-6)


@both_bits
def test_threads_change_no_bit(bits):
    weight, x = packed(bits, 1000), torch.randn(3, 256)
    alone = multiply(x, weight)
    torch.set_num_threads(2)
    assert torch.equal(multiply(x, weight), alone)


@both_bits
def test_the_default_type_does_not_matter(bits):
    weight, x = packed(bits), torch.randn(3, 256)
    want = multiply(x, weight)
    torch.set_default_dtype(torch.float16)
    try:
        assert torch.equal(multiply(x, weight), want)
        assert (weight_only.kernels.__wrapped__() is None) == (weight_only.kernels() is None)
    finally:
        torch.set_default_dtype(torch.float32)


@both_bits
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_visible(bits, bad):
    x = torch.randn(2, 256)
    x[0, 7] = bad
    y = multiply(x, packed(bits))
    assert not y[0].isfinite().any()
    assert y[1].isfinite().all()


@both_bits
@each("lead", [(), (4,), (2, 3), (0,), (2, 0), (70, 2)])
@each("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_leading_dimensions_and_floats(bits, lead, dtype):
    real = nn.Linear(128, 16)
    layer, x = from_float(real, bits), torch.randn(*lead, 128)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            y = layer(x.to(dtype))
            assert y.dtype == dtype
            assert y.shape == (*lead, 16)
            assert torch.allclose(y.float(), real(x), atol=0.25)


@both_bits
@pytest.mark.parametrize("lead", [(), (2, 3)], ids=str)
def test_gradients_are_those_of_the_float_weight(bits, lead):
    layer, x = from_float(nn.Linear(128, 16), bits), torch.randn(*lead, 128)
    layer.bias.requires_grad_()
    mine, theirs, bias = x.clone().requires_grad_(), x.clone().requires_grad_(), layer.bias.detach().requires_grad_()
    ahead = torch.randn(*lead, 16)
    layer(mine).backward(ahead)
    F.linear(theirs, layer.weight * 1, bias).backward(ahead)
    assert torch.allclose(mine.grad, theirs.grad, atol=1e-5)
    assert torch.allclose(layer.bias.grad, bias.grad, atol=1e-5)


@both_bits
def test_state_goes_through_safetensors_bit_equal(bits, tmp_path):
    real, x = nn.Linear(128, 16), torch.randn(3, 128)
    layer = from_float(real, bits)
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    fresh = empty(real, bits)
    fresh.load_state_dict(load_file(tmp_path / "layer.safetensors"), assign=True)
    assert torch.equal(fresh(x), layer(x))
    copied = copy.deepcopy(layer)
    assert torch.equal(copied(x), layer(x))
    copied.scale.zero_()
    assert not torch.equal(copied(x), layer(x))


@both_bits
def test_casting_leaves_the_stored_numbers_alone(bits):
    layer = from_float(nn.Linear(128, 16), bits)
    stored = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    layer.half()
    assert layer.weight.dtype == layer.bias.dtype == torch.float16
    assert all(torch.equal(buffer, stored[name]) for name, buffer in layer.named_buffers())


def test_groups_that_do_not_fit():
    assert from_float(nn.Linear(192, 8), 4, 128).group == 64
    assert from_float(nn.Linear(96, 8), 4) is None
    assert isinstance(from_float(nn.Linear(96, 8), 8), Int8WeightLinear)
    weight = torch.randn(8, 96)
    assert error(matmul4(torch.eye(96), pack4(weight, 32)), weight.T) < 0.1


@both_bits
def test_a_weight_that_is_written_the_other_way_round(bits):
    real = pytest.importorskip("transformers.pytorch_utils").Conv1D(16, 128)
    layer, x = in_place_of(real, from_float(as_linear(real), bits)), torch.randn(3, 128)
    assert isinstance(layer, type(real)) and layer.weight.shape == real.weight.shape
    assert as_linear(real).weight.is_contiguous() and empty(as_linear(real), bits).weight.shape == (16, 128)
    assert error(layer(x).detach(), real(x).detach()) < {8: 0.02, 4: 0.15}[bits]


@pytest.mark.compiled
@both_bits
def test_compiles_whole(bits):
    net = nn.Sequential(from_float(nn.Linear(64, 128), bits), nn.SiLU(), from_float(nn.Linear(128, 8), bits))
    x = torch.randn(3, 64)
    with torch.no_grad():
        assert torch.allclose(torch.compile(net, fullgraph=True)(x), net(x), atol=1e-5)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder of C++ sources and an empty cache."""
    monkeypatch.setattr("gearshift.kernels.cpu.native.SOURCES", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "seven.cpp").write_text('extern "C" int seven() { return 7; }')
    return tmp_path


def test_a_library_is_made_once_and_again_when_damaged(source, kernels, monkeypatch):
    assert native.__wrapped__("seven").library.seven() == 7
    (made,) = (source / "cache" / "gearshift").iterdir()
    before = made.stat().st_mtime_ns
    assert native.__wrapped__("seven").library.seven() == 7
    assert made.stat().st_mtime_ns == before
    damaged = source / "other" / "gearshift" / made.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half a library")
    monkeypatch.setenv("XDG_CACHE_HOME", str(source / "other"))
    assert native.__wrapped__("seven").library.seven() == 7
    assert damaged.read_bytes() == made.read_bytes()


def test_what_does_not_compile_is_told_in_a_sentence(source, monkeypatch):
    (source / "seven.cpp").write_text("this is no C++")
    assert "could not compile seven.cpp" in native.__wrapped__("seven").problem
    monkeypatch.setenv("CXX", str(source / "no-such-compiler"))
    assert "could not compile" in native.__wrapped__("seven").problem
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(source))
    assert "no C++ compiler" in native.__wrapped__("seven").problem


def test_kernels_that_answer_wrongly_are_not_used(kernels, monkeypatch):
    monkeypatch.setattr(weight_only, "reference", lambda x, packed: torch.zeros(x.shape[0], packed[0].shape[0]))
    monkeypatch.setattr(weight_only, "kernels", weight_only.kernels.__wrapped__)
    assert weight_only.kernels() is None
    assert "do not answer right" in weight_only.problem()
