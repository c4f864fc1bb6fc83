"""Hooks of other libraries and our gates, put on and taken off in any order: always what is on shows, and no more.

A sample; tools/hook_orders.py walks through all orders of up to so many actions, with more recipes.
"""

import random
import warnings

import pytest
from support.hooks import ACTIONS, HOOKS, Walk

import gearshift as gs
from gearshift.steps.chain import links
from gearshift.steps.gate import Gate

RECIPES = ["taylor(start_step=1)", "fora(start_step=1)", "flux_caching(start_step=1)"]
CASES = [(name, RECIPES[place % len(RECIPES)]) for place, name in enumerate(HOOKS)]
CASES.append(("group offloading, leaves", "adaptive_precision(profile='low_vram')"))


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_hooks_and_gates_go_on_and_off_in_any_order(name, recipe):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their caches leave some runs of ours nothing to fill in
        walk = Walk(HOOKS[name], recipe)
        assert not walk.wanted[True, False].equal(walk.wanted[False, False])
        assert walk.go(random.Random(name).choices(ACTIONS, k=200), most=9) == []
    assert len(walk.done) == 9


def test_a_forward_that_somebody_keeps_hands_calls_on_after_restore():
    walk = Walk(HOOKS["a forward of the user's own"], RECIPES[0])
    walk.go(["optimize"])
    kept = walk.net.forward
    walk.net.forward = lambda *args, **kwargs: kept(*args, **kwargs)
    for wanted in (walk.wanted[True, False], walk.wanted[False, False], walk.wanted[True, False]):
        assert walk.run().equal(wanted)
        if gs.status(walk.tiny.pipe).applied:
            gs.restore(walk.tiny.pipe)
        else:
            gs.optimize(walk.tiny.pipe, RECIPES[0])
    for _ in range(3):
        gs.optimize(walk.tiny.pipe, RECIPES[0])
        gs.restore(walk.tiny.pipe)
    assert walk.run().equal(walk.wanted[False, False])
    assert len([link for link in links(walk.net) if isinstance(link, Gate)]) == 1  # the one that is kept
