"""torchao: its weights bit for bit, kept as plain tensors; the products that stand in for its own give its numbers."""

import copy
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.each import each
from support.timed import as_if
from support.tiny import build
from torch import nn
from torch.nn import functional as F

import gearshift as gs
from gearshift import zoo
from gearshift.algorithms.quantizers import sqnr, torchao
from gearshift.core.errors import BadRecipe, GearshiftError, GearshiftWarning

ao = pytest.importorskip("torchao.quantization")
layers = pytest.importorskip("gearshift.layers.vendors.torchao")
TorchaoLinear = layers.TorchaoLinear
FLOORS = {"int4dq": 19, "int4wo": 19, "int8dq": 38, "int8wo": 38, "fp8wo": 30, "fp8dq": 30, "fp8dqrow": 30}
each_type = pytest.mark.parametrize("quant_type", torchao.TYPES)


def linear(inputs=128, outputs=64, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, dtype=dtype).requires_grad_(False)


def optimized(model, **values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)  # that it is slower on this machine
        return gs.optimize(model, {"torchao": values})


@each(
    ("quant_type", "config"),
    [
        ("int8dq", ao.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)),
        ("int8wo", ao.Int8WeightOnlyConfig(set_inductor_config=False)),
        ("fp8wo", ao.Float8WeightOnlyConfig(set_inductor_config=False)),
        (
            "int4wo",
            ao.IntxWeightOnlyConfig(torch.int4, ao.PerGroup(64), mapping_type=ao.MappingType.ASYMMETRIC),
        ),
        (
            "int4dq",
            ao.Int8DynamicActivationIntxWeightConfig(
                torch.int4, ao.PerGroup(64), weight_mapping_type=ao.MappingType.ASYMMETRIC
            ),
        ),
    ],
)
def test_weights_are_the_library_s_and_products_near_to_its(quant_type, config):
    ours, x = TorchaoLinear.from_float(linear(), quant_type), torch.randn(100, 128)
    theirs = nn.Sequential(linear())
    ao.quantize_(theirs, config)
    assert torch.equal(ours.weight * 1, theirs[0].weight.dequantize())
    assert sqnr(theirs(x), ours(x)) > 35
    assert sqnr(theirs(x[:2]), ours(x[:2])) > 32


@each_type
def test_torchao_multiplies_where_gearshift_does_not(quant_type, monkeypatch):
    layer, x = TorchaoLinear.from_float(linear(), quant_type), torch.randn(5, 128)
    own = layer(x)
    monkeypatch.setattr(layers, "OWN", set())
    assert sqnr(layer(x), own) > 32
    assert torch.equal(layer(x), F.linear(x, layer.joined()) + layer.bias)


@each_type
@pytest.mark.parametrize("assign", [True, False])
def test_state_is_plain_tensors_and_gives_equal_bits(quant_type, assign, tmp_path):
    layer, x = TorchaoLinear.from_float(linear(), quant_type), torch.randn(3, 128)
    assert {type(t) for n, t in layer.state_dict().items() if n != "weight"} <= {torch.Tensor, nn.Parameter}
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    place = "meta" if assign else "cpu"
    fresh = TorchaoLinear.from_float(nn.Linear(128, 64, device=place), quant_type)
    fresh.load_state_dict(load_file(tmp_path / "layer.safetensors"), assign=assign)
    assert torch.equal(fresh(x), layer(x))
    assert torch.equal(fresh.weight * 1, layer.weight * 1)


@each_type
def test_copies_are_apart(quant_type):
    layer, x = TorchaoLinear.from_float(linear(), quant_type), torch.randn(3, 128)
    want, copied = layer(x), copy.deepcopy(layer)
    assert torch.equal(copied(x), want)
    copied.qdata.zero_()
    assert not torch.equal(copied(x), want)
    assert torch.equal(layer(x), want)


@each_type
@each("dtype", [torch.float16, torch.bfloat16])
def test_casting_keeps_what_is_stored(quant_type, dtype):
    layer, x = TorchaoLinear.from_float(linear(), quant_type), torch.randn(3, 128)
    want, held = layer(x), {name: t.dtype for name, t in layer.named_buffers()}
    layer.to(dtype)
    assert {name: t.dtype for name, t in layer.named_buffers()} == held
    assert layer.weight.dtype == layer(x.to(dtype)).dtype == dtype
    assert sqnr(want, layer(x.to(dtype))) > 28


@each_type
@each("dtype", [torch.float16, torch.bfloat16])
@each("rows", [2, 100])
def test_weights_of_16_bits_are_quantized_too(quant_type, dtype, rows):
    exact, x = linear(dtype=dtype), (0.01 * torch.randn(rows, 128)).to(dtype)
    layer = TorchaoLinear.from_float(exact, quant_type)
    assert layer.weight.dtype == layer(x).dtype == dtype
    assert sqnr(exact(x), layer(x)) > (18 if "4" in quant_type else 25)


@each_type
def test_gradients_are_those_of_the_weight_and_adapters_train(quant_type):
    peft = pytest.importorskip("peft")
    layer, x = TorchaoLinear.from_float(linear(), quant_type), torch.randn(3, 128).requires_grad_()
    ahead = torch.randn(3, 64)
    layer(x).backward(ahead)
    assert torch.allclose(x.grad, ahead @ layer.weight, atol=1e-4)
    net = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["0"]), nn.Sequential(layer))
    net(x.detach()).square().mean().backward()
    assert any(p.grad is not None for p in net.parameters() if p.requires_grad)


@each_type
@pytest.mark.filterwarnings("ignore:.*_stable_hash_for_caching")
def test_traces_whole_after_loading(quant_type):
    torch._dynamo.reset()
    layer, x = TorchaoLinear.from_float(linear(), quant_type), torch.randn(3, 128)
    fresh = TorchaoLinear.from_float(nn.Linear(128, 64, device="meta"), quant_type)
    fresh.load_state_dict(layer.state_dict(), assign=True)
    with torch.no_grad():
        assert torch.allclose(torch.compile(fresh, fullgraph=True, backend="aot_eager")(x), layer(x), atol=1e-5)


def test_trained_weights_keep_their_floors():
    trained = [m for m in zoo.load("text-to-image").unet.modules() if type(m) is nn.Linear and not m.in_features % 32]
    assert len(trained) > 50
    for quant_type, floor in FLOORS.items():
        assert min(sqnr(m.weight, TorchaoLinear.from_float(m, quant_type).weight) for m in trained) > floor


@pytest.mark.parametrize("sizes", [(128, 128), (128, 1)], ids=str)
def test_one_scale_for_sizes_that_torchao_takes_for_blocks_or_rows(sizes):
    exact, x = linear(*sizes), torch.randn(9, sizes[0])
    layer = TorchaoLinear.from_float(exact, "fp8dq")
    assert sqnr(exact(x), layer(x)) > 25


def test_excluded_modules_are_left_and_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.time_embed, self.other = linear(), linear(), linear()

    left = {"none": set(), "norm": {"norm1"}, "embedding": {"time_embed"}, "norm+embedding": {"norm1", "time_embed"}}
    for excluded, names in left.items():
        net = optimized(Net(), excluded_modules=excluded)
        assert {name for name, m in net.named_children() if type(m) is nn.Linear} == names
        assert set(gs.status(net).applied[0]["figures"]["left"]) == names


def test_four_bits_that_fit_no_group_are_left():
    net = optimized(nn.Sequential(linear(96), linear(100), linear(1)), quant_type="int4wo")
    assert [type(m) for m in net] == [TorchaoLinear, nn.Linear, nn.Linear]
    left = gs.status(net).applied[0]["figures"]["left"]
    assert "multiple of 32 inputs" in left["1"]
    assert "one input" in left["2"]


def test_slower_is_said_with_what_would_be_faster(monkeypatch):
    monkeypatch.setattr("gearshift.measure.in_place.timed_in_place", as_if(0.5))
    net = nn.Sequential(linear())
    with pytest.warns(GearshiftWarning) as said:
        gs.optimize(net, {"torchao": {"quant_type": "fp8dqrow"}}, data=[torch.randn(2, 128)])
    assert ["times the speed" in str(w.message) for w in said] == [True, False]
    assert "torch_compile" in str(said[1].message)


def test_an_old_gpu_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    recipe = {"torchao": {"quant_type": "fp8dq"}}
    with pytest.raises(BadRecipe, match=r"fp8dq needs CUDA compute capability 8.9 or higher, and this GPU has 8.0"):
        gs.optimize(nn.Sequential(linear()), recipe, device="cuda")


def test_weights_laid_out_for_cuda_say_so_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    layer = TorchaoLinear.from_float(nn.Linear(128, 64, device="meta"), "int4wo", tiled=True)
    assert layer.tiled
    with pytest.raises(GearshiftError, match="laid out for CUDA"):
        layer(torch.randn(1, 128))


@pytest.mark.parametrize("quant_type", ["int4wo", "fp8dqrow"])
def test_a_saved_pipeline_gives_equal_bits(quant_type, tmp_path):
    tiny = build("dit")
    optimized(tiny.pipe, quant_type=quant_type)
    gs.save(tiny.pipe, tmp_path / "saved")
    assert torch.equal(tiny.run(pipe=gs.load(tmp_path / "saved")), tiny.run())
