"""What an optimized model bears: copying, pickling, and being restored, before it is saved and after it is loaded."""

import copy
import io
from contextlib import contextmanager

import pytest
import torch
from support.interrupting import apart, process
from support.registered import optimized, quick, tiny_for  # noqa: F401
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import CannotRestore
from gearshift.core.facts import Trait
from gearshift.core.registry import registry

CLASSES = [c for c in registry() if Trait.TORCH_FORWARD not in c.facts.removes]


@contextmanager
def left_alone():
    """What goes on inside leaves the process around the model as it was."""
    before = process()
    yield
    assert not apart(before, process())


def undone(tiny, model, plain):
    """Whether a model was restored to the original; False if it said why not and was left as it was."""
    changed = tiny.run(steps=2, pipe=model)
    try:
        with left_alone():
            gs.restore(model)
    except CannotRestore:
        assert gs.status(model).applied and torch.equal(tiny.run(steps=2, pipe=model), changed)
        return False
    assert not gs.status(model).applied and torch.equal(tiny.run(steps=2, pipe=model), plain)
    return True


def pickled(model):
    """Through torch's own pickling, as plain pickle knows no 8-bit floats."""
    held = io.BytesIO()
    torch.save(model, held)
    held.seek(0)
    return torch.load(held, weights_only=False)


@pytest.mark.usefixtures("quick")
@pytest.mark.filterwarnings("ignore::gearshift.core.errors.GearshiftWarning")
@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.name)
def test_copies_do_the_same_and_restoring_gives_the_original_or_says_why_not(cls, tmp_path):
    name = tiny_for(cls)
    if name is None:
        pytest.skip("no tiny model is of its kind, or a package is missing")
    tiny = build(name)
    plain = tiny.run(steps=2)
    with left_alone():
        optimized(tiny, cls, keep_original=True)
    early = pickled(tiny.pipe)
    for model in (tiny.pipe, early):  # planners find their schedule in a first run
        tiny.run(steps=2, pipe=model)
    changed, *others = (tiny.run(steps=2, pipe=model) for model in (tiny.pipe, early, copy.deepcopy(tiny.pipe)))
    assert all(torch.equal(other, changed) for other in others)
    with left_alone():
        gs.save(tiny.pipe, tmp_path / "model")
        loaded = gs.load(tmp_path / "model")
    assert undone(tiny, tiny.pipe, plain)
    if not undone(tiny, loaded, plain):
        with pytest.raises(CannotRestore, match=rf"{cls.name} .*originals"):
            gs.restore(loaded)
        return
    gs.save(loaded, tmp_path / "again")
    assert torch.equal(tiny.run(steps=2, pipe=gs.load(tmp_path / "again")), plain)


def test_a_model_that_another_engine_runs_says_why_it_cannot_be_restored_after_loading_too(tmp_path):
    pytest.importorskip("ctranslate2")
    model = gs.optimize(build("llama").pipe, "c_generate")
    gs.save(model, tmp_path / "model")
    for made in (model, gs.load(tmp_path / "model")):
        with pytest.raises(CannotRestore, match="load the original model again"):
            gs.restore(made)
