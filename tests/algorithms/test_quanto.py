"""optimum-quanto's formats: the library's own numbers, plain tensors, calibrated inputs that come back, no build."""

import copy
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.each import each
from support.tiny import build
from torch import nn

import gearshift as gs
from gearshift import zoo
from gearshift.algorithms.quantizers import quanto as algorithm
from gearshift.algorithms.quantizers import sqnr
from gearshift.core.errors import BadRecipe, GearshiftWarning

library = pytest.importorskip("optimum.quanto")
layers = pytest.importorskip("gearshift.layers.vendors.quanto")
KINDS = ("qint2", "qint4", "qint8", "qfloat8")
CALIBRATED = ("qint8", "qfloat8")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_calibrated = pytest.mark.parametrize("kind", CALIBRATED)


def linear(inputs=64, outputs=32, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, dtype=dtype).requires_grad_(False)


def optimized(model, data=None, **values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)  # that it is slower on this machine
        return gs.optimize(model, quanto=values or True, data=data)


@pytest.fixture(scope="module")
def trained():
    """Layers of a trained denoiser."""
    return [m for m in zoo.load("text-to-image").unet.modules() if type(m) is nn.Linear]


@each_kind
@pytest.mark.parametrize("inputs", [64, 256, 200, 96], ids=lambda n: f"{n} inputs")
def test_weights_are_the_library_s_own(kind, inputs, monkeypatch):
    theirs = library.QLinear.from_module(linear(inputs, 30), weights=getattr(library, kind))
    unpack = lambda self: layers.unpacked(self._data, self._bits)[: self.shape[0]]  # noqa: E731
    monkeypatch.setattr("optimum.quanto.tensor.packed.PackedTensor.unpack", unpack)  # the one that needs no C++
    ours = layers.QuantoLinear.from_float(linear(inputs, 30), kind)
    torch.testing.assert_close(ours.weight * 1, theirs.qweight.dequantize(), atol=1e-7, rtol=0)


@each_calibrated
def test_products_are_the_library_s_own(kind):
    x, qtype = torch.randn(6, 64), getattr(library, kind)
    theirs = library.QLinear.from_module(linear(), weights=qtype, activations=qtype)
    theirs.disable_output_quantization()
    theirs.input_scale = layers.step_of(x, kind)
    theirs.freeze()
    ours = layers.QuantoLinear.from_float(linear(), kind, layers.step_of(x, kind))
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=0)
    plain = library.QLinear.from_module(linear(), weights=qtype)
    plain.freeze()
    torch.testing.assert_close(layers.QuantoLinear.from_float(linear(), kind)(x), plain(x), atol=1e-6, rtol=0)


@each("bits", [2, 4])
@each("rows", [1, 5, 8, 9])
def test_unpacking_turns_packing_back(bits, rows):
    values = torch.randint(0, 2**bits, (rows, 7), dtype=torch.uint8)
    packed = library.tensor.packed.pack_weights(values, bits)
    assert torch.equal(layers.unpacked(packed, bits)[:rows], values)


@each_kind
@pytest.mark.parametrize("calibrated", [False, True])
def test_state_is_plain_tensors_that_fit_an_empty_layer_bit_for_bit(kind, calibrated, tmp_path):
    x = torch.randn(2, 3, 256)
    step = layers.step_of(x, kind) if calibrated and kind in CALIBRATED else None
    twin = layers.QuantoLinear.from_float(linear(256), kind, step)
    save_file(twin.state_dict(), tmp_path / "layer.safetensors")
    quantizer = algorithm.Quanto(weight_bits=kind)
    empty = quantizer.empty_layer(linear(256).to("meta"), quantizer.format(twin))
    empty.load_state_dict(load_file(tmp_path / "layer.safetensors"), assign=True)
    assert torch.equal(empty(x), twin(x)) and torch.equal(copy.deepcopy(empty)(x), twin(x))


@each_kind
@each("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_answers_in_the_type_it_is_asked_in_and_keeps_its_state(kind, dtype):
    twin, x = layers.QuantoLinear.from_float(linear(), kind), torch.randn(4, 64)
    before, want = {n: b.clone() for n, b in twin.named_buffers()}, twin(x)
    cast = copy.deepcopy(twin).to(dtype)
    assert cast(x.to(dtype)).dtype == cast.weight.dtype == dtype
    torch.testing.assert_close(cast(x.to(dtype)).float(), want, atol=0.05, rtol=0)
    assert all(
        before[n].dtype == b.dtype and torch.equal(before[n].float(), b.float()) for n, b in cast.named_buffers()
    )


@each_kind
@each("calibrated", [False, True])
def test_gradients_are_those_of_the_weight_it_stands_for(kind, calibrated):
    x = torch.randn(2, 3, 64, requires_grad=True)
    step = layers.step_of(x.detach(), kind) if calibrated and kind in CALIBRATED else None
    twin = layers.QuantoLinear.from_float(linear(), kind, step)
    y = twin(x)
    ahead = torch.randn_like(y)
    y.backward(ahead)
    torch.testing.assert_close(x.grad, ahead @ (twin.weight * 1))
    with torch.no_grad():
        assert torch.equal(twin(x), y)


@each_kind
def test_rows_of_zeros_stay_zeros(kind):
    exact = linear(256)
    exact.weight[3] = 0
    twin = layers.QuantoLinear.from_float(exact, kind)
    assert not (twin.weight * 1)[3].any() and twin(torch.randn(2, 256)).isfinite().all()


@pytest.mark.parametrize(("kind", "floor"), [("qint8", 38), ("qfloat8", 25), ("qint4", 17), ("qint2", 1)])
def test_sqnr_of_trained_weights(trained, kind, floor):
    found = [sqnr(layer.weight, layers.QuantoLinear.from_float(layer, kind).weight) for layer in trained]
    assert len(found) > 50 and min(found) > floor


@pytest.mark.parametrize(("name", "kind"), [("dit", "qint8"), *(("llama", kind) for kind in KINDS)])
def test_models_become_smaller_and_come_back_bit_for_bit(name, kind, tmp_path):
    tiny = build(name)
    plain, sample = tiny.run(), tiny.call() if name == "llama" else {**tiny.parts.call(1), "num_inference_steps": 6}
    optimized(tiny.pipe, [sample], weight_bits=kind)
    figures = gs.status(tiny.pipe).applied[0]["figures"]
    assert figures["size_after"] < figures["size_before"] and not figures["left"]
    found = [m for m in gs.core.model.parts(tiny.pipe).values() for m in m.modules() if type(m) is layers.QuantoLinear]
    assert all((m.input_scale is not None) == (kind in CALIBRATED) for m in found)
    assert sqnr(plain, tiny.run()) > {"qint2": -3, "qint4": 10, "qfloat8": 15, "qint8": 25}[kind]
    gs.save(tiny.pipe, tmp_path / "m")
    assert torch.equal(tiny.run(pipe=gs.load(tmp_path / "m")), tiny.run())


def test_nothing_was_compiled():
    optimized(build("llama").pipe, weight_bits="qint4").forward(torch.ones(1, 4, dtype=torch.long))
    assert library.library.extensions.cpp.ext._lib is None


@each_calibrated
def test_ranges_hold_all_that_the_samples_show(kind):
    tiny = build("llama")
    calls, seen = [tiny.call(steps=9, seed=n) for n in range(3)], []
    layer = tiny.pipe.model.layers[0].mlp.down_proj
    handle = layer.register_forward_pre_hook(lambda m, args: seen.append(args[0].abs().amax()))
    for call in calls:
        tiny.pipe(**call)
    handle.remove()
    optimized(tiny.pipe, calls, weight_bits=kind)
    peak = getattr(library, kind).qmax
    assert tiny.pipe.model.layers[0].mlp.down_proj.input_scale * peak == pytest.approx(float(max(seen)), rel=1e-5)


def test_without_data_or_without_effect_weights_alone_are_rounded_and_that_is_noted():
    for values, words in (({}, "No `data`"), ({"weight_bits": "qint4"}, "no effect on qint4")):
        tiny = build("llama")
        optimized(tiny.pipe, [tiny.call()] if values else None, **values)
        assert words in " ".join(gs.status(tiny.pipe).applied[0]["notes"])
        assert tiny.pipe.model.layers[0].mlp.down_proj.input_scale is None
    tiny = build("llama")
    optimized(tiny.pipe, [tiny.call()], calibrate=False)
    assert tiny.pipe.model.layers[0].mlp.down_proj.input_scale is None


def test_texts_need_a_tokenizer():
    with pytest.raises(BadRecipe, match="give a `tokenizer`"):
        gs.optimize(build("llama").pipe, "quanto", data=["in the beginning"])


@each_kind
def test_adapters_of_peft_train_on_it(kind):
    peft = pytest.importorskip("peft")
    tiny = build("llama")
    optimized(tiny.pipe, [tiny.call()], weight_bits=kind)
    tiny.pipe.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    tiny.pipe(**tiny.call()).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in tiny.pipe.named_parameters() if "lora_B" in n)


@each_kind
def test_it_is_traced_whole(kind):
    x = torch.randn(4, 64)
    step = layers.step_of(x, kind) if kind in CALIBRATED else None
    net = nn.Sequential(layers.QuantoLinear.from_float(linear(), kind, step), nn.SiLU())
    with torch.no_grad():
        assert torch.equal(torch.compile(net, fullgraph=True, backend="aot_eager")(x), net(x))
        assert torch.equal(torch.jit.trace(net, (x,))(x), net(x))
