"""torch_compile(make_portable=True): packages are kept with a saved model, and used where they fit."""

import pytest
import torch
from support.tiny import build

import gearshift as gs
from gearshift.algorithms.compilers import portable
from gearshift.algorithms.compilers.portable import Portable
from gearshift.core.errors import BadRecipe, GearshiftWarning

pytestmark = pytest.mark.compiled
RECIPE = "taylor(order=1), torch_compile(make_portable=True)"


def portables(pipe):
    compiled = (getattr(vars(m).get("forward"), "compiled", None) for m in pipe.transformer.modules())
    return [c for c in compiled if isinstance(c, Portable)]


def test_a_saved_package_starts_without_compiling(tinies, tmp_path, monkeypatch):
    tiny, _ = tinies("dit")
    gs.optimize(tiny.pipe, "taylor(order=1)")
    eager = tiny.run(steps=6)
    gs.restore(tiny.pipe)
    gs.optimize(tiny.pipe, RECIPE)
    here = tiny.run(steps=6)
    torch.testing.assert_close(here, eager, rtol=1e-3, atol=1e-4)
    assert [p.compiled for p in portables(tiny.pipe)] == [1]
    gs.save(tiny.pipe, tmp_path / "m")
    there = gs.load(tmp_path / "m")
    assert torch.equal(tiny.run(steps=6, pipe=there), here)
    assert [p.compiled for p in portables(there)] == [0]

    monkeypatch.setattr(portable, "machine", lambda: "another machine")
    with pytest.warns(GearshiftWarning, match="made anew here"):
        elsewhere = gs.load(tmp_path / "m")
    (package,) = portables(elsewhere)
    assert not package.files and "made anew" in gs.status(elsewhere).applied[-1]["notes"][0]


def test_portable_graphs_need_what_they_need():
    with pytest.raises(BadRecipe, match="make_portable needs backend 'inductor'"):
        gs.optimize(build("dit").pipe, "torch_compile(make_portable=True, dynamic=True)")
