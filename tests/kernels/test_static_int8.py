"""Products in fixed ranges: whole numbers exact, the kernels against plain torch, and the layers as drop-in modules."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.each import each
from torch import nn
from torch.nn import functional as F

from gearshift.algorithms.quantizers import sqnr
from gearshift.core.errors import GearshiftWarning
from gearshift.kernels import static_int8
from gearshift.kernels.cpu import onednn
from gearshift.kernels.static_int8 import accumulate
from gearshift.layers.static_int8 import StaticInt8Conv2d, StaticInt8Layer, StaticInt8Linear
from gearshift.quant.formats import fixed_range
from gearshift.quant.formats.fixed_range import Fixed, encode
from gearshift.quant.formats.int8 import Quantized, as_signed, is_pair_safe, quantize_weight

both_signs = pytest.mark.parametrize("unsigned", [False, True], ids=["qint8", "quint8"])
both_ranges = pytest.mark.parametrize("pair_safe", [False, True], ids=["full", "pair_safe"])
both_kinds = pytest.mark.parametrize("kind", ["linear", "conv"])
both_grains = pytest.mark.parametrize("per_channel", [False, True], ids=["one_step", "steps"])


def linear_range(channels: int, per_channel: bool) -> Fixed:
    if not per_channel:
        return Fixed(torch.tensor(0.03), torch.tensor(120, dtype=torch.uint8))
    zero = torch.randint(100, 150, (channels,)).to(torch.uint8)
    return Fixed(0.02 + 0.02 * torch.rand(channels), zero)


def conv_range(channels: int, per_channel: bool) -> Fixed:
    step, zero = linear_range(channels, per_channel)
    return Fixed(step, zero if not zero.ndim else torch.tensor(fixed_range.CENTER, dtype=torch.uint8))


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def layer_and_input(
    kind: str, unsigned: bool = False, per_channel: bool = False
) -> tuple[StaticInt8Layer, torch.Tensor]:
    if kind == "linear":
        made = StaticInt8Linear.of(nn.Linear(64, 32), linear_range(64, per_channel), unsigned)
        return made.requires_grad_(False), torch.randn(3, 5, 64)
    conv = nn.Conv2d(8, 16, 3, 2, 1)
    return StaticInt8Conv2d.of(conv, conv_range(8, per_channel), unsigned).requires_grad_(False), torch.randn(
        2, 8, 9, 9
    )


@both_signs
@both_ranges
@each("shape", [(1, 8, 8), (3, 77, 33), (40, 384, 128), (1, 512, 16)])
def test_accumulations_equal_whole_numbers(unsigned: bool, pair_safe: bool, shape: tuple[int, int, int]) -> None:
    tokens, width, out = shape
    values = quantize_weight(torch.randn(out, width), unsigned, pair_safe).values
    for codes in (torch.randint(0, 256, (tokens, width)), torch.full((tokens, width), 255), torch.zeros(tokens, width)):
        want = (codes.long() - 128) @ as_signed(values).long().t()
        assert torch.equal(accumulate(codes.to(torch.uint8), values).long(), want)
        assert torch.equal(accumulate((codes - 128).to(torch.int8), values).long(), want)


def test_accumulations_that_would_overflow_sixteen_bits_are_exact() -> None:
    values = torch.full((16, 64), 127, dtype=torch.int8)
    values[1] = -128
    assert not is_pair_safe(values)
    for code in (0, 127, 128, 255):
        got = accumulate(torch.full((4, 64), code, dtype=torch.uint8), values)
        assert torch.equal(got[0, :2], torch.tensor([64.0 * 127 * (code - 128), -64.0 * 128 * (code - 128)]))


@both_signs
@both_ranges
@both_grains
def test_linear_equals_the_reference(unsigned: bool, pair_safe: bool, per_channel: bool) -> None:
    x, weight, bias = 2 * torch.randn(40, 384) + 0.3, torch.randn(128, 384), torch.randn(128)
    fixed = linear_range(384, per_channel)
    quantized = quantize_weight(fixed_range.folded(weight, fixed.step), unsigned, pair_safe)
    got = static_int8.linear(x, quantized, fixed, fixed_range.offsets(quantized, fixed), bias)
    assert error(got, static_int8.linear_reference(x, quantized, fixed, bias)) < 2e-6


@both_signs
@both_ranges
@both_grains
@each("case", [(4, 3, 1, 1), (8, 3, 2, 1), (6, 1, 1, 0), (3, 3, 1, 1), (8, 5, 1, 2)])
def test_convolution_equals_the_reference(
    unsigned: bool, pair_safe: bool, per_channel: bool, case: tuple[int, int, int, int]
) -> None:
    channels, kernel, stride, padding = case
    x, bias, fixed = torch.randn(2, channels, 9, 8), torch.randn(16), conv_range(channels, per_channel)
    weight = torch.randn(16, channels, kernel, kernel)
    quantized = quantize_weight(fixed_range.folded(weight, fixed.step), unsigned, pair_safe)
    given = (x, quantized, fixed, bias, [stride] * 2, [padding] * 2)
    got, want = static_int8.conv2d(*given), static_int8.conv_reference(*given)
    assert got.is_contiguous() and error(got, want) < 2e-6


@both_kinds
@both_signs
@both_grains
def test_without_kernels_the_numbers_are_the_same(
    kind: str, unsigned: bool, per_channel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = layer_and_input(kind, unsigned, per_channel)
    want = layer(x)
    monkeypatch.setattr(onednn, "available", lambda: False)
    assert error(layer(x), want) < 2e-6


def test_codes_are_the_nearest_and_end_where_the_range_does() -> None:
    fixed = Fixed(torch.tensor(0.5), torch.tensor(100, dtype=torch.uint8))
    x = torch.tensor([-1e9, -50.1, -50, -0.26, -0.24, 0, 0.25, 0.24, 77.5, 78, 1e9])
    assert encode(x, fixed).tolist() == [0, 0, 0, 99, 100, 100, 101, 100, 255, 255, 255]


def test_balancing_raises_steps_and_makes_weights_easier() -> None:
    spread = torch.logspace(-2, 1, 64)
    x, weight = torch.randn(256, 64) * spread, torch.randn(32, 64)
    step = (x.amax(0) - x.amin(0)) / 255
    fixed = Fixed(step, (-x.amin(0) / step).round().to(torch.uint8))
    wider = fixed_range.balanced(fixed, weight)
    assert (wider.step >= fixed.step * (1 - 1e-6)).all()
    low, high = (wider.step * (end - wider.zero.float()) for end in (0.0, 255.0))
    assert ((low - wider.step <= x.amin(0)) & (x.amax(0) <= high + wider.step)).all()
    want = x @ weight.t()

    def exact(found: Fixed) -> float:
        quantized = quantize_weight(fixed_range.folded(weight, found.step))
        return sqnr(weight, fixed_range.unfolded(quantized, found.step, torch.float32))

    quantized = quantize_weight(fixed_range.folded(weight, wider.step))
    assert exact(wider) > exact(fixed) + 5
    assert sqnr(want, static_int8.linear_reference(x, quantized, wider)) > 35


@both_kinds
@both_signs
@both_grains
def test_state_goes_through_safetensors_into_a_skeleton_bit_equal(
    kind: str, unsigned: bool, per_channel: bool, tmp_path: Path
) -> None:
    layer, x = layer_and_input(kind, unsigned, per_channel)
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    with torch.device("meta"):
        real = nn.Linear(64, 32) if kind == "linear" else nn.Conv2d(8, 16, 3, 2, 1)
    empty = type(layer).empty_like(real, unsigned=unsigned, per_channel=per_channel)
    empty.load_state_dict(load_file(tmp_path / "layer.safetensors"), assign=True)
    assert torch.equal(empty(x), layer(x))
    assert torch.equal(copy.deepcopy(empty)(x), layer(x))


@both_kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_answers_in_the_dtype_it_was_asked_in(kind: str, dtype: torch.dtype) -> None:
    layer, x = layer_and_input(kind, per_channel=True)
    want, ranges = layer(x), copy.deepcopy(layer.fixed)
    layer.to(dtype)
    assert layer(x.to(dtype)).dtype == layer.weight.dtype == dtype
    torch.testing.assert_close(layer(x.to(dtype)).float(), want, atol=0.1, rtol=0)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(layer.fixed, ranges, strict=True))


@each("lead", [(), (4,), (2, 3), (0,), (2, 0)])
def test_any_leading_dimensions(lead: tuple[int, ...]) -> None:
    layer, _ = layer_and_input("linear")
    x = torch.randn(*lead, 64)
    assert layer(x).shape == (*lead, 32)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight * 1, layer.bias), atol=0.2, rtol=0)


def test_convolutions_answer_in_the_layout_of_the_input_and_take_one_image() -> None:
    layer, x = layer_and_input("conv")
    assert layer(x.to(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer(x[:1])[0], layer(x[0]))
    assert layer(x[:0]).shape == (0, 16, 5, 5)


@both_kinds
@both_signs
@both_grains
def test_gradients_are_those_of_the_weight_it_stands_for(kind: str, unsigned: bool, per_channel: bool) -> None:
    layer, x = layer_and_input(kind, unsigned, per_channel)
    assert layer.bias is not None
    layer.bias.requires_grad_()
    x.requires_grad_()
    y = layer(x)
    ahead = torch.randn_like(y)
    y.backward(ahead)
    assert x.grad is not None and layer.bias.grad is not None
    weight = layer.weight * 1
    want = ahead @ weight if kind == "linear" else torch.nn.grad.conv2d_input(x.shape, weight, ahead, 2, 1)
    torch.testing.assert_close(x.grad, want)
    torch.testing.assert_close(
        layer.bias.grad, ahead.movedim(1, -1).reshape(-1, 16).sum(0) if kind == "conv" else ahead.reshape(-1, 32).sum(0)
    )
    with torch.no_grad():
        assert torch.equal(layer(x), y)


@both_kinds
@both_grains
def test_weights_keep_38_db_also_when_they_are_written_to(kind: str, per_channel: bool) -> None:
    torch.manual_seed(0)
    real = nn.Linear(256, 128) if kind == "linear" else nn.Conv2d(32, 64, 3)
    channels = 256 if kind == "linear" else 32
    fixed = (linear_range if kind == "linear" else conv_range)(channels, per_channel)
    twin = (StaticInt8Linear if kind == "linear" else StaticInt8Conv2d).of(real, fixed)
    assert sqnr(real.weight, twin.weight) > 38
    x = torch.randn(7, 256) if kind == "linear" else torch.randn(2, 32, 8, 8)
    with torch.no_grad():
        before = sqnr(real(x), twin(x))
        real.weight.mul_(-0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GearshiftWarning)
            twin.weight.mul_(-0.5)
        assert sqnr(real.weight, twin.weight) > 38 and sqnr(real(x), twin(x)) > before - 3


def test_a_weight_that_changed_is_packed_again() -> None:
    layer, x = layer_and_input("linear")
    before = layer(x)
    other, _ = layer_and_input("linear")
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other(x)) and not torch.equal(layer(x), before)


@both_kinds
def test_is_traced_whole(kind: str) -> None:
    layer, x = layer_and_input(kind, per_channel=True)
    with torch.no_grad():
        traced = torch.compile(nn.Sequential(layer, nn.SiLU()), fullgraph=True, backend="aot_eager")
        assert torch.equal(traced(x), F.silu(layer(x)))


@both_kinds
def test_exports_as_one_operator(kind: str) -> None:
    layer, x = layer_and_input(kind)
    program = torch.export.export(nn.Sequential(layer), (x,))
    assert any("gearshift.static_int8" in str(node.target) for node in program.graph.nodes)
    assert torch.equal(program.module()(x), layer(x))


def test_a_zero_point_of_the_weight_counts() -> None:
    weight = torch.rand(16, 64) + 1  # all positive: the zero point is far off
    quantized = quantize_weight(weight, unsigned=True)
    fixed = linear_range(64, False)
    x = torch.randn(8, 64)
    got = static_int8.linear(x, quantized, fixed, fixed_range.offsets(quantized, fixed), None)
    assert error(got, x @ weight.t()) < 0.02
    symmetric = Quantized(quantized.values, quantized.scale)
    assert error(static_int8.linear(x, symmetric, fixed, fixed_range.offsets(symmetric, fixed), None), got) > 0.1
