"""stable_fast and x_fast: the same numbers from traced graphs, which are made anew when they have to be."""

import copy
from types import SimpleNamespace

import pytest
import torch
from support.tiny import build
from torch import nn

import gearshift as gs
from gearshift.algorithms.common.compile_stats import Tally
from gearshift.algorithms.common.tracing import Traced
from gearshift.algorithms.compilers import x_fast
from gearshift.core.errors import GearshiftWarning
from gearshift.core.record import Applied
from gearshift.steps.decision import Action


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("recipe", ["stable_fast", "x_fast", "x_fast(xformers=False)"])
@pytest.mark.parametrize("name", ["sd", "dit", "flux", "hunyuanvideo"])
def test_a_traced_pipeline_gives_the_same_and_comes_back(tinies, name, recipe):
    tiny, plain = tinies(name)
    gs.optimize(tiny.pipe, recipe)
    for _ in range(2):
        close(tiny.run(steps=8), plain)
    assert not [n for n in gs.status(tiny.pipe).applied[0]["notes"] if "not traced" in n]
    close(tiny.run(steps=4, batch=2)[:1], tiny.run(steps=4, batch=1))
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=8), plain)


@pytest.mark.parametrize(
    "recipe", ["taylor(order=1), stable_fast", "fora, stable_fast", "qkv_diffusers, taylor, x_fast"]
)
def test_cachers_stay_outside(tinies, recipe):
    tiny, _ = tinies("dit")
    cached = recipe.rpartition(", ")[0]
    gs.optimize(tiny.pipe, cached)
    expected = tiny.run(steps=8)
    gs.restore(tiny.pipe)
    gs.optimize(tiny.pipe, recipe)
    close(tiny.run(steps=8), expected)
    (log,) = gs.status(tiny.pipe).last_run.values()
    assert log.steps(Action.REUSE)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "whisper"])
def test_language_and_speech_models_are_traced_in_pieces(name):
    tiny = build(name)
    plain = tiny.run()
    gs.optimize(tiny.pipe, "x_fast")
    close(tiny.run(), plain)
    traced = [m for m in tiny.pipe.modules() if isinstance(getattr(vars(m).get("forward"), "compiled", None), Traced)]
    assert traced and len(traced) < len(list(tiny.pipe.modules()))
    twin = copy.deepcopy(tiny.pipe)
    close(tiny.run(pipe=twin), plain)


class Branching(nn.Module):
    """Goes another way for large inputs, which a trace cannot follow."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else -self.inner(x)


def test_a_graph_is_given_up_where_it_differs_and_made_anew_where_weights_change():
    tally = Tally(Applied(None))
    said = tally.applied.notes
    module = Branching().eval().requires_grad_(False)
    traced, x = Traced(module, tally), torch.ones(1, 4)
    for _ in range(4):
        close(traced(x), module(x))
    assert not said
    module.inner.weight.add_(1.0)
    with pytest.warns(GearshiftWarning, match=r"Branching was changed since it was traced \(weights\)"):
        close(traced(x), module(x))
    with pytest.warns(GearshiftWarning, match="not traced and runs eagerly: its output was off"):
        close(traced(-x), module(-x))
    assert len(said) == 2 and "is not traced and runs eagerly: its output was off" in said[1]
    close(traced(x), module(x))
    assert tally.applied.figures == {"graphs": 2, "recompiles": 1}


def test_gradients_pass_through_the_module_itself():
    module = nn.Linear(4, 4)
    x = torch.ones(1, 4, requires_grad=True)
    Traced(module, Tally(Applied(None)))(x).sum().backward()
    torch.testing.assert_close(x.grad[0], module.weight.sum(0))


class Noted:
    """A context that applies changes and keeps them and what it is told."""

    def __init__(self):
        self.changes, self.notes = [], []

    def change(self, change):
        change.apply()
        self.changes.append(change)

    def note(self, sentence):
        self.notes.append(sentence)


@pytest.mark.parametrize("has_kernels", [True, False])
def test_attention_on_cuda_runs_in_xformers_if_it_is_there(monkeypatch, has_kernels):
    from gearshift.models import describe

    called, context = [], Noted()
    pipe = SimpleNamespace(
        enable_xformers_memory_efficient_attention=lambda: called.append("on"),
        disable_xformers_memory_efficient_attention=lambda: called.append("off"),
    )
    monkeypatch.setattr(describe, "describe", lambda model: SimpleNamespace(device="cuda"))
    monkeypatch.setattr(x_fast, "installed", lambda name: has_kernels and name == "xformers")
    x_fast._attend(pipe, context)
    assert called == ["on"] * has_kernels and bool(context.notes) is not has_kernels
    [change.revert() for change in context.changes]
    assert called == ["on", "off"] * has_kernels
    assert has_kernels or "xformers is not installed; attention runs in PyTorch" in context.notes[0]


def test_attention_elsewhere_says_that_it_runs_without_xformers():
    tiny = build("sd")
    gs.optimize(tiny.pipe, "x_fast")
    assert any("xformers has kernels for CUDA only" in note for note in gs.status(tiny.pipe).applied[0]["notes"])
