"""Rotations: what the matrix is, that the fast way is the slow one, and that they undo themselves."""

from __future__ import annotations

import pytest
import torch
from support.each import each

from gearshift.quant.formats.hadamard import (
    block_size,
    matrix,
    random_signs,
    rotate,
    rotate_back,
    spread,
    transform,
)

SIZES = [1, 2, 8, 32, 64, 128, 512, 1024, 2048]


@each("size", SIZES)
def test_the_matrix_is_sylvesters(size: int) -> None:
    sylvester = torch.ones(1, 1)
    while len(sylvester) < size:
        sylvester = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), sylvester)
    assert torch.allclose(matrix(size), sylvester / size**0.5)


@each("size", SIZES)
def test_the_transform_is_the_product_with_it_block_by_block(size: int) -> None:
    x = torch.randn(2, 3, 3 * size)
    slow = (x.double().unflatten(-1, (3, size)) @ matrix(size, dtype=torch.float64)).flatten(-2)
    fast = transform(x, size)
    assert fast.shape == x.shape
    assert torch.allclose(fast.double(), slow, atol=1e-5)
    assert torch.allclose(transform(fast, size), x, atol=1e-5)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float16, 5e-3), (torch.bfloat16, 5e-2)])
def test_other_types(dtype: torch.dtype, most: float) -> None:
    x = torch.randn(4, 512)
    y = transform(x.to(dtype), 256)
    assert y.dtype == dtype
    assert (transform(y, 256).float() - x).abs().max() < most + 1e-6


@each(
    ("width", "most", "size"),
    [(4096, 1024, 1024), (192, 1024, 64), (768, 512, 256), (1152, 2048, 128), (24, 512, 8), (512, 700, 512)],
)
def test_the_largest_power_of_two_that_divides(width: int, most: int, size: int) -> None:
    assert block_size(width, most) == size


@pytest.mark.parametrize("width", [1, 6, 100, 1023])
def test_odd_widths_have_no_block(width: int) -> None:
    assert block_size(width, 1024) is None


def test_signs_are_those_of_the_seed_and_fair() -> None:
    signs = random_signs(4096, seed=3)
    assert torch.equal(signs, random_signs(4096, seed=3)) and not torch.equal(signs, random_signs(4096, seed=4))
    values = spread(signs, torch.float32)
    assert set(values.tolist()) == {1.0, -1.0}
    assert abs(values.mean()) < 0.06  # four standard deviations


def test_bits_are_read_from_the_lowest() -> None:
    assert spread(torch.tensor([0b00000101], dtype=torch.uint8), torch.int8).tolist() == [-1, 1, -1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("size", [8, 64, 256])
def test_products_stay_when_both_sides_are_rotated(size: int) -> None:
    x, weight, signs = torch.randn(5, 512), torch.randn(7, 512), random_signs(512, 0)
    rotated = rotate(x, signs, size) @ rotate(weight, signs, size).T
    assert torch.allclose(rotated, x @ weight.T, atol=1e-4)
    assert torch.allclose(rotate_back(rotate(x, signs, size), signs, size), x, atol=1e-5)


def test_an_outlier_is_spread_over_its_block() -> None:
    x = torch.zeros(1, 1024)
    x[0, 700] = 32.0
    rotated = rotate(x, random_signs(1024, 0), 256)
    assert torch.allclose(rotated[0, 512:768].abs(), torch.full((256,), 2.0))
    assert not rotated[0, :512].any() and not rotated[0, 768:].any()


@pytest.mark.parametrize("size", [64, 256])
def test_gradients_are_rotated_back(size: int) -> None:
    x = torch.randn(3, 512, requires_grad=True)
    ahead, signs = torch.randn(3, 512), random_signs(512, 0)
    with torch.inference_mode():
        rotate(x, signs, size)  # whatever is kept of this must serve gradients as well
    (rotate(x, signs, size) * ahead).sum().backward()
    assert torch.allclose(x.grad, rotate_back(ahead, signs, size), atol=1e-5)
