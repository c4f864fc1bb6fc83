"""Fidelity measures agree with values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from support.each import each

from gearshift.core.errors import BadValue
from gearshift.evaluate.metrics import psnr, psnr_each, sqnr, ssim, ssim_each, to_tensor


@pytest.fixture
def images():
    return torch.rand(3, 3, 24, 32, generator=torch.Generator().manual_seed(0))


def noise(like, size):
    return size * torch.randn(like.shape, generator=torch.Generator().manual_seed(1))


def test_psnr_of_a_constant_offset_is_exact():
    a = torch.zeros(2, 3, 8, 8)
    assert psnr(a, a + 0.1) == pytest.approx(20.0, abs=1e-5)
    assert psnr(a, a + 0.1, peak=2.0) == pytest.approx(20 + 20 * math.log10(2), abs=1e-5)


def test_psnr_of_gaussian_noise_is_its_variance(images):
    assert psnr(images, images + noise(images, 0.05)) == pytest.approx(-20 * math.log10(0.05), abs=0.2)


def test_psnr_of_equal_images_is_infinite(images):
    assert psnr(images, images.clone()) == math.inf


def test_psnr_is_the_mean_of_each_images_own():
    a, b = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    b[0], b[1] = 0.1, 0.01
    assert psnr_each(a, b).tolist() == pytest.approx([20, 40], abs=1e-4)
    assert psnr(a, b) == pytest.approx(30, abs=1e-4)


def test_the_same_images_in_either_range_measure_the_same(images):
    other = (images + noise(images, 0.05)).clamp(0, 1)
    for measure in (psnr, ssim):
        assert measure(images, other) == pytest.approx(measure(images * 2 - 1, other * 2 - 1, peak=2.0), abs=1e-4)


def test_ssim_of_equal_images_is_one_and_order_does_not_matter(images):
    other = (images + noise(images, 0.1)).clamp(0, 1)
    assert ssim(images, images) == pytest.approx(1, abs=1e-9)
    assert ssim(images, other) == pytest.approx(ssim(other, images), abs=1e-12)
    assert ssim_each(images, other).shape == (3,)


def test_ssim_falls_as_noise_grows(images):
    readings = [ssim(images, images + noise(images, size)) for size in (0.0, 0.02, 0.05, 0.1)]
    assert readings == sorted(readings, reverse=True) and readings[0] > readings[1] > readings[-1]


@each("side", [1, 2, 7, 10, 11, 16])
def test_ssim_of_constant_images_compares_brightness_only(side):
    a, b = torch.full((1, 3, side, side), 0.25), torch.full((1, 3, side, side), 0.75)
    by_hand = (2 * 0.25 * 0.75 + 0.01**2) / (0.25**2 + 0.75**2 + 0.01**2)
    assert ssim(a, b) == pytest.approx(by_hand, abs=1e-9)


def test_ssim_agrees_with_the_definition_in_one_window(images):
    a, b = images[:1, :1, :11, :11].double(), images[1:2, :1, :11, :11].double()
    line = torch.exp(-((torch.arange(11.0, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    weights = torch.outer(line, line) / line.sum() ** 2
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    spread_a, spread_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
    together = (weights * (a - mean_a) * (b - mean_b)).sum()
    top = (2 * mean_a * mean_b + 0.01**2) * (2 * together + 0.03**2)
    bottom = (mean_a**2 + mean_b**2 + 0.01**2) * (spread_a + spread_b + 0.03**2)
    assert ssim(a, b) == pytest.approx(float(top / bottom), abs=1e-9)


def test_sqnr_counts_signal_over_noise():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert sqnr(x, x * 1.1) == pytest.approx(20, abs=1e-4)
    assert sqnr(x, x) == math.inf
    assert sqnr(torch.zeros(3), torch.ones(3)) == -math.inf
    assert sqnr(x.half(), x) > 60


def test_pictures_of_either_kind_become_one_tensor():
    pillow = pytest.importorskip("PIL.Image")
    array = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    both = to_tensor([array, pillow.fromarray(array)])
    assert both.shape == (2, 3, 4, 6) and both.dtype == torch.float32
    assert torch.equal(both[0], both[1])
    assert both[0, 2, 3, 5] == pytest.approx(71 / 255)


@each(
    "call, said",
    [
        (lambda: psnr(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5)), "one shape"),
        (lambda: psnr(torch.tensor([[-1.0, 1.0]]), torch.tensor([[-1.0, 1.0]])), "peak=2.0"),
        (lambda: psnr(torch.zeros(1, 4), torch.zeros(1, 4), peak=255), "1.0"),
        (lambda: psnr(torch.zeros(1, 4, dtype=torch.uint8), torch.zeros(1, 4)), "255"),
        (lambda: ssim(torch.zeros(1, 3, 2, 4, 4), torch.zeros(1, 3, 2, 4, 4)), "N, C, H, W"),
        (lambda: to_tensor([]), "no images"),
        (lambda: to_tensor([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)]), "one size"),
        (lambda: to_tensor([np.zeros((4, 4, 3), np.float32)]), "uint8"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(call, said):
    with pytest.raises(BadValue, match=said):
        call()
