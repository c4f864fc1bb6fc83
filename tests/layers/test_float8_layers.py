"""8-bit floats: exact widening, the scaled product, and the layer as a drop-in module."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gearshift.algorithms.quantizers import sqnr
from gearshift.kernels import dispatch
from gearshift.kernels.cuda.fp8 import scaled_product, unsupported
from gearshift.kernels.dispatch import KERNELS
from gearshift.layers.float8 import Fp8Linear
from gearshift.quant.formats.float8 import FORMATS, rounded, widened

both_formats = pytest.mark.parametrize("format", FORMATS)


@both_formats
def test_every_code_widens_to_what_torch_says_it_is(format: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(FORMATS[format])
    codes = codes[codes.float().isfinite()][None]
    assert torch.equal(widened(codes, torch.ones(1)), codes.float())
    assert torch.equal(widened(codes, torch.tensor([0.3])), codes.float() * torch.tensor(0.3))


@pytest.mark.parametrize(("format", "floor"), [("e4m3fn", 30.5), ("e5m2", 24)])
def test_gaussian_weights(format: str, floor: float) -> None:
    weight = torch.randn(64, 512) * torch.logspace(-6, 6, 64)[:, None]
    values, scale = rounded(weight, FORMATS[format])
    assert min(sqnr(*rows) for rows in zip(weight, widened(values, scale[:, 0]), strict=True)) > floor


@both_formats
def test_rows_fill_the_range_and_never_leave_it(format: str) -> None:
    x = torch.tensor([[0.0, 0.0], [65504.0, -1.0], [1e-7, 6e-8]], dtype=torch.float16)
    values, scale = rounded(x, FORMATS[format])
    assert values.float().isfinite().all()
    assert (values[1:].float().abs().amax(-1) == torch.finfo(FORMATS[format]).max).all()
    assert torch.equal(values[0].float() * scale[0], torch.zeros(2))


@both_formats
def test_the_scaled_product_is_that_of_the_rounded_numbers(format: str) -> None:
    """On CUDA the same call multiplies; what it computes is checked here against float64."""
    x, weight = torch.randn(40, 96) * torch.logspace(-3, 3, 40)[:, None], torch.randn(48, 96)
    values, scale = rounded(weight, FORMATS[format])
    codes, steps = rounded(x, torch.float8_e4m3fn)
    exact = (codes.double() * steps) @ (values.double() * scale).t()
    y = scaled_product(x, values, scale[:, 0])
    assert min(sqnr(*rows) for rows in zip(exact, y, strict=True)) > 100
    assert sqnr(x @ weight.t(), y) > (27 if format == "e4m3fn" else 24)
    assert scaled_product(x.half(), values, scale[:, 0]).dtype == torch.float16


@both_formats
def test_a_layer_multiplies_in_8_bits_where_the_device_does(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Fp8Linear.from_float(nn.Linear(64, 32), format), torch.randn(2, 5, 64)
    stored = layer(x)
    assert torch.allclose(stored, nn.functional.linear(x, layer.weight * 1, layer.bias), atol=1e-5)
    kernel = next(kernel for kernel in KERNELS if kernel.name == "torch._scaled_mm")
    monkeypatch.setattr(dispatch, "KERNELS", (kernel._replace(device="cpu", lacks=lambda weight, wish: None),))
    assert sqnr(stored, layer(x)) > 28
    assert torch.equal(layer(x).flatten(0, 1), scaled_product(x.flatten(0, 1), layer.qweight, layer.scale) + layer.bias)


def test_a_cpu_only_stores() -> None:
    layer = Fp8Linear.from_float(nn.Linear(64, 32))
    assert layer.activations() is None
    assert "8.9" in str(unsupported(layer.qweight)) and "multiples of 16" in str(unsupported(layer.qweight[:9]))


@both_formats
def test_state_goes_through_safetensors_bit_equal(format: str, tmp_path: Path) -> None:
    layer, x = Fp8Linear.from_float(nn.Linear(64, 32), format), torch.randn(3, 64)
    assert {name: t.dtype for name, t in layer.state_dict().items()} == {
        "qweight": FORMATS[format],
        "scale": torch.float32,
        "bias": torch.float32,
        "weight": torch.float32,  # for those who look
    }
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    fresh = Fp8Linear(64, 32, True, "meta", torch.float32, format)
    fresh.load_state_dict(load_file(tmp_path / "layer.safetensors"), assign=True)
    assert torch.equal(fresh(x), layer(x))
    copied = copy.deepcopy(layer)
    copied.scale.zero_()
    assert not torch.equal(copied(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casting_keeps_what_is_stored(dtype: torch.dtype) -> None:
    layer, x = Fp8Linear.from_float(nn.Linear(64, 32)), torch.randn(3, 64)
    want = layer(x)
    layer.to(dtype)
    assert (layer.weight.dtype, layer.qweight.dtype, layer.scale.dtype) == (dtype, torch.float8_e4m3fn, torch.float32)
    assert layer(x.to(dtype)).dtype == dtype
    assert sqnr(want, layer(x.to(dtype))) > 35


@pytest.mark.parametrize("lead", [(), (2, 3), (0,)], ids=str)
def test_any_leading_dimensions(lead: tuple[int, ...]) -> None:
    layer, x = Fp8Linear.from_float(nn.Linear(64, 32)), torch.randn(*lead, 64)
    assert layer(x).shape == (*lead, 32)


def test_gradients_are_those_of_the_stored_weight() -> None:
    layer, x = Fp8Linear.from_float(nn.Linear(64, 32)), torch.randn(3, 64).requires_grad_()
    layer(x).square().sum().backward()
    assert torch.allclose(x.grad, 2 * layer(x).detach() @ layer.weight, atol=1e-4)


def test_adapters_of_peft_train_on_it() -> None:
    peft = pytest.importorskip("peft")
    layer = Fp8Linear.from_float(nn.Linear(64, 32))
    net = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["0"]), nn.Sequential(layer))
    net(torch.randn(3, 64)).square().mean().backward()
    assert any(p.grad is not None for p in net.parameters() if p.requires_grad)


@both_formats
def test_traces_whole(format: str) -> None:
    torch._dynamo.reset()
    layer, x = Fp8Linear.from_float(nn.Linear(64, 32), format), torch.randn(3, 64)
    with torch.no_grad():
        assert torch.allclose(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x), atol=1e-5)
