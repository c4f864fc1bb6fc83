"""Every verb changes a model as a whole or not at all: it is broken off at many of its lines, for every algorithm."""

import pytest
import torch
from support.interrupting import Lines, apart, look, process
from support.tiny import TinyLanguage, build

import gearshift as gs
from gearshift.algorithms.distillers import hyper
from gearshift.core.facts import Family, Kind, Trait
from gearshift.core.registry import registry
from gearshift.kernels import speed

KINDS = {"llama": Kind.LANGUAGE, "dit": Kind.DIFFUSION, "sd": Kind.DIFFUSION, "flux": Kind.DIFFUSION}
PARAMS = {"torchao_autoquant": {"compile": False}, "torch_structured": {"sparsity": 0.5}}
ERRORS = (KeyboardInterrupt, MemoryError)


def tiny_for(cls):
    """The smallest tiny model that an algorithm works on; None if there is none."""
    for name, kind in KINDS.items():
        if kind in cls.facts.kinds and (name == "sd" or Trait.UNET not in cls.facts.needs):
            tiny = build(name)
            if not gs.problems(tiny.pipe, recipe(cls), data=lesson(tiny, cls)):
                return name
    return None


def recipe(cls):
    return {cls.name: PARAMS.get(cls.name, {})}


def lesson(tiny, cls):
    trains = cls.facts.family in (Family.RECOVERER, Family.DISTILLER)
    if isinstance(tiny, TinyLanguage):
        return [tiny.call(256 if trains else 64)]
    return [{**tiny.parts.call(1), "num_inference_steps": 3}] if trains else None


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing is timed, so that two goes decide alike, and distilling is short."""
    monkeypatch.setattr(speed, "compared", lambda *_: 2.0)
    monkeypatch.setattr(hyper, "EPOCHS", 1)


def optimized(tiny, cls):
    return gs.optimize(tiny.pipe, recipe(cls), data=lesson(tiny, cls))


def spread(numbers, count):
    return sorted({numbers[round(i * (len(numbers) - 1) / max(count - 1, 1))] for i in range(count)}) if numbers else []


@pytest.mark.filterwarnings("ignore::gearshift.core.errors.GearshiftWarning")
@pytest.mark.parametrize("cls", list(registry()), ids=lambda c: c.name)
def test_an_algorithm_that_is_broken_off_leaves_everything_as_it_was(cls):
    name = tiny_for(cls)
    if name is None:
        pytest.skip("no tiny model is of its kind, or a package is missing")
    tiny, whole = build(name), build(name)
    with Lines() as lines:
        made = optimized(whole, cls)
    before, around = look(tiny.pipe), process()
    broken = 0
    for number, at in enumerate([*spread(lines.laying, 2), *spread(range(2, lines.count), 4)[1:3]]):
        try:
            with Lines(at, ERRORS[number % 2]):
                optimized(tiny, cls)
        except ERRORS:
            broken += 1
            assert (apart(before, look(tiny.pipe)), apart(around, process())) == ([], []), at
            assert gs.status(tiny.pipe).applied == []
        else:  # it got through in fewer lines, as something was known from before
            tiny = build(name)
            before = look(tiny.pipe)
    assert broken >= 2
    if made is whole.pipe and cls.facts.family is not Family.COMPILER:
        optimized(tiny, cls)
        assert torch.equal(tiny.run(steps=2), whole.run(steps=2))
