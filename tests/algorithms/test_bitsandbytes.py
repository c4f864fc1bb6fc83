"""bitsandbytes layers: as exact as the library's own, saved as plain tensors, outliers, offloading."""

import copy
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.each import each
from support.timed import as_if
from support.tiny import build
from torch import nn

import gearshift as gs
from gearshift import zoo
from gearshift.algorithms.quantizers import llm_int8, sqnr
from gearshift.core.errors import GearshiftWarning
from gearshift.core.model import size_bytes

bnb = pytest.importorskip("bitsandbytes")
layers = pytest.importorskip("gearshift.layers.vendors.bitsandbytes")
FORMATS = {
    "int8": {},
    "fp4": {"weight_bits": 4},
    "nf4": {"weight_bits": 4, "quant_type": "nf4"},
    "nf4-double": {"weight_bits": 4, "quant_type": "nf4", "double_quant": True},
}
each_format = pytest.mark.parametrize("format", FORMATS)


def made(format, linear):
    values = {"quant_type": "fp4", "double_quant": False} | FORMATS[format]
    if not values.pop("weight_bits", None):
        return layers.LLMInt8Linear.from_float(linear)
    return layers.FourBitLinear.from_float(linear, **values)


def linear(inputs=64, outputs=32, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, dtype=dtype).requires_grad_(False)


def optimized(model, name, **values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)  # that it is slower on this machine
        return gs.optimize(model, {name: values})


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["fp4", "nf4"])
def test_four_bits_equal_the_library_s_own_layer(kind, double):
    ours, x = layers.FourBitLinear.from_float(linear(), kind, double), torch.randn(5, 64)
    theirs = bnb.nn.Linear4bit(64, 32, quant_type=kind, compress_statistics=double)
    theirs.load_state_dict(linear().state_dict())
    theirs.support_avx512bf16_for_cpu = False  # with which it computes in bfloat16
    assert torch.allclose(ours(x), theirs.to("cpu").eval()(x), atol=1e-5)


@each("inputs", [32, 96, 160])
@each("kind", ["fp4", "nf4"])
def test_rows_may_end_within_a_block(kind, inputs):
    twin = layers.FourBitLinear.from_float(linear(inputs), kind, False)
    values = twin.dequantized(torch.float32).reshape(-1, 64) / twin.absmax[:, None]
    assert len(values.mul(1000).round().unique()) <= 16


def test_eight_bits_are_as_near_as_the_library_s_own_layer():
    exact, x = linear(256, 128), torch.randn(64, 256)
    x[::7, 3] = 20
    theirs = bnb.nn.Linear8bitLt(256, 128, has_fp16_weights=False, threshold=layers.OUTLIERS)
    theirs.load_state_dict(exact.state_dict())
    with torch.no_grad():
        error = (theirs.to("cpu").eval()(x) - exact(x)).norm()
        assert (layers.LLMInt8Linear.from_float(exact)(x) - exact(x)).norm() < 1.01 * error


def test_outliers_are_not_rounded():
    exact, x = linear(), torch.randn(16, 64).clamp(-2, 2)
    twin = layers.LLMInt8Linear.from_float(exact)
    as_floats = nn.functional.linear(x, twin.weight * 1, exact.bias)
    plain = (twin(x) - as_floats).norm()
    x[:, 5] = 1e4
    as_floats = nn.functional.linear(x, twin.weight * 1, exact.bias)
    assert (twin(x) - as_floats).norm() < 1.5 * plain + 1e-6 * as_floats.norm()


@each_format
def test_state_is_plain_tensors_that_fit_an_empty_layer_bit_for_bit(format, tmp_path):
    twin, x = made(format, linear()), torch.randn(2, 3, 64)
    save_file(twin.state_dict(), tmp_path / "layer.safetensors")
    algorithm = llm_int8.LlmInt8(**FORMATS[format])
    empty = algorithm.empty_layer(linear().to("meta"), algorithm.format(twin))
    empty.load_state_dict(load_file(tmp_path / "layer.safetensors"), assign=True)
    assert torch.equal(empty(x), twin(x)) and torch.equal(copy.deepcopy(empty)(x), twin(x))
    assert type(empty) is type(twin) and type(empty) is not nn.Linear


@each_format
@each("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_answers_in_the_type_it_is_asked_in_and_keeps_its_state(format, dtype):
    twin, x = made(format, linear()), torch.randn(4, 64)
    before, want = {n: b.clone() for n, b in twin.named_buffers()}, twin(x)
    cast = copy.deepcopy(twin).to(dtype)
    assert cast(x.to(dtype)).dtype == cast.weight.dtype == dtype
    torch.testing.assert_close(cast(x.to(dtype)).float(), want, atol=0.05, rtol=0)
    assert all(torch.equal(before[n], b) and before[n].dtype == b.dtype for n, b in cast.named_buffers())


@each_format
@each("lead", [(), (4,), (2, 3), (0,)])
def test_gradients_are_those_of_the_weight_it_stands_for(format, lead):
    twin = made(format, linear())
    twin.bias.requires_grad_()
    x = torch.randn(*lead, 64, requires_grad=True)
    y = twin(x)
    ahead = torch.randn_like(y)
    y.backward(ahead)
    torch.testing.assert_close(x.grad, ahead @ (twin.weight * 1))
    torch.testing.assert_close(twin.bias.grad, ahead.reshape(-1, 32).sum(0))
    with torch.no_grad():
        assert torch.equal(twin(x), y)


def test_an_input_is_left_as_it_was():
    x = torch.randn(4, 64).sigmoid_().requires_grad_()
    hidden = x.sigmoid() * 10  # outliers, and a tensor that autograd needs again
    before, version = hidden.detach().clone(), hidden._version
    layers.LLMInt8Linear.from_float(linear())(hidden).sum().backward()
    assert torch.equal(hidden, before) and hidden._version == version


@pytest.fixture(scope="module")
def trained():
    """Layers of a trained denoiser."""
    return [m for m in zoo.load("text-to-image").unet.modules() if type(m) is nn.Linear]


@pytest.mark.parametrize(("format", "floor"), [("int8", 38), ("fp4", 17), ("nf4", 19), ("nf4-double", 19)])
def test_sqnr_of_trained_weights(trained, format, floor):
    found = [sqnr(layer.weight, made(format, layer).weight) for layer in trained]
    assert len(found) > 50 and min(found) > floor


@each_format
def test_a_denoiser_becomes_smaller_and_stays_near(format):
    tiny = build("sd")
    plain = tiny.run()
    optimized(tiny.pipe, "diffusers_int8", **FORMATS[format])
    figures = gs.status(tiny.pipe).applied[0]["figures"]
    assert figures["size_after"] < figures["size_before"] and figures["layers"] > 20 and not figures["left"]
    assert sqnr(plain, tiny.run()) > (25 if format == "int8" else 5)


def test_slower_than_floats_is_said_in_words(monkeypatch):
    monkeypatch.setattr("gearshift.measure.in_place.timed_in_place", as_if(0.5, whole=0.75))
    with pytest.warns(GearshiftWarning, match=r"its layers run at 0\.50 times .* call of the model at 0\.75 times"):
        gs.optimize(build("llama").pipe, "llm_int8")


def test_what_has_no_effect_is_noted():
    notes = gs.status(optimized(build("llama").pipe, "llm_int8", double_quant=True, enable_fp32_cpu_offload=True))
    assert {"double_quant has no effect at 8", "enable_fp32_cpu_offload has no effect"} <= {
        note.split(" bits")[0].split(" here")[0] for note in notes.applied[0]["notes"]
    }


def test_a_layer_with_an_odd_number_of_inputs_stays():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.config, self.one, self.two = None, nn.Linear(5, 4), nn.Linear(4, 5)

        def generate(self):
            """Makes it a language model."""

        def forward(self, x):
            return self.two(self.one(x))

    model = optimized(Odd(), "llm_int8", weight_bits=4)
    assert type(model.one) is nn.Linear and isinstance(model.two, layers.FourBitLinear)
    assert "odd number" in gs.status(model).applied[0]["figures"]["left"]["one"]


@each_format
def test_what_does_not_fit_on_the_gpu_stays_in_float32(format, monkeypatch, tmp_path):
    tiny = build("llama")
    plain, all_of_it = tiny.run(), size_bytes(optimized(build("llama").pipe, "llm_int8", **FORMATS[format]))
    monkeypatch.setattr(llm_int8, "_free_bytes", lambda model: (all_of_it - 2000) / llm_int8.ROOM)
    optimized(tiny.pipe, "llm_int8", enable_fp32_cpu_offload=True, **FORMATS[format])
    on_host = [n for n, m in tiny.pipe.named_modules() if isinstance(m, layers.HostLinear)]
    assert 0 < len(on_host) < 14 and on_host[-1] == "model.layers.1.mlp.down_proj"
    host_bytes = sum(m.weight.nbytes for m in tiny.pipe.modules() if isinstance(m, layers.HostLinear))
    assert size_bytes(tiny.pipe) - host_bytes <= all_of_it - 2000
    assert 10 * torch.log10(plain.square().sum() / (tiny.run() - plain).square().sum()) > (
        30 if format == "int8" else 8
    )
    gs.save(tiny.pipe, tmp_path / "m")
    again = gs.load(tmp_path / "m")
    assert torch.equal(tiny.run(pipe=again), tiny.run())
    again.half()
    assert again.get_submodule(on_host[-1]).weight.dtype == torch.float32
    assert tiny.run(pipe=again).isfinite().all()


def test_memory_that_suffices_keeps_nothing_back(monkeypatch):
    tiny = build("llama")
    monkeypatch.setattr(llm_int8, "_free_bytes", lambda model: 1 << 30)
    optimized(tiny.pipe, "llm_int8", enable_fp32_cpu_offload=True)
    assert not [m for m in tiny.pipe.modules() if isinstance(m, layers.HostLinear)]


@each_format
def test_adapters_of_peft_train_on_it(format):
    peft = pytest.importorskip("peft")
    tiny = build("llama")
    optimized(tiny.pipe, "llm_int8", **FORMATS[format])
    tiny.pipe.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    tiny.pipe(**tiny.call()).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in tiny.pipe.named_parameters() if "lora_B" in n)


def test_it_is_traced_whole():
    net = nn.Sequential(made("int8", linear()), nn.SiLU(), made("nf4-double", linear(32, 64)))
    x = torch.randn(4, 64)
    with torch.no_grad():
        assert torch.equal(torch.compile(net, fullgraph=True, backend="aot_eager")(x), net(x))
        assert torch.equal(torch.jit.trace(net, (x,))(x), net(x))
