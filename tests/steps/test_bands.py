"""Weights by channel and band of spatial frequency, in numbers."""

import pytest
import torch

from gearshift.steps.bands import BANDS, analysed, groups, labels, mixed, shares, synthesised
from gearshift.steps.memory import Memory

SHAPES = [(2, 4, 8, 8), (1, 3, 12, 6), (2, 4, 3, 8, 10)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_transform_is_orthonormal_and_comes_back(shape):
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(synthesised(analysed(x)), x)
    torch.testing.assert_close(analysed(x).norm(), x.norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_weights_in_all_groups_are_a_plain_sum(shape):
    a, b = torch.randn(shape), torch.randn(shape)
    weights = [[w] * groups(shape) for w in (1.5, -0.25)]
    torch.testing.assert_close(mixed([a, b], weights), 1.5 * a - 0.25 * b, rtol=1e-4, atol=1e-5)


def test_a_group_is_one_band_of_one_channel():
    flat, fine = torch.ones(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    fine[..., 6, 1] = 1.0  # one coefficient of the second highest frequency
    lows = [[1.0] + [0.0] * (2 * BANDS - 1)]
    expected = torch.stack([flat[0, 0], torch.zeros(8, 8)])[None]
    torch.testing.assert_close(mixed([flat], lows), expected, rtol=0, atol=1e-6)
    assert mixed([synthesised(fine)], lows).abs().max() < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_shares_count_coefficients(shape):
    assert shares(shape).sum() == pytest.approx(1.0) and (shares(shape) > 0).all()
    assert labels(shape).max() + 1 == groups(shape)


def test_tokens_and_specks_have_one_group():
    assert groups((2, 64, 16)) == groups((1, 4, 2, 2)) == 1 and shares((2, 64, 16)).tolist() == [1.0]


def test_memory_fills_by_groups_in_the_structure_and_dtype_of_what_it_kept():
    memory, latent = Memory(2), torch.randn(1, 2, 8, 8).bfloat16()
    for x in (1.0, 2.0):
        memory.keep(x, (torch.full((1, 2, 8, 8), x).bfloat16(),))
    same = [[w] * 2 * BANDS for w in (2.0, -1.0, 0.0)]
    (filled,) = memory.fill(same, latent)
    assert filled.dtype == torch.bfloat16
    torch.testing.assert_close(filled.float(), torch.full((1, 2, 8, 8), 3.0))
