"""The nested store: exact refinements, sizes, and how good each width is."""

import pytest
import torch
from support.each import each

from gearshift import zoo
from gearshift.quant.formats.int8 import dequantize
from gearshift.quant.formats.nested import GROUP, MOST, nest

SHAPES = [(8, 64), (5, 130), (3, 7), (4, 6, 3, 3), (2, 1)]


def sqnr(exact, rounded):
    return float(10 * torch.log10(exact.square().sum() / (exact - rounded).square().sum()))


@pytest.fixture(scope="module")
def trained():
    """Linear weights of the small DiT."""
    blocks = zoo.load("dit").transformer.transformer_blocks[:2]
    return [m.weight.detach() for m in blocks.modules() if type(m) is torch.nn.Linear]


@each("shape", SHAPES)
def test_each_width_refines_the_one_before(shape):
    weight = torch.randn(shape)
    store = nest(weight)
    four, eight = store.four_bits().values.int(), store.eight_bits().values.int()
    assert four.shape == eight.shape == shape
    assert (eight - four).min() >= -8 and (eight - four).max() <= 7
    step = store.scale.reshape(-1, *[1] * (weight.ndim - 1))
    assert ((weight / step - eight).abs() <= 0.503).all(), "8 bits are the weight rounded to nearest"
    assert ((store.sixteen_bits() - weight).abs() <= step / 256).all()
    assert store.multiplier.min() >= 1 and store.multiplier.max() <= MOST


@pytest.mark.parametrize("shape", [(2, GROUP), (3, 2 * GROUP)])
def test_outliers_and_zeros(shape):
    weight = torch.randn(shape) / 100
    weight[0, 3] = 50.0
    weight[1] = 0.0
    store = nest(weight)
    assert torch.equal(store.eight_bits().values[1], torch.zeros(shape[1], dtype=torch.int8))
    assert sqnr(weight[:1], dequantize(store.four_bits())[:1]) > 24  # 112 of 119 is as far as 4 bits of 16 reach
    one_sided = torch.rand(4, GROUP) + 1.0
    assert sqnr(one_sided, dequantize(nest(one_sided).four_bits())) > 35


def test_sizes(trained):
    weights = sum(w.numel() for w in trained)
    stores = [nest(w) for w in trained]
    assert sum(s.nbytes for s in stores) <= 2.05 * weights
    for store in stores:
        store.rest = None
    assert sum(s.nbytes for s in stores) <= 1.05 * weights
    for store in stores:
        store.fine = None
    assert sum(s.nbytes for s in stores) <= 0.55 * weights
    with pytest.raises(ValueError, match="was dropped"):
        stores[0].eight_bits()


def test_widths_on_trained_weights(trained):
    for weight in trained:
        store = nest(weight)
        assert sqnr(weight, dequantize(store.eight_bits())) >= 38
        assert sqnr(weight, store.sixteen_bits()) >= 70


def best_of_its_size(weight):
    """4 bits, a float16 scale and a zero point for each group, the range searched for least error."""
    groups = torch.nn.functional.pad(weight, (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    least = torch.full(low.shape, torch.inf)
    best = torch.zeros_like(groups)
    for share in torch.linspace(0.6, 1.05, 46):
        scale = ((high - low) * share / 15).half().float().clamp_min(1e-9)
        zero = (7.5 - (high + low) / 2 / scale).round().clamp(0, 15)
        rounded = ((groups / scale + zero).round().clamp(0, 15) - zero) * scale
        error = (groups - rounded).square().sum(-1, keepdim=True)
        best = torch.where(error < least, rounded, best)
        least = torch.minimum(error, least)
    return best.flatten(1)[:, : weight.shape[1]]


def test_four_bits_come_near_a_store_of_four_bits_alone(trained):
    for weight in trained:
        ours, theirs = sqnr(weight, dequantize(nest(weight).four_bits())), sqnr(weight, best_of_its_size(weight))
        assert ours > theirs - 1.0


@each("shape", SHAPES)
def test_a_nested_weight_nests_to_itself(shape):
    store = nest(torch.randn(shape))
    again = nest(store.sixteen_bits())
    for name in ("scale", "multiplier", "offset", "coarse", "fine", "rest"):
        assert torch.equal(getattr(again, name), getattr(store, name)), name


def test_planes_move_together():
    store = nest(torch.randn(4, 64))
    moved = store.to("meta")
    assert moved.coarse.is_meta and moved.scale.is_meta and moved.nbytes == store.nbytes
