"""Denoisers compiled with a cacher's gates inside: a graph for each kind of pass, and the same numbers."""

import copy
import pickle
import threading

import pytest
import torch
from support.tiny import build
from torch import nn

import gearshift as gs
from gearshift.core.record import Record
from gearshift.steps.decision import Action
from gearshift.steps.gate import Gate, gate_of
from gearshift.steps.predecided_pass import PredecidedForward, predecided_rules
from gearshift.steps.predict import Copy
from gearshift.steps.rule import GateGroup, OutputRule
from gearshift.steps.run import sampling
from gearshift.steps.trigger import Every

PAIRS = [("sd", "deepcache(interval=3)"), ("dit", "fora"), ("dit", "pab"), ("flux", "flux_caching"), ("flux", "fora")]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def graphs(pipe):
    return gs.status(pipe).applied[-1]["figures"]["graphs"]


def actions(pipe):
    (log,) = gs.status(pipe).last_run.values()
    return {action: log.steps(action) for action in Action}


@pytest.mark.parametrize(("name", "cacher"), PAIRS)
def test_a_cached_denoiser_is_two_graphs(tinies, name, cacher):
    tiny, plain = tinies(name)
    gs.optimize(tiny.pipe, cacher)
    wanted, done = tiny.run(steps=8), actions(tiny.pipe)
    assert done[Action.REUSE]
    gs.optimize(tiny.pipe, "stable_fast")
    for _ in range(2):
        close(tiny.run(steps=8), wanted)
        assert actions(tiny.pipe) == done
    assert graphs(tiny.pipe) == 2
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=8), plain)


@pytest.mark.compiled
@pytest.mark.parametrize(("name", "compiler"), [("ltx", "torch_compile"), ("dit", "torch_compile(make_portable=True)")])
def test_inductor_looks_through_the_gates(name, compiler, tmp_path):
    torch._dynamo.reset()
    cached, both = build(name), build(name)
    gs.optimize(cached.pipe, "fora")
    gs.optimize(both.pipe, f"fora, {compiler}")
    close(both.run(steps=8), cached.run(steps=8))
    assert graphs(both.pipe) == 2 and not torch._dynamo.utils.counters["graph_break"]
    assert "recompiles" not in gs.status(both.pipe).applied[-1]["figures"]
    gs.save(both.pipe, tmp_path / "m")
    assert len(list((tmp_path / "m").rglob("*.pt2"))) == (2 if "portable" in compiler else 0)


def test_another_shape_within_a_run_and_between_runs(tinies):
    tiny, _ = tinies("dit")
    gs.optimize(tiny.pipe, "fora")
    wanted = [tiny.run(steps=8, batch=n) for n in (1, 2, 1)]
    gs.optimize(tiny.pipe, "stable_fast")
    for n, want in zip((1, 2, 1), wanted, strict=True):
        close(tiny.run(steps=8, batch=n), want)
    assert graphs(tiny.pipe) == 4
    gs.restore(tiny.pipe)


def test_skipped_guidance_goes_together_with_it(tinies):
    tiny, _ = tinies("dit")
    gs.optimize(tiny.pipe, "fastercache")
    wanted, logs = tiny.run(steps=16), gs.status(tiny.pipe).last_run
    gs.optimize(tiny.pipe, "stable_fast")
    close(tiny.run(steps=16), wanted)
    assert {k: v.steps(Action.REUSE) for k, v in gs.status(tiny.pipe).last_run.items()} == {
        k: v.steps(Action.REUSE) for k, v in logs.items()
    }
    gs.restore(tiny.pipe)


def test_gears_change_beneath_it():
    plain, cached, both = build("dit"), build("dit"), build("dit")
    gs.optimize(plain.pipe, "fora")
    gs.optimize(cached.pipe, "fora, adaptive_precision(profile='low_vram')")
    gs.optimize(both.pipe, "fora, adaptive_precision(profile='low_vram'), stable_fast")
    exact, wanted, got = (tiny.run(steps=10) for tiny in (plain, cached, both))
    assert (got - wanted).norm() < 0.2 * (wanted - exact).norm()


@pytest.mark.parametrize("name", ["sd", "wan"])
def test_several_rules_inside_have_a_graph_for_each_way_they_go(tinies, name):
    tiny, _ = tinies(name)
    gs.optimize(tiny.pipe, "pab")
    wanted, logs = tiny.run(steps=12), gs.status(tiny.pipe).last_run
    filled = {k: set(v.steps(Action.REUSE)) for k, v in logs.items()}
    kinds = {tuple(step in steps for steps in filled.values()) for step in range(12)}
    assert len(filled) == 2 and len(kinds) > 2
    gs.optimize(tiny.pipe, "x_fast")
    close(tiny.run(steps=12), wanted)
    assert {k: set(v.steps(Action.REUSE)) for k, v in gs.status(tiny.pipe).last_run.items()} == filled
    assert graphs(tiny.pipe) == len(kinds)
    gs.restore(tiny.pipe)


@pytest.mark.compiled
def test_blocks_are_still_compiled_one_by_one():
    torch._dynamo.reset()
    cached, both = build("dit"), build("dit")
    gs.optimize(cached.pipe, "fora")
    gs.optimize(both.pipe, "fora, torch_compile(target=module_list)")
    close(both.run(steps=4), cached.run(steps=4))
    assert gate_of(both.pipe.transformer).compiled is None


def test_copies_pickles_and_threads():
    tiny = build("sd")
    gs.optimize(tiny.pipe, "deepcache, stable_fast")
    wanted = tiny.run(steps=8)
    for twin in (copy.deepcopy(tiny.pipe), pickle.loads(pickle.dumps(tiny.pipe))):
        close(tiny.run(steps=8, pipe=twin), wanted)
    found = []

    def work():
        pipe = type(tiny.pipe).from_pipe(tiny.pipe)
        pipe.scheduler = type(tiny.pipe.scheduler).from_config(tiny.pipe.scheduler.config)
        found.append(tiny.run(steps=8, batch=2, pipe=pipe)[:1])

    threads = [threading.Thread(target=work) for _ in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(found) == 3
    for image in found:
        close(image, found[0])


class Net(nn.Module):
    """Goes through `one` twice, and never through `never`."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.never = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        return self.two(self.one(self.one(x)))


def foreseen(net, names, trigger):
    rule = OutputRule("fora", "block", trigger, Record(), True, Copy())
    places = []
    for name in names:
        gate = Gate(net.get_submodule(name))
        gate.attach()
        places.append(GateGroup([gate]))
        gate.rule, gate.place = rule, places[-1]
    gates = [gate for place in places for gate in place.gates]
    assert predecided_rules(gates) == [(rule, places)]
    return PredecidedForward(net, [(rule, places)], lambda module: module), gates


def test_places_that_are_passed_twice_or_never():
    net, x, y = Net(), torch.randn(2, 4), torch.randn(2, 4)
    with torch.no_grad():
        first, second, other = net.one(x), net(x), net(y)
        call, gates = foreseen(net, ["one", "never"], Every(2))
        assert torch.equal(call(y), other)  # outside of a run
        with sampling() as run:
            run.branch = 0
            assert torch.equal(call(x), second)
            run.tick()
            run.branch = 0
            assert torch.equal(call(y), net.two(nn.functional.linear(first, net.one.weight, net.one.bias)))
    assert not any(gate.override for gate in gates)


def test_a_failing_pass_leaves_no_gate_told():
    net = Net()
    call, gates = foreseen(net, ["one"], Every(2))
    with pytest.raises(RuntimeError):
        call(torch.randn(2, 5))
    assert not any(gate.override for gate in gates)


def test_passes_that_cannot_be_foreseen():
    one, two = Gate(nn.Linear(2, 2)), Gate(nn.Linear(2, 2))
    rule, other = (OutputRule("fora", "block", Every(2), Record(), True, Copy()) for _ in range(2))
    place = GateGroup([one, two])
    one.rule = two.rule = rule
    assert not predecided_rules([one, two])  # no place
    one.place = two.place = place
    assert predecided_rules([one, two]) == [(rule, [place])]
    assert not predecided_rules([one])  # part of a place
    two.rule, two.place = other, GateGroup([two])
    place.gates.remove(two)
    assert predecided_rules([one, two]) == [(rule, [place]), (other, [two.place])]
    two.rule = None
    assert not predecided_rules([one, two])
    two.rule, one.wrapped_forward = other, lambda x: x
    assert not predecided_rules([one, two])
