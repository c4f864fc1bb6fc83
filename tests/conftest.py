"""Shared by all tests: one thread, so that equal inputs give equal bits, and quiet libraries."""

import os
from pathlib import Path

import pytest
import torch
from support.timed import as_if
from support.tiny import build

import gearshift as gs
from gearshift.core.log import logger

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)
MADE, PLAIN = {}, {}
FAST = [  # folders and files whose tests take well under a minute together; the marker `fast`
    "house",
    "contract/test_declarations.py",
    "core/test_any_values.py",
    "core/test_param.py",
    "core/test_recipe.py",
    "core/test_registry.py",
    "core/test_rules.py",
    "planner/test_solve.py",
    "precision/test_levels.py",
    "precision/test_schedule.py",
    "quant",
    "steps/test_pieces.py",
]


def pytest_collection_modifyitems(items):
    """What is in a fast folder is `fast`, unless it compiles."""
    for item in items:
        path = item.path.relative_to(Path(__file__).parent)
        if any(path.is_relative_to(place) for place in FAST) and not item.get_closest_marker("compiled"):
            item.add_marker(pytest.mark.fast)


@pytest.fixture(autouse=True)
def same_numbers():
    """Every test draws the same numbers whenever and in whatever company it runs."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """No test leaves gearshift quieter, or louder, than it found it."""
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.fixture(autouse=True)
def layers_twice_as_fast(monkeypatch):
    """What quantizers find their layers to be, and all calls equally long, whatever machine the tests run on."""
    monkeypatch.setattr("gearshift.measure.in_place.timed_in_place", as_if(2.0))
    monkeypatch.setattr("gearshift.measure.in_place.seconds_of", lambda call: 1.0)


@pytest.fixture(autouse=True)
def graphs_of_ones_own(request):
    """What compiles begins with no graphs: torch allows eight of one forward, whoever's they are."""
    if request.node.get_closest_marker("compiled"):
        torch._dynamo.reset()


@pytest.fixture(autouse=True)
def no_leftover_run():
    """Every test starts and ends without an open sampling run."""
    from gearshift.steps import run

    token = run._current.set(None)
    yield
    run._current.reset(token)


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
