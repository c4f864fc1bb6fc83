"""Every verb changes a model as a whole or not at all: it is broken off at many of its lines, for every algorithm."""

import pytest
import torch
from support.interrupting import Lines, apart, back_and_on_at_every_change, look, process
from support.registered import optimized, quick, tiny_for  # noqa: F401
from support.tiny import build

import gearshift as gs
from gearshift.core.facts import Family
from gearshift.core.registry import registry

ERRORS = (KeyboardInterrupt, MemoryError)


def spread(numbers, count):
    return sorted({numbers[round(i * (len(numbers) - 1) / max(count - 1, 1))] for i in range(count)}) if numbers else []


@pytest.mark.usefixtures("quick")
@pytest.mark.filterwarnings("ignore::gearshift.core.errors.GearshiftWarning")
@pytest.mark.parametrize("cls", list(registry()), ids=lambda c: c.name)
def test_an_algorithm_that_is_broken_off_leaves_everything_as_it_was(cls, monkeypatch):
    name = tiny_for(cls)
    if name is None:
        pytest.skip("no tiny model is of its kind, or a package is missing")
    tiny, whole = build(name), build(name)
    with Lines() as lines:
        made = optimized(whole, cls)
    before, around = look(tiny.pipe), process()
    broken = 0
    for number, at in enumerate([*spread(lines.laying, 2)[-1:], lines.count // 2]):
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
    assert broken
    wrong = back_and_on_at_every_change(monkeypatch, tiny.pipe, before)
    optimized(tiny, cls)
    assert not any(wrong) and len(wrong) >= gs.status(made).applied[0]["figures"].get("layers", 0)
    if made is whole.pipe and cls.facts.family is not Family.COMPILER:
        assert torch.equal(tiny.run(steps=2), whole.run(steps=2))
