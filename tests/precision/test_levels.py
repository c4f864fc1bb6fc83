"""Precision and what devices can do with it."""

import subprocess
import sys

import pytest
import torch
from support.each import each

from gearshift.core.errors import BadValue, UnknownName
from gearshift.precision import Precision, PrecisionCapabilities, UnsupportedPrecision
from gearshift.precision.levels import Precision as P

ORDER = [P.INT4, P.INT8, P.FP8, P.BF16, P.FP16, P.FP32]


def test_order_is_from_fewest_bits_to_most_exact():
    assert sorted(reversed(ORDER)) == ORDER == list(Precision)
    assert P.INT4 < P.INT8 and P.FP32 >= P.FP16 and not P.BF16 > P.FP16


@each(
    ("precision", "bits", "speedup", "quality"),
    [
        (P.INT4, 4, 4, 0.92),
        (P.INT8, 8, 2, 0.97),
        (P.BF16, 16, 1, 0.995),
        (P.FP16, 16, 1, 0.998),
        (P.FP32, 32, 0.5, 1.0),
    ],
)
def test_numbers(precision, bits, speedup, quality):
    assert (precision.bits, precision.bytes) == (bits, bits / 8)
    assert precision.memory_ratio() == bits / 16
    assert precision.memory_ratio(relative_to=P.FP32) == bits / 32
    assert precision.nominal_speedup == speedup
    assert precision.nominal_quality == quality
    assert precision.is_lossless == (precision is P.FP32)


def test_quality_rises_with_the_order():
    qualities = [p.nominal_quality for p in ORDER]
    assert qualities == sorted(set(qualities))


@each(
    ("text", "precision"),
    [
        ("int4", P.INT4),
        ("i4", P.INT4),
        ("4bit", P.INT4),
        ("4-bit", P.INT4),
        ("INT8", P.INT8),
        (" w8 ", P.INT8),
        ("float8_e4m3fn", P.FP8),
        ("bfloat16", P.BF16),
        (torch.bfloat16, P.BF16),
        ("half", P.FP16),
        ("fp16", P.FP16),
        (torch.float16, P.FP16),
        ("float", P.FP32),
        (P.INT8, P.INT8),
    ],
)
def test_names_are_read(text, precision):
    assert Precision.parse(text) is precision


@each("text", ["int5", "", 4, None, "torch."])
def test_unknown_names_are_refused_with_what_there_is(text):
    with pytest.raises(UnknownName, match=r"There is no precision .*(int4|did you mean)"):
        Precision.parse(text)


def test_ready_made_devices():
    new, old, cpu = (
        make(8192)
        for make in (PrecisionCapabilities.modern_gpu, PrecisionCapabilities.legacy_gpu, PrecisionCapabilities.cpu)
    )
    assert new.compute_capability == (8, 6) and new.int4_tensor_cores and new.int8_tensor_cores
    assert not new.fp8_tensor_cores and not new.supports(P.FP8)
    assert old.compute_capability == (6, 1) and old.supported == (P.FP16, P.FP32)
    assert cpu.compute_capability is None and cpu.supports("int8") and not cpu.supports("fp8")


@each(
    ("capability", "int4", "int8", "bf16", "fp8"),
    [
        ((7, 0), False, False, False, False),
        ((7, 5), True, True, False, False),
        ((8, 0), True, True, True, False),
        ((8, 9), True, True, True, True),
        ((9, 0), False, True, True, True),
    ],
)
def test_tensor_cores_by_generation(capability, int4, int8, bf16, fp8):
    device = PrecisionCapabilities._of_cuda(capability, 1000, "")
    assert (device.int4_tensor_cores, device.int8_tensor_cores, device.fp8_tensor_cores) == (int4, int8, fp8)
    assert device.supports("bf16") == bf16 and device.supports("int4") == int8
    assert device.native <= set(device.supported) and (P.INT4 in device.native) == int4


@each("wanted", ORDER)
@each("supported", [(P.FP16, P.FP32), (P.INT8,), (P.BF16, P.INT4), tuple(reversed(ORDER))])
def test_best_supported_is_the_nearest_that_is_not_lower(wanted, supported):
    best = PrecisionCapabilities(supported, frozenset(), 1).best_supported(wanted)
    higher = [p for p in supported if p >= wanted]
    assert best in supported
    assert best is (min(higher) if higher else max(supported))


def test_require_names_what_is_supported():
    with pytest.raises(UnsupportedPrecision, match=r"INT4 is not supported here \(supported: FP16, FP32\)") as caught:
        PrecisionCapabilities.legacy_gpu(4096).require("int4")
    assert caught.value.precision is P.INT4 and caught.value.supported == (P.FP16, P.FP32)


def test_memory():
    device = PrecisionCapabilities.modern_gpu(1024)
    assert device.estimate_memory(2**30, "int4") == 512
    assert device.fits_model(2**30, "int8") and not device.fits_model(2**30 + 1, "int8")


@each("value", [0, -1, float("nan"), float("inf"), "8 GB", True, None])
def test_memory_must_be_a_positive_number(value):
    with pytest.raises(BadValue, match="memory_mb must be a positive number"):
        PrecisionCapabilities.modern_gpu(value)
    with pytest.raises(BadValue, match="n_params must be a positive number"):
        PrecisionCapabilities.cpu(1).estimate_memory(value, "int8")


def test_the_host_is_detected():
    device = PrecisionCapabilities.detect("cpu")
    assert device.supports("fp32") and device.memory_mb > 256


def test_a_device_without_a_driver_here_is_refused():
    with pytest.raises(BadValue, match="'cuda' or 'cpu'"):
        PrecisionCapabilities.detect("meta")


def test_importing_needs_no_torch():
    code = "import sys, gearshift.precision.prelude; assert not {'torch', 'diffusers', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
