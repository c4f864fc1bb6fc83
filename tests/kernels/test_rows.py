"""Rounding activations and scaling products back: our own kernels say what torch says."""

import pytest
import torch
from support.each import each

from gearshift.kernels.cpu import rows as row_kernels


@pytest.fixture
def by_torch(monkeypatch):
    """The same calls without our own kernels; skips where there are none to compare with."""
    if row_kernels.kernels() is None:
        pytest.skip("no C++ compiler")

    def run(call, *args):
        with monkeypatch.context() as patch:
            patch.setattr(row_kernels, "kernels", lambda: None)
            return call(*args)

    return run


@each("levels", [127, 255])
@each("shape", [(1, 1), (3, 15), (5, 16), (64, 83), (1030, 130)])
def test_rows_become_codes(by_torch, shape, levels):
    rows = 3 * torch.randn(shape) + 1
    ours, theirs = row_kernels.to_codes(rows, levels), by_torch(row_kernels.to_codes, rows, levels)
    assert torch.equal(ours.low, theirs.low)
    torch.testing.assert_close(ours.step, theirs.step)
    assert int(ours.values.max()) <= levels
    off = (rows - (ours.low + ours.step * ours.values)).abs()
    assert (off <= 0.501 * ours.step + 1e-6 * rows.abs()).all()


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_offsets", [False, True])
def test_products_become_floats(by_torch, with_bias, with_offsets):
    codes = row_kernels.to_codes(torch.randn(300, 40), 255)
    y, sums = torch.randn(300, 130), torch.randn(130)
    bias = torch.randn(130) if with_bias else None
    more = (torch.randn(130), torch.randn(300, 1)) if with_offsets else (None, None)
    theirs = by_torch(row_kernels.from_codes, y.clone(), codes, sums, bias, *more)
    torch.testing.assert_close(row_kernels.from_codes(y, codes, sums, bias, *more), theirs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_image_becomes_codes_in_its_layout(by_torch, layout):
    image = torch.randn(3, 24, 33, 33).to(memory_format=layout)
    low, high = row_kernels.ends_of(image)
    assert (low, high) == by_torch(row_kernels.ends_of, image) == (float(image.min()), float(image.max()))
    step, zero = (high - low) / 254, round(-low / ((high - low) / 254))
    ours = row_kernels.codes_in_one_range(image, step, zero)
    theirs = by_torch(row_kernels.codes_in_one_range, image, step, zero)
    assert ours.is_contiguous(memory_format=layout)
    assert (ours.int() - theirs.int()).abs().max() <= 1 and (ours != theirs).float().mean() < 1e-3


def test_what_is_no_number_is_not_hidden():
    rows = torch.randn(2, 70)
    rows[1, 40] = torch.nan
    codes = row_kernels.to_codes(rows, 255)
    y = row_kernels.from_codes(torch.zeros(2, 20), codes, torch.ones(20), None)
    assert y[0].isfinite().all() and y[1].isnan().all()
    assert all(end != end for end in row_kernels.ends_of(rows))


def test_the_number_of_threads_does_not_matter():
    rows, before = torch.randn(600, 130), torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        codes = row_kernels.to_codes(rows, 255)
        found.append((*codes, row_kernels.from_codes(rows.clone(), codes, rows[0], rows[1])))
    torch.set_num_threads(before)
    assert all(map(torch.equal, *found))
