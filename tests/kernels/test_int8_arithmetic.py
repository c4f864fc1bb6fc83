"""The rounding of weights, and the fast products against the plain ones."""

from __future__ import annotations

import pytest
import torch
from support.each import each
from torch.nn import functional as F

from gearshift.kernels import ops
from gearshift.kernels.cpu import onednn
from gearshift.kernels.cuda import int_mm
from gearshift.kernels.reference import conv_reference, linear_reference
from gearshift.quant.formats.int8 import as_signed, dequantize, is_pair_safe, quantize_weight

needs_kernel = pytest.mark.skipif(not onednn.available(), reason="this machine has no oneDNN int8 kernels")
both_signs = pytest.mark.parametrize("unsigned", [False, True], ids=["qint8", "quint8"])
both_ranges = pytest.mark.parametrize("pair_safe", [False, True], ids=["full", "pair_safe"])


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


@both_signs
@both_ranges
def test_gaussian_weights_keep_38_db(unsigned: bool, pair_safe: bool) -> None:
    weight = torch.randn(64, 768) * torch.logspace(-4, 1, 64)[:, None]
    lost = weight - dequantize(quantize_weight(weight, unsigned, pair_safe))
    decibels = 20 * torch.log10(weight.norm(dim=1) / lost.norm(dim=1))
    assert decibels.mean() >= 38
    assert decibels.min() >= 35


@both_signs
@pytest.mark.parametrize("shape", [(32, 64), (32, 63), (16, 8, 3, 3)], ids=str)
def test_pair_safe_weights_are(unsigned: bool, shape: tuple[int, ...]) -> None:
    for skew in (0.0, 0.3, 3.0, -3.0):
        weight = torch.randn(shape) ** 3 + skew
        assert is_pair_safe(as_signed(quantize_weight(weight, unsigned, pair_safe=True).values))
    assert not is_pair_safe(torch.full(shape, 127, dtype=torch.int8))


@both_signs
def test_channels_of_zeros_stay_zeros(unsigned: bool) -> None:
    assert not dequantize(quantize_weight(torch.zeros(4, 8), unsigned, pair_safe=True)).any()


@needs_kernel
@both_signs
@both_ranges
@each("shape", [(1, 8, 8), (3, 77, 33), (40, 384, 128)])
def test_linear_equals_the_reference(unsigned: bool, pair_safe: bool, shape: tuple[int, int, int]) -> None:
    tokens, width, out = shape
    x, bias = F.gelu(torch.randn(tokens, width)), torch.randn(out)
    quantized = quantize_weight(torch.randn(out, width), unsigned, pair_safe)
    got = onednn.linear(x, quantized, bias)
    levels = onednn.packed(quantized.values).levels
    assert levels == (127 if onednn.saturates() and not pair_safe else 255)
    assert error(got, linear_reference(x, quantized, bias, levels)) < 1e-3  # a code on a tie may go the other way


@needs_kernel
def test_the_largest_codes_do_not_overflow() -> None:
    x = torch.cat([torch.zeros(4, 1), torch.ones(4, 127)], 1)
    for pair_safe in (False, True):
        quantized = quantize_weight(torch.ones(16, 128), pair_safe=pair_safe)
        assert torch.allclose(onednn.linear(x, quantized, None), torch.full((4, 16), 127.0), rtol=1e-2)
        quantized = quantize_weight(torch.ones(16, 8, 3, 3), pair_safe=pair_safe)
        image = onednn.conv2d(torch.ones(1, 8, 5, 5), quantized, None, [1, 1], [0, 0])
        assert torch.allclose(image, torch.full((1, 16, 3, 3), 72.0), rtol=2e-2)


@needs_kernel
def test_per_token_error_on_gaussians() -> None:
    x, weight = torch.randn(256, 384), torch.randn(384, 384)
    want = x.double() @ weight.double().T
    quantized = quantize_weight(weight, pair_safe=True)
    per_token = error(onednn.linear(x, quantized, None), want)
    assert per_token <= 0.013
    assert per_token < error(linear_reference(x, quantized, per_token=False), want)


@needs_kernel
@both_signs
@both_ranges
@each("case", [(4, 3, 1, 1), (8, 3, 2, 1), (6, 1, 1, 0), (3, 3, 1, 1), (8, 5, 1, 2)])
def test_convolution_equals_the_reference(unsigned: bool, pair_safe: bool, case: tuple[int, int, int, int]) -> None:
    channels, kernel, stride, padding = case
    x, bias = F.silu(torch.randn(2, channels, 9, 8)), torch.randn(16)
    quantized = quantize_weight(torch.randn(16, channels, kernel, kernel), unsigned, pair_safe)
    got = onednn.conv2d(x, quantized, bias, [stride] * 2, [padding] * 2)
    levels = onednn.packed(quantized.values).levels
    want = conv_reference(x, quantized, bias, (stride, stride), (padding, padding), levels)
    assert got.shape == want.shape
    assert got.is_contiguous()
    assert error(got, want) < 2e-3


def test_signed_and_unsigned_agree() -> None:
    x, weight, bias = torch.randn(32, 384), torch.randn(128, 384), torch.randn(128)
    signed, unsigned = (ops.linear(x, quantize_weight(weight, u), bias) for u in (False, True))
    assert error(signed, unsigned) < 0.02
    image, kernel = torch.randn(2, 16, 8, 8), torch.randn(32, 16, 3, 3)
    one, other = (ops.conv2d(image, quantize_weight(kernel, u), None, [1, 1], [1, 1]) for u in (False, True))
    assert error(one, other) < 0.05


@needs_kernel
@pytest.mark.parametrize("row", [torch.zeros(16), torch.full((16,), 5.0), 1e6 + torch.arange(16.0), -torch.ones(16)])
def test_rows_of_one_value_and_large_ones(row: torch.Tensor) -> None:
    quantized = quantize_weight(torch.randn(8, 16), pair_safe=True)
    want = row @ dequantize(quantized).T
    assert torch.allclose(onednn.linear(row[None], quantized, None)[0], want, rtol=1e-4, atol=1e-5 * row.abs().max())


@needs_kernel
def test_a_small_range_far_from_zero_does_not_wrap_around() -> None:
    signs = torch.ones(8, 16)
    signs[:, ::2] = -1  # exact in 8 bits, and deaf to what the inputs have in common
    quantized = quantize_weight(signs, pair_safe=True)
    for spread in (1e-2, 1e-3):
        x = 100 + spread * torch.rand(64, 16)
        assert error(onednn.linear(x, quantized, None), x.double() @ signs.double().T) < 0.3


@needs_kernel
def test_not_a_number_stays_one() -> None:
    x = torch.randn(2, 16)
    x[0, 3] = float("nan")
    y = onednn.linear(x, quantize_weight(torch.randn(8, 16)), None)
    assert y[0].isnan().all()
    assert y[1].isfinite().all()


@needs_kernel
def test_the_engine_is_left_alone() -> None:
    before = torch.backends.quantized.engine
    onednn.linear(torch.randn(2, 16), quantize_weight(torch.randn(8, 16)), None)
    assert torch.backends.quantized.engine == before


@both_signs
def test_the_product_meant_for_cuda(unsigned: bool) -> None:
    x, weight, bias = torch.randn(4, 5, 64), torch.randn(32, 64), torch.randn(32)
    quantized = quantize_weight(weight, unsigned)
    got = int_mm.linear(x, quantized, bias)  # torch._int_mm runs on a CPU too
    assert error(got, F.linear(x, weight, bias)) < 0.02
    assert not int_mm.takes(x, quantized.values)


@both_signs
def test_without_kernels_the_weight_is_dequantized(unsigned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "available", lambda: False)
    for rows in (3, 30):
        x, quantized = torch.randn(rows, 64), quantize_weight(torch.randn(32, 64), unsigned)
        assert error(ops.linear(x, quantized, None), F.linear(x, dequantize(quantized))) < 1e-5
    x, quantized = torch.randn(2, 8, 6, 6), quantize_weight(torch.randn(4, 8, 3, 3), unsigned)
    assert torch.equal(ops.conv2d(x, quantized, None, [1, 1], [0, 0]), F.conv2d(x, dequantize(quantized)))
