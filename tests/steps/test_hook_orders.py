"""Hooks of other libraries and our gates, put on and taken off in any order: always what is on shows, and no more.

A sample; tools/hook_orders.py walks through all orders of up to so many actions, with more recipes.
"""

import gc
import random
import warnings
import weakref

import pytest
from support.each import each
from support.hooks import ACTIONS, HOOKS, STEPS, Walk
from support.runs import filled
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import BadRecipe, GearshiftWarning
from gearshift.steps.chain import links
from gearshift.steps.gate import Gate, gate_of

RECIPES = ["taylor(start_step=1)", "fora(start_step=1)", "flux_caching(start_step=1)"]
CASES = [(name, RECIPES[place % len(RECIPES)]) for place, name in enumerate(HOOKS)]
CASES.append(("group offloading, leaves", "adaptive_precision(profile='low_vram')"))


@each(("name", "recipe"), CASES)
def test_hooks_and_gates_go_on_and_off_in_any_order(name, recipe):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their caches leave some runs of ours nothing to fill in
        walk = Walk(HOOKS[name], recipe)
        assert not walk.wanted[True, False].equal(walk.wanted[False, False])
        assert walk.go(random.Random(name).choices(ACTIONS, k=200), most=6) == []
    assert len(walk.done) == 6


def test_gears_are_made_when_the_weights_are_there_again():
    walk = Walk(HOOKS["sequential offloading"], "adaptive_precision(profile='low_vram')")
    assert walk.go(["optimize", "disable", "on", "enable", "off"]) == []
    assert walk.go(["optimize", "on", "disable", "off", "enable"]) == []
    assert walk.go(["on", "optimize"]) == []  # refused


def test_what_needs_weights_says_that_they_are_offloaded():
    walk = Walk(HOOKS["sequential offloading"], RECIPES[0])
    walk.go(["on"])
    for recipe in ("torch_dynamic", "half", "qkv_diffusers", "torch_unstructured"):
        with pytest.raises(BadRecipe, match=r"DiTPipeline's weights are offloaded; remove the offloading first\."):
            gs.optimize(walk.tiny.pipe, recipe)
    assert walk.run().equal(walk.wanted[False, True]) and not gs.status(walk.tiny.pipe).applied


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


@pytest.mark.parametrize("recipe", ["taylor(start_step=1)", "fora(start_step=1)"])
def test_gates_that_another_forward_pushed_out_are_back_in_the_next_run(recipe):
    tiny = build("flux")
    plain = tiny.run(steps=STEPS)
    gs.optimize(tiny.pipe, recipe)
    wanted = tiny.run(steps=STEPS)
    for module in tiny.pipe.transformer.modules():
        vars(module).pop("forward", None)
    assert not gs.status(tiny.pipe).last_run  # there may have been calls without the gates since
    for module in tiny.pipe.transformer.modules():
        module.forward = type(module).forward.__get__(module)
    assert tiny.run(steps=STEPS).equal(wanted)
    assert filled(tiny.pipe)
    gs.restore(tiny.pipe)
    assert tiny.run(steps=STEPS).equal(plain)


def test_modules_that_were_replaced_are_told():
    tiny, other = build("flux"), build("flux")
    gs.optimize(tiny.pipe, "fora(start_step=1)")
    tiny.run(steps=STEPS)
    tiny.pipe.transformer.transformer_blocks[0] = other.pipe.transformer.transformer_blocks[0]
    with pytest.warns(GearshiftWarning, match=r"fora does nothing at 1 modules \(FluxTransformerBlock\)"):
        tiny.run(steps=STEPS)
    tiny.pipe.transformer = other.pipe.transformer
    with pytest.warns(GearshiftWarning, match=r"fora does nothing at \d+ modules \(FluxTransformer2DModel"):
        status = gs.status(tiny.pipe)
    assert not status.last_run and "were replaced" in status.applied[0]["notes"][-1]


def test_a_pipeline_that_shares_parts_with_an_optimized_one_is_told_nothing():
    tiny, other = build("sd"), build("sd")
    gs.optimize(tiny.pipe, "periodic")
    other.pipe.vae = tiny.pipe.vae
    other.run(steps=STEPS)
    assert all("replaced" not in note for entry in gs.status(other.pipe).applied for note in entry["notes"])


def test_a_hook_keeps_nothing_of_a_gate_that_left():
    tiny = build("dit")
    gs.optimize(tiny.pipe, "stable_fast")
    tiny.run(steps=STEPS)
    HOOKS["model offloading"].on(tiny.pipe, tiny.pipe.transformer)
    graphs = weakref.ref(gate_of(tiny.pipe.transformer).compiled)
    gs.restore(tiny.pipe)
    gc.collect()
    assert graphs() is None
