"""What is written to a quantized layer's weight arrives, in whichever way it is written, and undoing it is exact."""

import copy
import io
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.each import each
from support.quantized import MAKERS
from torch import nn
from transformers.pytorch_utils import Conv1D

from gearshift.algorithms.quantizers import sqnr
from gearshift.core.errors import BadValue, GearshiftWarning
from gearshift.layers.int8 import Int8Conv2d, Int8Linear
from gearshift.layers.lazy_weight import LazyWeight
from gearshift.layers.linear_view import as_linear, in_place_of
from gearshift.layers.weight_only import from_float

pytestmark = pytest.mark.filterwarnings("ignore::gearshift.core.errors.GearshiftWarning")


def through_data(layer, change):
    layer.weight.data += change


def by_data(layer, change):
    layer.weight.data = layer.weight.data.clone() + change


def by_parameter(layer, change):
    layer.weight = nn.Parameter(layer.weight + change)


@torch.no_grad()
def in_place(layer, change):
    layer.weight.add_(change)


@torch.no_grad()
def copied(layer, change):
    layer.weight.copy_(layer.weight + change)


def by_state(layer, change):
    layer.load_state_dict({"weight": layer.weight + change, "bias": layer.bias.detach()})


def by_index(layer, change):
    layer.weight.data[:] = layer.weight + change


def through_views(layer, change):
    layer.weight.data.transpose(0, 1)[:] += change.transpose(0, 1)


def by_out(layer, change):
    torch.add(layer.weight, change, out=layer.weight.data)


def by_optimizer(layer, change):
    weight = layer.weight
    weight.grad = -change
    torch.optim.SGD([weight], lr=1.0).step()


WRITES = [through_data, by_data, by_parameter, in_place, copied, by_state, by_index, through_views]
WRITES += [by_out, by_optimizer]


def bits(layer):
    return [buffer.clone() for buffer in layer.buffers()]


def same(one, other):
    def raw(tensor):
        return tensor.flatten().view(torch.uint8)

    return all(torch.equal(raw(a), raw(b)) for a, b in zip(one, other, strict=True))


@each("kind", MAKERS)
def test_every_write_arrives_and_undoing_it_brings_the_bits_back(kind):
    real = nn.Linear(128, 64)
    made, x = MAKERS[kind](real), torch.randn(6, 128)
    floor = sqnr(real.weight, made.weight) - 5
    change = 0.05 * torch.randn(64, 128)
    first, want = bits(made), made.weight + change
    outputs = sqnr(x @ made.weight.T + real.bias, made(x)) - 3
    for write in WRITES:
        layer = copy.deepcopy(made)
        write(layer, change)
        assert sqnr(want, layer.weight) > floor, write.__name__
        assert sqnr(x @ layer.weight.T + real.bias, layer(x)) > outputs, write.__name__
        layer.weight.data -= change
        assert same(bits(layer), first), write.__name__


def test_several_changes_are_undone_in_any_order():
    layer = Int8Linear.from_float(nn.Linear(128, 64))
    first, (a, b) = bits(layer), 0.05 * torch.randn(2, 64, 128)
    for change in (a, b, -a, -b):
        layer.weight.data += change
    assert same(bits(layer), first)
    layer.weight.data += a
    assert not same(bits(layer), first)


@each("write", WRITES)
def test_a_convolution_and_a_layer_that_is_written_the_other_way_round(write):
    conv, turned = nn.Conv2d(8, 16, 3), Conv1D(48, 64)
    nn.init.normal_(turned.bias)
    twins = {conv: Int8Conv2d.from_float(conv), turned: in_place_of(turned, from_float(as_linear(turned), 8))}
    for real, twin in twins.items():
        change = real.weight.detach().std() * torch.randn(real.weight.shape)
        first = bits(twin)
        write(twin, change)
        real.weight.data += change
        assert isinstance(twin, type(real)) and sqnr(real.weight, twin.weight) > 30
        write(twin, -change)
        assert same(bits(twin), first)


def test_what_cannot_be_rounded_is_refused_and_changes_nothing():
    layer = Int8Linear.from_float(nn.Linear(16, 8))
    first = bits(layer)
    with pytest.raises(BadValue, match=r"\(8, 16\) was given one of \(3, 3\)"):
        layer.weight = nn.Parameter(torch.zeros(3, 3))
    with pytest.raises(BadValue, match="infinities or NaN"):
        layer.weight.data.mul_(float("inf"))
    with pytest.raises(BadValue, match="cannot be trained"):
        layer.weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match="infinities or NaN"):
        layer.load_state_dict({"weight": torch.full((8, 16), torch.nan), "bias": layer.bias})
    with pytest.raises(RuntimeError, match="swap"):
        torch.utils.swap_tensors(layer.weight, nn.Parameter(torch.zeros(8, 16)))
    with pytest.raises(TypeError):
        layer.weight = None
    assert same(bits(layer), first)


def test_initializers_of_several_steps_are_rounded_once_from_their_result():
    layer = Int8Linear.from_float(nn.Linear(128, 64))
    for init in (nn.init.trunc_normal_, nn.init.orthogonal_, nn.init.xavier_uniform_):
        torch.manual_seed(1)
        init(layer.weight)
        torch.manual_seed(1)
        assert sqnr(init(torch.empty(64, 128)), layer.weight) > 35


@pytest.mark.parametrize("turned", [False, True])
def test_a_weight_that_was_set_aside_for_a_call_comes_back(turned):
    real = Conv1D(48, 64) if turned else nn.Linear(64, 48)
    layer, x = in_place_of(real, Int8Linear.from_float(as_linear(real))), torch.randn(3, 64)
    first, other = bits(layer), torch.randn(real.weight.shape)
    want = layer(x)
    given = torch.func.functional_call(layer, {"weight": other}, x)
    assert sqnr(x @ (other if turned else other.T) + real.bias, given) > 25
    assert same(bits(layer), first) and torch.equal(layer(x), want)
    layer.weight += 1
    assert not same(bits(layer), first)
    with pytest.raises(ValueError, match="read-only"):
        layer.weight.numpy()[0] = 0


def test_writes_that_follow_each_other_are_told_once(monkeypatch):
    monkeypatch.setattr("gearshift.layers.base._newest", -1e9)
    layer = Int8Linear.from_float(nn.Linear(16, 8))
    with pytest.warns(GearshiftWarning, match="rounded again") as told:
        layer.weight.data += 1
        layer.weight.data += 1
    assert len(told) == 1


def test_a_state_dict_shows_the_weight_and_loads_with_and_without_it(tmp_path):
    layer = Int8Linear.from_float(nn.Linear(16, 8))
    state = layer.state_dict()
    assert isinstance(state["weight"], LazyWeight) and state["weight"].shape == (8, 16)
    fresh, real = Int8Linear.from_float(nn.Linear(16, 8)), nn.Linear(16, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its own numbers are loaded: nothing is rounded again
        fresh.load_state_dict(state)
        fresh.load_state_dict({name: value for name, value in state.items() if name != "weight"})
    assert same(bits(fresh), bits(layer))
    real.load_state_dict({name: state[name] for name in ("weight", "bias")})
    assert torch.equal(real.weight, layer.weight * 1)
    save_file(state, tmp_path / "state.safetensors")
    torch.save(state, buffer := io.BytesIO())
    buffer.seek(0)
    for read in (load_file(tmp_path / "state.safetensors"), torch.load(buffer)):
        assert torch.equal(read["weight"], real.weight) and torch.equal(read["qweight"], layer.qweight)
