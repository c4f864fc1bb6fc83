"""Tiny pipelines for the engine's tests."""

import pytest
from support.tiny import build

import gearshift as gs

MADE, PLAIN = {}, {}


@pytest.fixture
def tinies():
    """Tiny pipelines by name, made once, with their plain output; whatever a test did to one is taken off after it."""

    def get(name, steps=8):
        tiny = MADE[name] = MADE.get(name) or build(name)
        if (name, steps) not in PLAIN:
            PLAIN[name, steps] = tiny.run(steps=steps)
        return tiny, PLAIN[name, steps]

    yield get
    for tiny in MADE.values():
        if gs.status(tiny.pipe).applied:
            gs.restore(tiny.pipe)
