"""What a verb does is done whole or not at all, in every verb; blocks of `disabled` may hold anything."""

import signal
import warnings

import pytest
import torch
from support.interrupting import Lines, apart, look, process
from support.tiny import build
from torch import nn

import gearshift as gs
from gearshift.core.errors import GearshiftError, GearshiftWarning, WrongModel
from gearshift.core.record import record_of
from gearshift.core.snapshot import Snapshot
from gearshift.core.surroundings import surroundings
from gearshift.core.transaction import Transaction


@pytest.fixture(autouse=True)
def interrupts_are_heard():
    """A suite that a shell started in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


RECIPES = ("", "qkv_diffusers, fora", "adaptive_precision(profile=performance), taylor")


def small():
    first = nn.Linear(4, 4)
    model = nn.Sequential(first, nn.BatchNorm1d(4), nn.Linear(4, 4))
    model.tied = first.weight
    return model


def harm(model):
    """Change a model in many ways, as algorithms do."""
    model[0].weight.data = torch.zeros(4, 4)
    model[2].weight = nn.Parameter(torch.ones(2, 4))
    model[1].running_mean = torch.ones(4)
    model[1]._buffers["more"] = torch.ones(1)
    model._modules["1"] = nn.Identity()
    model._modules["0"] = model._modules.pop("0")
    model.half().eval().requires_grad_(False)
    model[0].__class__ = type("Other", (nn.Linear,), {})
    model[0].forward = lambda x: x
    model[0].register_forward_hook(lambda *_: None)
    model.note = "left behind"
    del model.tied


def test_everything_of_a_module_is_put_back_in_its_order():
    model = small()
    model[0].weight.grad = torch.ones(4, 4)
    before, order, weight, grad = look(model), list(model._modules), model.tied, model[0].weight.grad
    with pytest.raises(MemoryError), Transaction(model):
        harm(model)
        raise MemoryError
    assert not apart(before, look(model))
    assert list(model._modules) == order and model.tied is model[0].weight is weight and weight.grad is grad
    assert model.training and not model[0]._forward_hooks


def test_a_transaction_that_succeeds_keeps_what_was_done_unless_it_is_told_otherwise():
    model = small()
    with Transaction(model):
        model[0].weight.data = torch.zeros(4, 4)
    assert not model[0].weight.any()
    with Transaction(model, keep=False):
        harm(model)
    assert type(model[1]) is nn.BatchNorm1d and not hasattr(model, "note")


def test_a_second_interrupt_waits_until_all_is_put_back(monkeypatch):
    model = small()
    before, back = look(model), Snapshot.back

    def slowly(self):
        signal.raise_signal(signal.SIGINT)
        back(self)

    monkeypatch.setattr(Snapshot, "back", slowly)
    with pytest.raises(KeyboardInterrupt), Transaction(model):
        harm(model)
        signal.raise_signal(signal.SIGINT)
    assert not apart(before, look(model))
    with pytest.raises(KeyboardInterrupt), Transaction(model), Transaction(model):  # nor is it lost
        raise MemoryError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_end_of_disabled_cannot_be_broken_off(monkeypatch):
    tiny = build("dit")
    gs.optimize(tiny.pipe, "fora")
    before, record = look(tiny.pipe), record_of(tiny.pipe)
    again = type(record).apply

    def interrupted(self, up_to):
        signal.raise_signal(signal.SIGINT)
        again(self, up_to)

    monkeypatch.setattr(type(record), "apply", interrupted)
    with pytest.raises(KeyboardInterrupt), gs.disabled(tiny.pipe):
        pass
    assert not apart(before, look(tiny.pipe)) and record.on == 1


@pytest.fixture(scope="module")
def saved_plan():
    tiny = build("dit")
    return gs.plan(tiny.pipe, quality=10, data=[{**tiny.parts.call(1), "num_inference_steps": 6}])


def planned(tiny, plan, folder):
    gs.plan(tiny.pipe, quality=10, data=[{**tiny.parts.call(1), "num_inference_steps": 4}])


def switched(tiny, plan, folder):
    with gs.disabled(tiny.pipe):
        pass


VERBS = {
    "restore": lambda tiny, plan, folder: gs.restore(tiny.pipe),
    "disabled": switched,
    "save": lambda tiny, plan, folder: gs.save(tiny.pipe, folder),
    "warm_up": lambda tiny, plan, folder: gs.warm_up(tiny.pipe, steps=2, data=[tiny.parts.call(1)]),
    "verify": lambda tiny, plan, folder: gs.optimize(tiny.pipe, "realesrgan_upscale", verify=True),
    "follow": lambda tiny, plan, folder: plan.apply(tiny.pipe),
    "plan": planned,
}


@pytest.mark.filterwarnings("ignore::gearshift.core.errors.GearshiftWarning")
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_is_broken_off_leaves_everything_as_it_was(verb, recipe, saved_plan, tmp_path):
    if (not recipe) == (verb in ("restore", "disabled")) or (recipe and verb in ("follow", "plan")):
        pytest.skip("it takes a model to which something was done, or nothing")
    tiny, other = (gs.optimize(t.pipe, recipe) and t for t in (build("dit"), build("dit")))
    with Lines() as lines:
        VERBS[verb](other, saved_plan, tmp_path / "other")
    same = verb != "disabled"  # what was off and is on again is made anew
    before, around, status = look(tiny.pipe, same), process(), str(gs.status(tiny.pipe))
    broken = 0
    for at in sorted({*lines.laying[:1], *lines.laying[-1:], *(round(lines.count * x) for x in (0.4, 0.8))}):
        try:
            with Lines(at, KeyboardInterrupt):
                VERBS[verb](tiny, saved_plan, tmp_path / "broken")
        except KeyboardInterrupt:
            broken += 1
            assert (apart(before, look(tiny.pipe, same)), apart(around, process())) == ([], []), at
            assert str(gs.status(tiny.pipe)) == status
            assert list(tmp_path.glob("*broken*")) == []
    assert broken >= 2


def test_saving_leaves_the_model_as_it_was(tmp_path):
    tiny = build("dit")
    gs.optimize(tiny.pipe, "adaptive_precision(profile=performance), taylor")
    before = look(tiny.pipe)
    gs.save(tiny.pipe, tmp_path / "model")
    assert not apart(before, look(tiny.pipe))


def test_restoring_inside_of_disabled_is_for_good():
    tiny = build("dit")
    plain, before = tiny.run(steps=4), look(tiny.pipe)
    gs.optimize(tiny.pipe, "qkv_diffusers, taylor")
    with gs.disabled(tiny.pipe), gs.disabled(tiny.pipe):
        gs.restore(tiny.pipe)
        with pytest.raises(WrongModel, match="Nothing was done"):
            gs.restore(tiny.pipe)
    assert not apart(before, look(tiny.pipe)) and gs.status(tiny.pipe).applied == []
    assert torch.equal(tiny.run(steps=4), plain)


def test_what_is_done_after_restoring_inside_of_disabled_stays_on():
    tiny, other = build("dit"), build("dit")
    gs.optimize(other.pipe, "fora")
    gs.optimize(tiny.pipe, "taylor")
    with gs.disabled(tiny.pipe):
        gs.restore(tiny.pipe)
        gs.optimize(tiny.pipe, "fora")
    assert [a["name"] for a in gs.status(tiny.pipe).applied] == ["fora"]
    assert torch.equal(tiny.run(), other.run())


def test_an_exception_inside_of_disabled_puts_everything_on_again():
    tiny = build("dit")
    gs.optimize(tiny.pipe, "qkv_diffusers, taylor")
    changed, record = tiny.run(), record_of(tiny.pipe)
    with pytest.raises(ZeroDivisionError), gs.disabled(tiny.pipe), gs.disabled(tiny.pipe):
        assert record.on == 0
        _ = 1 / 0
    assert record.on == 2 and torch.equal(tiny.run(), changed)


def test_inside_of_disabled_nothing_is_saved_or_optimized(tmp_path):
    tiny = build("dit")
    gs.optimize(tiny.pipe, "torch_dynamic, taylor", keep_original=True)
    with gs.disabled(tiny.pipe):
        with pytest.raises(GearshiftError, match="cannot be saved inside of `disabled`"):
            gs.save(tiny.pipe, tmp_path / "model")
        with pytest.raises(GearshiftError, match="cannot be optimized inside of `disabled`"):
            gs.optimize(tiny.pipe, "realesrgan_upscale")
    gs.save(tiny.pipe, tmp_path / "model")


def test_restoring_one_of_two_pipelines_around_one_denoiser_restores_both():
    tiny = build("sd")
    gs.optimize(tiny.pipe, "deepcache")
    copy = type(tiny.pipe)(**tiny.pipe.components, requires_safety_checker=False)
    gs.restore(copy)
    assert gs.status(tiny.pipe).applied == [] == gs.status(copy).applied
    with pytest.raises(WrongModel, match="Nothing was done"):
        gs.restore(tiny.pipe)


def test_the_process_is_left_as_it_was_found():
    import logging
    import os
    import random
    import sys

    before = process()
    with pytest.raises(ZeroDivisionError), surroundings(3):
        drawn = random.random(), torch.rand(1).item()
        sys.path.append("elsewhere")
        os.environ["GEARSHIFT_TEST"] = "1"
        del os.environ["PATH"]
        logging.getLogger("torch.onnx").setLevel(3)
        warnings.simplefilter("ignore", GearshiftWarning)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
        _ = 1 / 0
    assert not apart(before, process())
    with surroundings(3):
        assert drawn == (random.random(), torch.rand(1).item())


def test_what_only_shows_the_attributes_of_another_thing_is_no_obstacle():
    model = small()
    model.kind = [list[int]]  # its attributes are those of list, behind a proxy
    held = Snapshot(model)
    model.kind = []
    held.back()
    assert model.kind == [list[int]]
