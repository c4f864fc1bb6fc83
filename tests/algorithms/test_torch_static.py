"""Ranges fixed by calibration: each observer's own, on every kind of model, with real samples and with made-up ones."""

import itertools

import pytest
import torch
from support.each import each
from support.timed import as_if
from support.tiny import build
from torch import nn

import gearshift as gs
from gearshift import zoo
from gearshift.algorithms.quantizers import sqnr, torch_static
from gearshift.core.errors import BadRecipe, GearshiftWarning
from gearshift.data import calibration_data
from gearshift.layers.static_int8 import StaticInt8Conv2d, StaticInt8Layer, StaticInt8Linear
from gearshift.measure import in_place
from gearshift.quant.formats.fixed_range import Fixed

OBSERVERS = torch_static.TorchStatic.params()["qobserver"].bound.values
SCHEMES = torch_static.TorchStatic.params()["qscheme"].bound.values
pytestmark = pytest.mark.filterwarnings("ignore:torch_static saves memory here")  # it depends on the machine


def optimized(model, data, **values):
    return gs.optimize(model, torch_static=values or True, data=data)


def layers_of(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, StaticInt8Layer)}


def figures_of(model):
    return gs.status(model).applied[0]["figures"]


class Vision(nn.Module):
    """A small classifier of images, whose second branch nothing reaches."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.two(self.one(x).relu()).mean((2, 3)))


class Projection(nn.Module):
    """One layer."""

    def __init__(self, inputs=32):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(inputs, 16)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize(("observer", "scheme"), itertools.product(OBSERVERS, SCHEMES))
def test_every_observer_and_scheme_keeps_a_language_model_near_and_comes_back(observer, scheme, tmp_path):
    tiny = build("llama")
    plain, data = tiny.run(), [tiny.call(steps=32, batch=4, seed=n) for n in range(3)]
    optimized(tiny.pipe, data, qobserver=observer, qscheme=scheme)
    assert sqnr(plain, tiny.run()) > 22 and len(layers_of(tiny.pipe)) == 14
    gs.save(tiny.pipe, tmp_path / "m")
    assert torch.equal(tiny.run(pipe=gs.load(tmp_path / "m")), tiny.run())


def test_a_pipeline_s_denoiser_stays_near():
    tiny = build("dit")
    plain = tiny.run(steps=4)
    data = [{"class_labels": [n], "num_inference_steps": 4, "output_type": "pt"} for n in (1, 4)]
    optimized(tiny.pipe, data, weight_bits="quint8")
    assert sqnr(plain, tiny.run(steps=4)) > 30 and not figures_of(tiny.pipe)["left"]


@each("scheme", SCHEMES)
@each("observer", OBSERVERS)
def test_signed_and_unsigned_codes_give_the_same_numbers(observer, scheme):
    def output(bits):
        tiny = build("llama")
        optimized(tiny.pipe, [tiny.call()], act_bits=bits, qobserver=observer, qscheme=scheme)
        return tiny.run()

    assert torch.equal(output("qint8"), output("quint8"))


def ends(fixed):
    return [float(fixed.step * (code - fixed.zero.float())) for code in (0, 255)]


def test_ranges_are_what_the_observers_say():
    first, second = torch.randn(64, 32), 3 * torch.randn(64, 32) + 1
    low, high = float(second.min()), float(second.max())

    def found(observer, scheme="per_tensor_affine"):
        return optimized(Projection(), [first, second], qobserver=observer, qscheme=scheme).layer.fixed

    assert ends(found("MinMaxObserver")) == pytest.approx([low, high], abs=0.02 * (high - low))
    symmetric = found("MinMaxObserver", "per_tensor_symmetric")
    assert symmetric.zero == 128 and ends(symmetric)[1] == pytest.approx(max(-low, high), rel=0.02)
    moving = 0.99 * float(first.max()) + 0.01 * high
    assert ends(found("MovingAverageMinMaxObserver"))[1] == pytest.approx(moving, rel=0.03)
    first, second = torch.randn(2, 16384, 32)
    second[0, 0] = 8  # one of half a million, whose error is worth less than a finer step for all
    assert ends(found("MinMaxObserver"))[1] == pytest.approx(8, rel=0.02)
    assert ends(found("HistogramObserver"))[1] < 7


def test_a_step_for_each_channel_helps_where_channels_differ():
    spread = torch.logspace(-1.5, 1.5, 32)
    data = [torch.randn(256, 32) * spread for _ in range(4)]
    x, plain = torch.randn(64, 32) * spread, Projection()
    plain.layer.weight.data /= spread
    plain.layer.bias.data.zero_()
    want = plain(x)

    def near(observer):
        model = Projection()
        model.load_state_dict(plain.state_dict())
        return sqnr(want, optimized(model, data, qobserver=observer)(x))

    assert near("PerChannelMinMaxObserver") > near("MinMaxObserver") + 6


def test_values_beyond_the_range_are_cut_off():
    model = optimized(Projection(), [torch.rand(64, 32)])
    assert torch.equal(model(torch.full((1, 32), 5.0)), model(torch.full((1, 32), 50.0)))


def test_a_vision_model_takes_tensors_and_convolutions_only_where_they_are_faster(monkeypatch):
    data = [torch.randn(2, 3, 16, 16) for _ in range(3)]
    monkeypatch.setattr(in_place, "timed_in_place", as_if(lambda layer: 0.5 if isinstance(layer, nn.Conv2d) else 2.0))
    slow = optimized(Vision(), data)
    assert type(slow.one) is nn.Conv2d and "at 0.50 times the speed" in figures_of(slow)["left"]["one"]
    monkeypatch.setattr(in_place, "timed_in_place", as_if(2.0))
    for observer in OBSERVERS:
        fast = optimized(Vision(), data, qobserver=observer)
        assert type(fast.one) is StaticInt8Conv2d and type(fast.head) is StaticInt8Linear
        assert type(fast.two) is nn.Conv2d, "there is no int8 convolution of groups"
        assert "no sample reached it" in figures_of(fast)["left"]["unused"] and type(fast.unused) is nn.Linear
        x = torch.randn(2, 3, 16, 16)
        assert sqnr(Vision()(x), fast(x)) > 22
        assert (fast.one.step.ndim == 1) == (observer == "PerChannelMinMaxObserver")


def test_sqnr_of_trained_weights():
    found = [m for m in zoo.load("text-to-image").unet.modules() if type(m) is nn.Linear]
    fixed = Fixed(torch.tensor(0.03), torch.tensor(128, dtype=torch.uint8))
    exact = [
        sqnr(m.weight, StaticInt8Linear.of(m, fixed, unsigned).weight) for m in found for unsigned in (False, True)
    ]
    assert len(found) > 50 and sum(exact) / len(exact) > 38 and min(exact) > 35


def test_a_language_model_reads_texts_with_a_tokenizer():
    def tokenizer(text, return_tensors, truncation, max_length):
        return {"input_ids": torch.tensor([[ord(c) % 128 for c in text][:max_length]])}

    texts, tiny, same = ["in the beginning", "and the earth was without form"], build("llama"), build("llama")
    gs.optimize(tiny.pipe, "torch_static", data=texts, tokenizer=tokenizer)
    optimized(same.pipe, [tokenizer(text, "pt", True, 64)["input_ids"][0] for text in texts])
    assert torch.equal(tiny.run(), same.run())
    with pytest.raises(BadRecipe, match="give a `tokenizer`"):
        optimized(build("llama").pipe, texts)


@pytest.mark.parametrize("given", [[], "a prompt", {"prompt": "a"}])
def test_data_has_to_be_a_list_of_samples(given):
    with pytest.raises(BadRecipe, match=r"data|as an example"):
        optimized(build("llama").pipe, given)


@each("name", ["llama", "marian", "whisper", "dit", "flux"])
def test_without_data_samples_are_made_up_and_that_is_said(name):
    tiny = build(name)
    plain, state = tiny.run(), torch.get_rng_state()
    with pytest.warns(GearshiftWarning, match="was given no `data`"):
        optimized(tiny.pipe, None)
    assert torch.equal(torch.get_rng_state(), state)
    assert sqnr(plain, tiny.run()) > 15 and "no sample reached it" not in str(figures_of(tiny.pipe)["left"])
    assert not any(m._forward_pre_hooks for p in gs.core.model.parts(tiny.pipe).values() for m in p.modules())


def test_what_cannot_be_called_needs_data():
    assert "needs `data`" in gs.problems(Projection(), "torch_static")[0]
    with pytest.raises(BadRecipe, match="needs `data`"):
        optimized(Projection(), None)
    assert gs.problems(Projection(), "torch_static", data=[torch.rand(1, 32)]) == []


def test_what_a_model_does_not_take_is_said_in_words(monkeypatch):
    monkeypatch.setattr(calibration_data, "_texts", lambda model, seed: {"nonsense": torch.ones(1)})
    with pytest.raises(BadRecipe, match="needs `data`: what was made up for LlamaForCausalLM"):
        optimized(build("llama").pipe, None)


def test_samples_are_gone_after_it():
    tiny = build("llama")
    data = [tiny.call()]
    context = torch_static.Context(gs.Recipe.of("torch_static", data=data), None)
    with calibration_data.samples(context, [1]):
        assert context.recipe.data == [1]
    assert context.recipe.data is data


def test_adapters_of_peft_train_on_it():
    peft = pytest.importorskip("peft")
    tiny = build("llama")
    optimized(tiny.pipe, [tiny.call()])
    tiny.pipe.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    tiny.pipe(**tiny.call()).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in tiny.pipe.named_parameters() if "lora_B" in n)
