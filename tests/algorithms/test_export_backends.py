"""torch_compile's openvino and onnxrt: the same numbers from another runtime, behind the gates of others."""

import subprocess
import sys

import pytest
import torch
from support.tiny import build

import gearshift as gs
from gearshift.algorithms.compilers.torch_compile import CONVERTED
from gearshift.core.errors import BadRecipe, GearshiftWarning
from gearshift.core.extras import installed
from gearshift.steps.decision import Action

pytestmark = pytest.mark.compiled
BACKENDS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(not all(map(installed, packages)), reason=f"{', '.join(packages)} not installed"),
    )
    for name, packages in CONVERTED.items()
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_converted_pipeline_gives_the_same_and_comes_back(tinies, tmp_path, backend):
    tiny, plain = tinies("dit")
    gs.optimize(tiny.pipe, "taylor(order=1)")
    cached = tiny.run(steps=8)
    gs.optimize(tiny.pipe, {"torch_compile": {"backend": backend}})
    torch.testing.assert_close(tiny.run(steps=8), cached, rtol=1e-3, atol=1e-3)
    (entry,) = (a for a in gs.status(tiny.pipe).applied if a["name"] == "torch_compile")
    assert entry["figures"]["graphs"] == 1 and not entry["notes"]
    (log,) = gs.status(tiny.pipe).last_run.values()
    assert log.steps(Action.REUSE)
    gs.save(tiny.pipe, tmp_path / "m")
    again = tiny.run(steps=8, pipe=gs.load(tmp_path / "m"))
    torch.testing.assert_close(again, cached, rtol=1e-3, atol=1e-3)
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=8), plain)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_other_runtimes_do_not_have_is_said(backend):
    with pytest.raises(BadRecipe, match="keeps a cache between its calls"):
        gs.optimize(build("llama").pipe, {"torch_compile": {"backend": backend}})
    with pytest.warns(GearshiftWarning, match="it has no modes or dynamic shapes"):
        gs.optimize(build("dit").pipe, {"torch_compile": {"backend": backend, "mode": "max-autotune", "dynamic": True}})


def test_packages_that_are_missing_are_all_named(monkeypatch):
    module = sys.modules[gs.algorithms()["torch_compile"].__module__]
    monkeypatch.setattr(module, "installed", lambda package: package == "onnxruntime")
    with pytest.raises(BadRecipe, match="'onnxrt' needs the packages onnx, onnxscript"):
        gs.optimize(build("dit").pipe, "torch_compile(backend=onnxrt)")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_type_that_a_runtime_does_not_take_is_said_and_runs_as_it_is(backend):
    from torch import nn

    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).bfloat16().eval(), torch.ones(2, 4, dtype=torch.bfloat16)
    plain = model(x)
    gs.optimize(model, {"torch_compile": {"backend": backend}})
    with pytest.warns(GearshiftWarning, match="is not converted and runs eagerly"):
        assert torch.equal(model(x), plain)


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_share_a_converted_model(backend):
    from concurrent.futures import ThreadPoolExecutor

    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()).eval().requires_grad_(False)
    inputs = [torch.randn(8, 64) for _ in range(64)]
    plain = [model(x) for x in inputs]
    gs.optimize(model, {"torch_compile": {"backend": backend}})
    for _ in range(3):
        model(inputs[0])
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(model, inputs), plain, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_an_interrupt_is_an_interrupt_after_converted_models_are_gone():
    pytest.importorskip("openvino")
    code = """if True:
        import faulthandler, gc, signal
        import torch
        import gearshift as gs

        signal.signal(signal.SIGINT, signal.default_int_handler)
        faulthandler.enable()  # Python's handlers run on the stack for signals, if there is one
        held = [torch.nn.Sequential(torch.nn.Linear(size, size)) for size in (3, 4)]
        for size, model in zip((3, 4), held):
            gs.optimize(model, "torch_compile(backend=openvino)")
            model(torch.ones(1, size))
        del model
        while held:
            gs.restore(held.pop(0))
            gc.collect()
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            print("heard")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("heard\n"), done.stderr[-2000:]
