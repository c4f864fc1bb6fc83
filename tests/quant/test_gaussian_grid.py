"""The grids, the nearest points, the scales, and packed codes."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
from support.each import each

from gearshift.quant.formats import gaussian_grid
from gearshift.quant.formats.gaussian_grid import fit, grid, nearest, numbers, pack, packed_width, pairs, unpack

KINDS = [(bits, p) for bits in (2, 3, 4) for p in (1, 2)]
# mean square errors: Lloyd and Max's for p=1 (Max 1960), and for p=2 the best that is known to us
LEAST = {(2, 1): 0.11748, (3, 1): 0.03455, (4, 1): 0.009501, (2, 2): 0.1076, (3, 2): 0.02961, (4, 2): 0.00777}
each_kind = pytest.mark.parametrize(("bits", "p"), KINDS)


def gaussian(count: int = 1 << 18) -> torch.Tensor:
    """Gaussian numbers, spread more evenly than chance would."""
    even = torch.quasirandom.SobolEngine(2, scramble=True, seed=1).draw(count // 2, dtype=torch.float64)
    return torch.special.ndtri(even.clamp(1e-12, 1 - 1e-12)).float().flatten()


def error(x: torch.Tensor, bits: int, p: int) -> float:
    return float((pairs(bits, p)[nearest(x, bits, p).int()].flatten() - x).square().mean())


@each_kind
def test_errors_on_gaussian_numbers(bits: int, p: int) -> None:
    x = gaussian()
    assert error(x, bits, p) < 1.004 * LEAST[bits, p]
    assert grid(bits, p).shape == (2 ** (bits * p), p)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_pairs_beat_single_numbers(bits: int) -> None:
    assert error(gaussian(), bits, 2) < 0.93 * error(gaussian(), bits, 1)


@each_kind
def test_each_point_is_the_mean_of_what_is_nearest_to_it(bits: int, p: int) -> None:
    x = gaussian().view(-1, p)
    index = torch.cat([torch.cdist(part, grid(bits, p)).argmin(1) for part in x.split(1 << 13)])
    counts = index.bincount(minlength=2 ** (bits * p)).clamp_min(1)
    means = torch.zeros_like(grid(bits, p)).index_add_(0, index, x) / counts[:, None]
    off = (means - grid(bits, p)).square().sum(1) * counts / len(x)
    assert off.sum() < 0.01 * LEAST[bits, p]  # a grid that is no fixed point of Lloyd's algorithm fails this


@each_kind
def test_nearest_is_nearest(bits: int, p: int) -> None:
    for spread, most in ((1, 1.0015), (4, 1.02)):  # the second goes far outside of the grid
        x = spread * gaussian(1 << 14)
        distance = torch.cdist(x.view(-1, 2), pairs(bits, p))
        found = distance.gather(1, nearest(x, bits, p).long()[:, None])[:, 0]
        assert found.square().sum() < most * distance.amin(1).square().sum()


@each_kind
@each("group", [8, 64, 256])
def test_fitted_scales_beat_the_root_mean_square(bits: int, p: int, group: int) -> None:
    x = torch.randn((1 << 16) // group, group) * torch.rand((1 << 16) // group, 1)
    codes, scale = fit(x, bits, p)
    fitted = pairs(bits, p)[codes.int()].flatten(-2) * scale.float()[:, None]
    deviation = x.square().mean(-1, keepdim=True).sqrt()
    plain = pairs(bits, p)[nearest(x / deviation, bits, p).int()].flatten(-2) * deviation
    assert (fitted - x).square().sum() < 0.995 * (plain - x).square().sum()


@each_kind
def test_zeros_are_kept_and_small_numbers_are_not_lost(bits: int, p: int) -> None:
    x = torch.zeros(3, 64)
    x[1] = gaussian(64)
    codes, scale = fit(x, bits, p)
    assert scale[0] == scale[2] == 0 and scale.dtype == torch.float32
    tiny = gaussian(1 << 12).view(-1, 64) * 1e-7
    codes, scale = fit(tiny, bits, p)
    assert scale.dtype == torch.float32, "float16 has two bits left down there"
    left = pairs(bits, p)[codes.int()].flatten(-2) * scale[:, None] - tiny
    assert left.square().mean() < 1.01 * LEAST[bits, p] * 1e-14
    assert fit(gaussian(128).view(2, 64), bits, p)[1].dtype == torch.float16


def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gaussian(1 << 12).view(4, -1, 64)
    whole = fit(x, 4, 2)
    monkeypatch.setattr(gaussian_grid, "PIECE", 300)
    for one, other in zip(whole, fit(x, 4, 2), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_packed_codes_come_back(bits: int) -> None:
    codes = torch.randint(4**bits, (5, 12), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (5, packed_width(24, bits)) and packed.dtype == torch.uint8
    assert torch.equal(unpack(packed, bits), codes)


@each("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@each_kind
def test_numbers_are_looked_up(bits: int, p: int, dtype: torch.dtype) -> None:
    codes, scale = torch.randint(4**bits, (6, 16), dtype=torch.uint8), torch.rand(6, 4).half()
    want = pairs(bits, p)[codes.long()].flatten(1) * scale.float().repeat_interleave(8, 1)
    got = numbers(pack(codes, bits), scale, pairs(bits, p), bits, dtype)
    assert got.dtype == dtype
    assert torch.allclose(got.float(), want, atol=0, rtol=4 * torch.finfo(dtype).eps)


def test_the_error_of_small_grids_follows_theory() -> None:
    """At high rates a plane grid gains the hexagon's 4 % over squares, and the better density, over a line grid."""
    gained = error(gaussian(), 4, 1) / error(gaussian(), 4, 2)
    assert 10 * math.log10(gained) > 0.55


def test_stored_grids_never_change() -> None:
    """Saved models hold indices into them: a better grid takes another name."""
    found = hashlib.sha256(b"".join(grid(bits, p).numpy().tobytes() for bits, p in KINDS)).hexdigest()
    assert found.startswith("c16b13c98b7aa57f")
