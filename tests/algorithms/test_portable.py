"""torch_compile(make_portable=True): packages are kept with a saved model, and used where they fit."""

import pytest
import torch
from support.tiny import build

import gearshift as gs
from gearshift.algorithms.common import portable
from gearshift.algorithms.common.portable import Portable
from gearshift.core.errors import BadRecipe, GearshiftWarning
from gearshift.core.record import record_of

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
    there = gs.load(tmp_path / "m", trust_compiled=True)
    assert torch.equal(tiny.run(steps=6, pipe=there), here)
    assert [p.compiled for p in portables(there)] == [0]

    monkeypatch.setattr(portable, "compile_target", lambda: "another machine")
    with pytest.warns(GearshiftWarning, match="made anew here"):
        elsewhere = gs.load(tmp_path / "m", trust_compiled=True)
    (package,) = portables(elsewhere)
    assert not package.files and "made anew" in gs.status(elsewhere).applied[-1]["notes"][0]


def test_compiled_code_of_a_folder_runs_only_when_asked_for(tmp_path):
    """The files need not be packages: nothing looks into them."""
    tiny = build("dit")
    gs.optimize(tiny.pipe, RECIPE)
    package = tmp_path / "0-0123456789abcdef.pt2"
    package.write_bytes(b"machine code")
    record_of(tiny.pipe).applied[-1].files[package.name] = package
    gs.save(tiny.pipe, tmp_path / "m")
    with pytest.warns(GearshiftWarning, match="compiles anew: .* trust_compiled=True"):
        untrusted = gs.load(tmp_path / "m")
    assert [dict(p.files) for p in portables(untrusted)] == [{}]
    assert any("compiles anew" in note for note in gs.status(untrusted).applied[-1]["notes"])
    trusted = gs.load(tmp_path / "m", trust_compiled=True)
    assert [list(p.files) for p in portables(trusted)] == [[package.name]]


def test_portable_graphs_need_what_they_need():
    with pytest.raises(BadRecipe, match="make_portable needs backend 'inductor'"):
        gs.optimize(build("dit").pipe, "torch_compile(make_portable=True, dynamic=True)")
