"""On a CUDA device without values: no algorithm mixes devices, returns a surprise type, or makes the host wait."""

import shutil

import pytest
import torch
from support.each import each
from support.fake_cuda import DEVICE, FakeTensorMode, Waits, guarded, inputs, moved
from support.tiny import build

import gearshift as gs

COMPILER = shutil.which("c++") or shutil.which("g++")
pytestmark = pytest.mark.filterwarnings("ignore::gearshift.core.errors.GearshiftWarning")  # of the CPU's speed
STEPS, WARM = 6, 3
TYPES = (torch.bfloat16, torch.float16)
LANGUAGE = [
    "half",
    "torch_dynamic",
    "fp8",
    "higgs",
    "gptq",
    "gptq(weight_bits=3)",
    "awq",
    "hqq",
    "hqq(weight_bits=4)",
    "ipex_llm",
    "quanto(weight_bits=qint8)",
    "quanto(weight_bits=qfloat8)",
    "torchao(quant_type=int8dq)",
    "torchao(quant_type=int4wo)",
    "torchao(quant_type=fp8dq)",
    "llm_int8(weight_bits=4)",
    "torch_unstructured",
]
DENOISER = [
    "torch_static",
    "torch_dynamic",
    "fp8",
    "hqq_diffusers",
    "diffusers_higgs",
    "adaptive_precision(profile=balanced)",
    "adaptive_precision(profile=performance, store=nested)",
    "taylor",
    "flux_caching",
    "fora",
    "pab",
    "fastercache",
    "qkv_diffusers",
    "fora, torch_dynamic",
]
READS_ONE = "adaptive"  # asks on each step whether the latent has changed enough


@pytest.fixture(autouse=True)
def device(monkeypatch):
    if COMPILER is None:
        pytest.skip("needs a C++ compiler")
    guarded(COMPILER)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "fake")


def test_the_device_counts_what_waits_and_refuses_mixing():
    with FakeTensorMode(), Waits() as waits:
        there = torch.ones(3, device=DEVICE)
        assert there.sum().item() == 1.0 and there.to("cpu").device.type == "cpu"
        assert sum(waits.found.values()) == 2
        with pytest.raises(RuntimeError, match="devices"):
            there + torch.ones(3)


@pytest.mark.parametrize("dtype", TYPES)
@each("recipe", LANGUAGE)
def test_a_language_model_computes_on_the_device_alone(recipe, dtype):
    model = gs.optimize(build("llama").pipe.to(dtype), recipe, data=[torch.arange(64)[None] % 60])
    mode, waits = FakeTensorMode(allow_non_fake_inputs=True), Waits()
    with torch.no_grad():
        moved(model, mode)
        with mode, waits:
            for _ in range(2):
                waits.found.clear()
                for tokens in (24, 1):
                    given = torch.ones(1, tokens, dtype=torch.long, device=DEVICE)
                    logits = model(input_ids=given, use_cache=False).logits
    assert logits.device == DEVICE and logits.dtype == (torch.float16 if recipe == "half" else dtype)
    assert not waits.found


def computed(name, recipe):
    """A denoiser's outputs on the device in a run of several steps, and what made the host wait after the first."""
    tiny = build(name)
    pipe, calls = tiny.pipe.to(torch.bfloat16), []
    denoiser = getattr(pipe, tiny.denoiser)
    hook = denoiser.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    tiny.run(steps=STEPS)
    hook.remove()
    call = {**tiny.parts.call(1), "num_inference_steps": STEPS}
    given = {k: v.bfloat16() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in call.items()}
    if gs.problems(pipe, recipe, data=[given]):
        pytest.skip(f"{recipe} does not work on {name}")
    gs.optimize(pipe, recipe, data=[given])
    mode, waits = FakeTensorMode(allow_non_fake_inputs=True), Waits()
    moved(denoiser, mode)
    with gs.sampling(range(STEPS)) as run, mode, waits:
        for step in range(STEPS):
            if step == WARM:
                waits.found.clear()
            for args, kwargs in calls[step * len(calls) // STEPS : (step + 1) * len(calls) // STEPS]:
                args, kwargs = inputs((args, kwargs), mode, denoiser.dtype)
                output = denoiser(*args, **kwargs)
            run.tick()
    return output[0] if isinstance(output, tuple) else output.sample, waits.found


@each(
    ("name", "recipe"), [("flux", recipe) for recipe in DENOISER] + [("wan", "fora, torch_dynamic"), ("sdxl", "half")]
)
@torch.no_grad()
def test_a_denoiser_computes_on_the_device_alone(name, recipe):
    output, found = computed(name, recipe)
    assert output.device == DEVICE and output.dtype == (torch.float16 if recipe == "half" else torch.bfloat16)
    assert not found


@torch.no_grad()
def test_what_looks_at_the_latent_reads_one_number_a_step():
    _, found = computed("flux", READS_ONE)
    assert sum(found.values()) == STEPS - WARM
