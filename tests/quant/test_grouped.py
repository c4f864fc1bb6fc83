"""Weights of few bits in groups: packing, sizes, how exact they are, and the layers that hold them."""

import copy
import io

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.each import each
from torch import nn
from torch.nn import functional as F

from gearshift import zoo
from gearshift.core.errors import GearshiftWarning
from gearshift.kernels.cuda import int4
from gearshift.layers.conv1d import QuantizedConv1D
from gearshift.layers.grouped import GroupedLinear
from gearshift.quant.formats.grouped import dequantize, nbytes, pack, quantize, row_bytes, unpack
from gearshift.quant.rounding.awq import Activity, found_scales, rounded
from gearshift.quant.rounding.gptq import Gram, compensated
from gearshift.quant.rounding.hqq import POWER, half_quadratic
from gearshift.quant.rounding.least_squares import least_squares

every_width = pytest.mark.parametrize("bits", [2, 3, 4, 8])
WIDTHS = (1, 31, 32, 33, 100, 192)


def sqnr(exact, rounded):
    return float(10 * (exact.square().sum() / (exact - rounded).square().sum()).log10())


@pytest.fixture(scope="module")
def trained():
    """Linear weights of the small DiT."""
    blocks = zoo.load("dit").transformer.transformer_blocks[:1]
    return [m.weight.detach() for m in blocks.modules() if type(m) is nn.Linear]


@every_width
@each("width", WIDTHS)
def test_packing_is_exact_and_takes_no_more_than_its_bits(bits, width):
    codes = torch.randint(0, 2**bits, (3, width), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert torch.equal(unpack(packed, bits, width), codes)
    assert packed.shape == (3, row_bytes(width, bits))
    assert packed.shape[1] == -(-width // 32) * 4 * bits  # 3 bits: 12 bytes for 32


@every_width
@each("group", [8, 64, 128])
def test_bits_a_weight(bits, group):
    weight = torch.randn(16, 256)
    assert 8 * nbytes(quantize(weight, bits, group)) / weight.numel() == bits + 32 / group


@pytest.mark.parametrize(("bits", "floor"), [(2, 6.0), (3, 13.0), (4, 19.0), (8, 38.0)])
def test_trained_weights_rounded_to_nearest(trained, bits, floor):
    for weight in trained:
        assert sqnr(weight, dequantize(quantize(weight, bits, 64))) > floor


@every_width
@each("width", [192, 200, 40])
def test_each_weight_is_within_half_a_step_and_groups_do_not_touch_each_other(bits, width):
    weight = torch.randn(4, width)
    whole = quantize(weight, bits, 64)
    steps = whole.scale.float().repeat_interleave(64, 1)[:, :width]
    assert ((dequantize(whole) - weight).abs() <= steps * 0.51 + 0.06 * steps * (bits == 8)).all()
    for start in range(0, width, 64):
        part = weight[:, start : start + 64]
        assert torch.equal(dequantize(quantize(part, bits, 64)), dequantize(whole)[:, start : start + 64])
    assert torch.equal(dequantize(whole, rows=slice(1, 3)), dequantize(whole)[1:3])


@pytest.mark.parametrize("value", [0.0, 1.5, -3e-3, 1e4])
def test_a_group_of_one_value_is_kept(value):
    weight = torch.full((2, 64), value)
    assert torch.allclose(dequantize(quantize(weight, 4, 64)), weight, rtol=1e-3)


def test_scales_too_small_for_float16_are_kept_in_float32():
    weight = torch.randn(4, 64) * 1e-6
    small = quantize(weight, 4, 64)
    assert small.scale.dtype == torch.float32 and quantize(weight * 1e6, 4, 64).scale.dtype == torch.float16
    assert sqnr(weight, dequantize(small)) > 19


@each("group", [16, 64, 128])
@each("bits", [2, 4])
def test_half_quadratic_grids_beat_nearest_in_both_norms(trained, bits, group):
    for weight in trained:
        nearest = dequantize(quantize(weight, bits, group))
        found = dequantize(quantize(weight, bits, group, lambda groups: half_quadratic(groups, bits)))
        fitted = dequantize(quantize(weight, bits, group, lambda groups: least_squares(groups, bits)))
        assert sqnr(weight, found) > sqnr(weight, nearest)
        sizes = [(weight - w).abs().pow(POWER).sum() for w in (found, fitted, nearest)]
        assert sizes == sorted(sizes)


@every_width
def test_error_compensation_and_scaled_channels_spare_the_output(bits):
    mix = torch.randn(96, 96) * torch.logspace(-1, 1, 96)
    inputs, weight = torch.randn(512, 96) @ mix, torch.randn(40, 96)
    gram, activity = Gram(96, weight.device), Activity(96, 64, weight.device)
    for part in inputs.split(200):
        gram.see(part)
        activity.see(part)
    assert torch.allclose(gram.matrix, inputs.T @ inputs / 512, rtol=1e-3, atol=1e-2)
    scales = found_scales(weight, activity, bits, None)

    def error(other):
        return float((inputs @ (other - weight).T).square().mean())

    nearest = error(dequantize(quantize(weight, bits, 64)))
    assert error(dequantize(compensated(weight, gram.matrix, bits, 64))) < 0.6 * nearest
    assert error(dequantize(rounded(weight * scales, activity, scales, bits)) / scales) < 0.8 * nearest


def test_error_compensation_takes_inputs_that_say_nothing():
    weight = torch.randn(8, 70)
    silent = compensated(weight, torch.zeros(70, 70), 4, 64)
    assert sqnr(weight, dequantize(silent)) > 19


def layer_of(bits=4, group=64, width=192, scaled=False, **more):
    linear = nn.Linear(width, 48)
    scale = torch.rand(width) + 0.5 if scaled else None
    return GroupedLinear.of(linear, quantize(linear.weight / (scale if scaled else 1), bits, group), scale, **more)


@every_width
@each(("group", "width"), [(64, 192), (128, 200), (8, 40)])
def test_a_layer_multiplies_by_the_weight_it_shows(bits, group, width):
    layer = layer_of(bits, group, width, scaled=True)
    for lead in ((), (5,), (2, 70), (0,)):
        x = torch.randn(*lead, width)
        wanted = F.linear(x, layer.weight * 1, layer.bias)
        got = layer(x)
        assert got.shape == wanted.shape
        assert torch.allclose(got, wanted, atol=0.05)  # few rows may be rounded to 8 bits on their way
    assert layer.weight.dtype == torch.float32 and layer.weight.shape == (48, width)


@each("dtype", [torch.float32, torch.bfloat16, torch.float16])
@each("compute", [None, torch.float16, torch.bfloat16])
def test_answers_in_the_dtype_it_was_asked_in(dtype, compute):
    layer = layer_of(compute=compute)
    x = torch.randn(100, 192)
    exact = layer(x)
    cast = copy.deepcopy(layer).to(dtype)
    assert cast(x.to(dtype)).dtype == cast.weight.dtype == dtype
    assert torch.allclose(cast(x.to(dtype)).float(), exact, atol=0.05)
    assert torch.equal(cast.scale, layer.scale) and cast.codes.dtype == torch.uint8


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("scaled", [False, True])
def test_state_copies_and_pickles_are_bit_equal(bits, scaled, tmp_path):
    layer, x = layer_of(bits, scaled=scaled), torch.randn(3, 192)
    want = layer(x)
    names = {"codes", "scale", "zero", "bias", "weight"} | ({"input_scale"} if scaled else set())
    assert set(layer.state_dict()) == names
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    empty = GroupedLinear(192, 48, device="meta", bits=bits, scaled_input=scaled)
    empty.load_state_dict(load_file(tmp_path / "layer.safetensors"), assign=True)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    for other in (empty, copy.deepcopy(layer), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(x), want)
    moved = layer.to("meta")
    assert all(b.is_meta for b in moved.buffers())


@pytest.mark.parametrize("scaled", [False, True])
def test_gradients_are_those_of_the_float_layer(scaled):
    layer, x = layer_of(scaled=scaled), torch.randn(80, 192)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    ahead = torch.randn(80, 48)
    layer(mine).backward(ahead)
    F.linear(theirs, layer.weight * 1).backward(ahead)
    assert torch.allclose(mine.grad, theirs.grad, atol=1e-4)


def test_a_transposed_layer_shows_its_weight_as_it_was_written():
    linear = nn.Linear(64, 48)
    layer = QuantizedConv1D(GroupedLinear.of(linear, quantize(linear.weight, 8, 64)))
    assert layer.weight.shape == (64, 48)
    assert sqnr(linear.weight.detach().T, layer.weight * 1) > 38


def test_the_layer_is_one_graph():
    for bits in (2, 4):
        layer, x = layer_of(bits, compute=torch.float16), torch.randn(3, 192)
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        assert torch.allclose(compiled(x), layer(x), atol=0.05)


@pytest.fixture
def kernel(monkeypatch):
    """Lets a function stand for a CUDA kernel of 4 bits in groups of 64."""

    def put(make):
        backend = int4.Backend(None, torch.float32, (4,), (64,), make)
        monkeypatch.setattr(int4.Backend, "lacks", lambda self, bits, group: None)
        monkeypatch.setitem(int4.BACKENDS, "marlin", backend)

    return put


def test_a_kernel_is_used_if_it_answers_right(kernel):
    calls = []

    def make(packed):
        weight = dequantize(packed)
        return lambda rows: (calls.append(len(rows)), F.linear(rows, weight))[1]

    kernel(make)
    packed, x = quantize(torch.randn(48, 128), 4, 64), torch.randn(5, 128)
    for _ in range(2):
        assert torch.equal(int4.product(x, packed, "marlin"), F.linear(x, dequantize(packed)))
    assert calls == [3, 5, 5]  # tried once, then used


@pytest.mark.parametrize("how", ["wrong", "broken"])
def test_a_kernel_that_answers_wrong_or_not_is_left(kernel, how):
    def make(packed):
        if how == "broken":
            raise OSError("no such symbol")
        return lambda rows: F.linear(rows, dequantize(packed)) * 1.1

    kernel(make)
    packed, x = quantize(torch.randn(48, 128), 4, 64), torch.randn(5, 128)
    with pytest.warns(GearshiftWarning, match="relative error of 0.1" if how == "wrong" else "no such symbol"):
        y = int4.product(x, packed, "marlin")
    assert torch.equal(y, F.linear(x, dequantize(packed)))


def test_kernels_say_what_they_lack():
    kernel = int4.BACKENDS["torchao_int4"]
    assert "8 in groups of 64" in kernel.lacks(8, 64)
    if not torch.cuda.is_available():
        assert kernel.lacks(4, 64) == "it needs a CUDA device, and there is none"
