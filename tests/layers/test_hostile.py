"""Weights and inputs at the edges: zeros, outliers, numbers almost too small or large, one row, none."""

import pytest
import torch
from support.each import each
from support.quantized import MAKERS
from torch import nn

from gearshift.layers.int8 import Int8Conv2d
from gearshift.quant.formats.int8 import dequantize, quantize_weight
from gearshift.quant.formats.nested import nest

SIZES = [(33, 128), (1, 64)]


def weights(channels, width):
    """Hostile weights by name."""
    plain = torch.randn(channels, width) / width**0.5
    half = max(1, channels // 2)
    rows, groups, outlier, denormal = (plain.clone() for _ in range(4))
    rows[:half] = 0
    groups[:, : width // 2] = 0
    outlier[0, 0] = 1e4
    denormal[:half] *= 1e-42
    return {"zeros": plain * 0, "zero rows": rows, "zero groups": groups, "outlier": outlier, "huge": plain * 1e30,
            "denormals": plain * 1e-42, "denormal rows": denormal, "constant": plain * 0 + 0.01}  # fmt: skip


def inputs(width):
    """Hostile inputs by name."""
    plain = torch.randn(6, width)
    row, outlier = plain.clone(), plain.clone()
    row[2], outlier[0, 0] = 0, 1e4
    return {"plain": plain, "zeros": plain * 0, "zero row": row, "one": plain[:1], "none": plain[:0],
            "outlier": outlier, "without a batch": plain[0], "turned": torch.randn(width, 6).T, "huge": plain * 1e30,
            "denormals": plain * 1e-42, "expanded": plain[:1].expand(5, width), "half": plain.half()}  # fmt: skip


@torch.no_grad()
def examine(layer, real, x, dead):
    """One output: its shape and type, finite where the float layer's is, and the bias where weights are zeros."""
    y, exact = layer(x), real.double()(x.double()).to(x.dtype)
    real.float()
    assert y.shape == exact.shape and y.dtype == x.dtype
    assert y.isfinite().all() or not exact.isfinite().all()
    rows = y.movedim(-1 if isinstance(real, nn.Linear) else -3, 0)[dead]
    bias = torch.zeros(len(rows)) if real.bias is None else real.bias[dead]
    assert torch.equal(rows, bias.to(x.dtype).view(-1, *[1] * (rows.ndim - 1)).expand_as(rows))


@each("bias", [True, False])
@each("kind", MAKERS)
def test_outputs_are_finite_and_rows_of_zeros_give_the_bias(kind, bias):
    for channels, width in SIZES if bias else SIZES[1:]:
        for weight in weights(channels, width).values():
            real = nn.Linear(width, channels, bias)
            real.weight.data = weight
            layer, dead = MAKERS[kind](real), (weight == 0).all(1)
            assert layer.weight.isfinite().all() and not layer.weight[dead].any()
            for x in inputs(width).values():
                examine(layer, real, x, dead)


@pytest.mark.parametrize("unsigned", [False, True])
def test_convolutions_too(unsigned):
    for weight in weights(6, 36).values():
        real = nn.Conv2d(4, 6, 3, padding=1)
        real.weight.data = weight.view(6, 4, 3, 3)
        layer, dead = Int8Conv2d.from_float(real, unsigned), (weight == 0).all(1)
        for scale in (0, 1, 1e30, 1e-42):
            for shape in ((2, 4, 8, 8), (1, 4, 1, 1), (0, 4, 8, 8), (4, 8, 8)):
                examine(layer, real, scale * torch.randn(shape), dead)


@pytest.mark.parametrize("pair_safe", [False, True])
def test_a_channel_of_zeros_has_codes_and_a_zero_point_that_cancel_exactly(pair_safe):
    quantized = quantize_weight(weights(8, 64)["zero rows"], unsigned=True, pair_safe=pair_safe)
    assert (quantized.values[:4].int() == 128).all() and (quantized.zero_point[:4] == 128).all()
    assert not dequantize(quantized)[:4].any()


def test_nested_stores_too():
    for weight in weights(8, 64).values():
        store = nest(weight)
        for low in (store.four_bits(), store.eight_bits()):
            assert dequantize(low).isfinite().all() and not dequantize(low)[(weight == 0).all(1)].any()
        assert store.sixteen_bits().isfinite().all()
