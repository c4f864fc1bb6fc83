"""Weights of few bits in any format: how exact, the kernels against plain torch, the layers as drop-in modules."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.each import each
from torch import nn
from torch.nn import functional as F

from gearshift.kernels import dispatch
from gearshift.kernels.cpu import weight_only
from gearshift.kernels.cpu.native import native
from gearshift.kernels.cpu.weight_only import RUN, unpack
from gearshift.kernels.dispatch import KERNELS, PLAIN, Wish, matmul
from gearshift.kernels.reference import rounded_reference
from gearshift.layers.linear_view import as_linear, in_place_of
from gearshift.layers.weight_only import Int8WeightLinear, empty, from_float
from gearshift.quant.formats import float8, gaussian_grid, grouped
from gearshift.quant.formats.float8 import Float8
from gearshift.quant.formats.gaussian_grid import Pairs
from gearshift.quant.formats.int8 import quantize_weight
from gearshift.quant.formats.weights import dequantize
from gearshift.quant.rounding.least_squares import pack4

both_bits = pytest.mark.parametrize("bits", [8, 4])
each_group = pytest.mark.parametrize("group", [32, 64, 128])
CPU = torch.device("cpu")


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


def float8_of(weight, dtype):
    values, scale = float8.rounded(weight, dtype)
    return Float8(values, scale[:, 0])


def pairs_of(weight, bits, p, group):
    codes, scale = gaussian_grid.fit(weight.unflatten(1, (-1, group)), bits, p)
    return Pairs(gaussian_grid.pack(codes.flatten(1), bits), scale, gaussian_grid.pairs(bits, p), bits)


def in_floats(weight):
    return weight._replace(scale=weight.scale.float(), zero=weight.zero.float())


FORMATS = {
    "int8": quantize_weight,
    "uint8": lambda weight: quantize_weight(weight, unsigned=True),
    "e4m3": lambda weight: float8_of(weight, torch.float8_e4m3fn),
    "e5m2": lambda weight: float8_of(weight, torch.float8_e5m2),
    "float32 scales": lambda weight: in_floats(grouped.quantize(weight, 4, 64)),
    **{
        f"{bits} bits in {group}": lambda weight, bits=bits, group=group: grouped.quantize(weight, bits, group)
        for bits in (2, 3, 4, 8)
        for group in (8, 32, 96, 128, 160, 4096)
    },
}
TABLES = {(bits, p): lambda weight, b=bits, p=p: pairs_of(weight, b, p, 16) for bits in (2, 3, 4) for p in (1, 2)}
SHAPES = [(1, 576, 37), (2, 64, 4), (3, 100, 5), (5, 1100, 3), (16, 7, 9), (4, 320, 1)]


@each("kind", FORMATS)
@each("shape", SHAPES)
def test_every_format_is_multiplied_as_it_reads(kind, shape, kernels):
    rows, inputs, out = shape
    weight, x = FORMATS[kind](torch.randn(out, inputs)), torch.randn(rows, inputs)
    assert error(weight_only.multiply_widened(x, weight), F.linear(x, dequantize(weight))) < 1e-5
    assert torch.allclose(unpack(weight), dequantize(weight), rtol=1e-5, atol=1e-6)


@each("kind", TABLES)
@each("shape", [(1, 576, 37), (5, 1088, 3), (4, 16, 2)])
def test_tables_are_multiplied_as_they_read(kind, shape, kernels):
    rows, inputs, out = shape
    weight, x = TABLES[kind](torch.randn(out, inputs)), torch.randn(rows, inputs)
    assert error(weight_only.multiply_widened(x, weight), F.linear(x, dequantize(weight))) < 1e-5
    assert torch.allclose(unpack(weight), dequantize(weight), rtol=1e-5, atol=1e-6)


@each("bits", [2, 3, 4])
@each("group", [32, 64, 96, 128, 160, 256, 4096])
@each("shape", [*SHAPES, (17, 192, 6)])
def test_rounded_activations_equal_plain_torch(bits, group, shape, kernels):
    rows, inputs, out = shape
    made = grouped.quantize(torch.randn(out, inputs), bits, group)
    x = torch.randn(rows, inputs) * torch.randn(inputs).exp()
    for weight in (made, in_floats(made)):
        got = weight_only.multiply_rounded(x, weight)
        assert error(got, rounded_reference(x, weight, RUN)) < 3e-4  # a code on a tie may go the other way
        assert error(got, F.linear(x, dequantize(weight))) < 0.03


def test_the_table_says_who_serves_whom(kernels):
    four, eight = packed(4), packed(8)
    few, many = torch.randn(3, 256), torch.randn(200, 256)
    assert dispatch.kernel_for(few, four).name.startswith("whole numbers")
    assert dispatch.kernel_for(few, eight).name == dispatch.kernel_for(few, four._replace(group=8)).name
    assert dispatch.kernel_for(many, four).name == dispatch.kernel_for(many, eight).name == "widened in tiles"
    rounds = Wish(rounds=True)
    assert dispatch.kernel_for(few, eight, rounds).name == "widened in registers"
    if dispatch.onednn.available():
        assert dispatch.kernel_for(many, eight, rounds).name == "oneDNN"
    assert dispatch.rounding(four, PLAIN, CPU) == "to 8 bits, in groups of 64, for up to 8 tokens at a time"
    assert dispatch.rounding(eight, PLAIN, CPU) is None


def test_what_does_not_serve_says_why(kernels):
    for weight in (
        packed(8),
        packed(4, group=32),
        TABLES[4, 2](torch.randn(4, 32)),
        FORMATS["e4m3"](torch.randn(4, 9)),
    ):
        why = dispatch.why_not(weight, PLAIN, CPU)
        served = {kernel.name for kernel in dispatch.able(weight, PLAIN, CPU)}
        assert served | why.keys() == {kernel.name for kernel in KERNELS} and not served & why.keys()
        assert all(len(words) > 8 for words in why.values())
    assert "multiple of 32" in weight_only.lacks_rounded(grouped.quantize(torch.randn(4, 64), 4, 16))
    assert "multiple of 8" in weight_only.lacks_widened(pairs_of(torch.randn(4, 12), 4, 2, 12))


def test_without_a_compiler_the_reason_is_that(no_kernels):
    assert weight_only.problem() in dispatch.why_not(packed(4), PLAIN, CPU).values()
    assert {kernel.name for kernel in dispatch.able(packed(4), PLAIN, CPU)} == {"widened in tiles"}


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


@both_bits
def test_many_rows_are_float_products(bits, kernels, monkeypatch):
    monkeypatch.setattr(dispatch, "TILE", 1 << 12)
    weight, x = packed(bits), torch.randn(200, 256)
    assert error(matmul(x, weight), F.linear(x, unpack(weight))) < 1e-5


@both_bits
@pytest.mark.parametrize("rows", [1, 17, 200])
def test_without_kernels_the_answer_is_nearly_the_same(bits, rows, no_kernels):
    weight, x = packed(bits), torch.randn(rows, 256)
    assert error(matmul(x, weight), F.linear(x, unpack(weight))) < 0.02


@both_bits
def test_threads_change_no_bit(bits):
    weight, x = packed(bits, 1000), torch.randn(3, 256)
    alone = matmul(x, weight)
    torch.set_num_threads(2)
    assert torch.equal(matmul(x, weight), alone)


@both_bits
def test_the_default_type_does_not_matter(bits):
    weight, x = packed(bits), torch.randn(3, 256)
    want = matmul(x, weight)
    torch.set_default_dtype(torch.float16)
    try:
        assert torch.equal(matmul(x, weight), want)
        assert (weight_only.kernels.__wrapped__() is None) == (weight_only.kernels() is None)
    finally:
        torch.set_default_dtype(torch.float32)


@both_bits
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_visible(bits, bad):
    x = torch.randn(2, 256)
    x[0, 7] = bad
    y = matmul(x, packed(bits))
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


def test_groups_fit_the_inputs_or_the_last_is_shorter():
    assert from_float(nn.Linear(192, 8), 4, 128).group == 64
    assert from_float(nn.Linear(96, 8), 4).group == 32
    assert isinstance(from_float(nn.Linear(96, 8), 8), Int8WeightLinear)
    odd, x = nn.Linear(100, 8), torch.randn(3, 100)
    layer = from_float(odd, 4)
    assert layer.group == 64 and layer.scale.shape == (8, 2)
    assert error(layer(x).detach(), odd(x).detach()) < 0.15


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
    wrong = torch.zeros(1)
    monkeypatch.setattr(weight_only, "rounded_reference", lambda *_: wrong)
    monkeypatch.setattr(weight_only, "kernels", weight_only.kernels.__wrapped__)
    assert weight_only.kernels() is None
    assert "do not answer right" in weight_only.problem()
