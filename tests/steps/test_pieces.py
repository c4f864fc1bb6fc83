"""Triggers, predictors, memory and coordinates by themselves, in numbers."""

import math
import weakref
from collections import OrderedDict, UserDict, defaultdict, deque
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from support.each import each

from gearshift.steps.decision import Action, Decision, RunLog
from gearshift.steps.memory import Kept, Memory, blend
from gearshift.steps.noise_schedule import coordinates
from gearshift.steps.predict import Copy, Taylor, by_mode
from gearshift.steps.run import Run, current, open_run, sampling
from gearshift.steps.tree import signature, structure, tensors, with_tensors
from gearshift.steps.trigger import Drift, Every


def computed(trigger, steps=12):
    run, state, found = Run(), {}, []
    for _ in range(steps):
        if trigger.reason_to_compute(run, state):
            found.append(run.step)
        run.tick()
    return found


@pytest.mark.parametrize(
    ("interval", "start", "expected"),
    [
        (1, 0, list(range(12))),
        (2, 0, [0, 2, 4, 6, 8, 10]),
        (3, 2, [0, 1, 2, 5, 8, 11]),
        (5, 10, [*range(11)]),
    ],
)
def test_every(interval, start, expected):
    assert computed(Every(interval, start)) == expected
    assert (Every(interval, start).expected_reason(None) is None) == (interval > 1)


def drift(latents, threshold, max_skip=9):
    trigger, run, state, found = Drift(threshold, max_skip), Run(), {}, []
    for step, latent in enumerate(latents):
        run.sample = latent
        if trigger.reason_to_compute(run, state):
            found.append(step)
        run.tick()
    return found


def test_drift_computes_when_the_latent_has_moved_far_enough():
    path = [torch.ones(1, 4) * (1 + 0.03 * i) for i in range(10)]
    assert drift(path, 0.05**2) == [0, 2, 4, 6, 8]
    assert drift(path, 0.2**2) == [0, 7]
    assert drift(path, 0.2**2, max_skip=2) == [0, 3, 6, 9]


def test_drift_goes_by_the_sample_that_moved_most():
    still = torch.ones(5, 2, 4)
    still[3:, 1] *= 1.5
    assert drift(list(still), 0.1) == [0, 3]
    assert drift([list(latents) for latents in still], 0.1) == [0, 3]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_taylor_is_exact_on_polynomials_of_its_order_with_uneven_gaps(order):
    at = [3.0, 1.5, 0.7, -0.2, -2.0][: order + 1]

    def polynomial(x):
        return sum((i + 1) * x**i for i in range(order + 1))

    predicted = sum(w * polynomial(a) for w, a in zip(Taylor(order).weights(at, 4.1), at, strict=True))
    assert predicted == pytest.approx(polynomial(4.1), rel=1e-9)


def test_taylor_with_one_output_or_a_repeated_coordinate_copies():
    assert Taylor(3).weights([2.0], 5.0) == [1.0]
    assert Taylor(1).weights([2.0, 2.0], 5.0) == [1.0, 0.0]
    assert Copy().weights([2.0, 1.0], 5.0) == [1.0]
    assert by_mode("default") == Copy() and by_mode("taylor") == Taylor(1)


def test_blend_sums_half_precision_in_float32():
    a, b = torch.full((4,), 1000.0), torch.full((4,), 999.0)
    history = deque(Kept(i, t.to(torch.bfloat16), copy=False) for i, t in enumerate((b, a)))
    exact = 50 * a.bfloat16().float() - 49 * b.bfloat16().float()
    assert torch.equal(blend(history, [50.0, -49.0]), exact.bfloat16())


def test_blend_keeps_the_structure():
    history = deque(Kept(i, (None, [torch.full((2,), float(i))], {"x": torch.ones(1)}), copy=False) for i in (1, 2))
    nothing, (line,), named = blend(history, [2.0, -1.0])
    assert nothing is None and torch.equal(line, torch.full((2,), 3.0)) and torch.equal(named["x"], torch.ones(1))


def test_memory_forgets_what_was_written_into_and_keeps_copies_from_then_on():
    memory, output = Memory(2), torch.ones(3)
    memory.meet([])
    memory.keep(0.0, output)
    assert memory.meet([]) is None
    output.add_(1)
    assert memory.meet([]) == "nothing is kept yet"
    memory.keep(1.0, output)
    output.add_(1)
    assert memory.meet([]) is None and torch.equal(memory.history[0].tensors[0], torch.full((3,), 2.0))


def test_memory_forgets_when_the_inputs_change():
    memory = Memory(1)
    memory.meet(signature((torch.ones(2),), {}))
    memory.keep(0.0, torch.ones(2))
    assert "changed" in memory.meet(signature((torch.ones(3),), {}))
    assert memory.meet(signature((torch.ones(3),), {})) == "nothing is kept yet"


def test_signatures_see_tensors_in_lists_and_their_types():
    one = signature(([torch.ones(2)],), {"a": torch.ones(1)})
    assert one == signature(([torch.zeros(2)],), {"a": torch.zeros(1)})
    assert one != signature(([torch.ones(2).half()],), {"a": torch.ones(1)})
    assert one != signature(([torch.ones(2), torch.ones(2)],), {"a": torch.ones(1)})


def test_tree_round_trip():
    value = (torch.ones(1), {"a": [torch.zeros(2), 3]}, None)
    again = with_tensors(value, [t + 1 for t in tensors(value)])
    assert again[0].item() == 2 and again[1]["a"][0].tolist() == [1, 1] and again[1]["a"][1] == 3 and again[2] is None


def test_coordinates_are_log_snr_or_sigma():
    from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

    ddim, euler, flow = DDIMScheduler(), EulerDiscreteScheduler(), FlowMatchEulerDiscreteScheduler()
    for scheduler in (ddim, euler, flow):
        scheduler.set_timesteps(10)
    for scheduler in (ddim, euler):
        found = coordinates(scheduler, [float(t) for t in scheduler.timesteps])
        a = ddim.alphas_cumprod[int(scheduler.timesteps[4])].item()
        assert found[4] == pytest.approx(math.log(a / (1 - a)), abs=2e-2)
        assert found == sorted(found)
    assert coordinates(flow, [float(t) for t in flow.timesteps]) == pytest.approx(flow.sigmas[:-1].tolist())
    assert coordinates(object(), [1.0]) == []


def test_a_log_counts_a_step_as_computed_if_any_place_was():
    log = RunLog("a", "block")
    log.note(Decision(0, "block", 0, Action.REUSE))
    log.note(Decision(0, "block", 0, Action.COMPUTE, reason="one of them"))
    log.note(Decision(1, "block", 0, Action.REUSE))
    assert log.steps(Action.REUSE) == [1] and "#." in str(log)


def test_sampling_ends_its_run_even_after_an_error():
    with pytest.raises(KeyError), sampling([3.0, 2.0]) as run:
        assert run.noise_coordinate == 3.0
        run.tick()
        assert run.noise_coordinate == 2.0
        raise KeyError
    assert current() is None


def test_a_run_that_is_broken_off_keeps_nothing():
    class Asked:
        """Stands for a rule."""

    rule, run = Asked(), open_run(Run())
    run.branch = 0
    memory = run.memory(rule, "place", 1)
    memory.keep(0.0, torch.ones(1))
    output = weakref.ref(memory.history[-1].output)
    del memory
    assert output() is not None and current() is run
    run.drop()
    assert output() is None and current() is None


def test_a_run_lets_go_of_a_rule_and_a_scheduler_that_nobody_else_has():
    class Asked:
        """Stands for a rule."""

    class Sampler:
        """Stands for a scheduler."""

    rule, scheduler = Asked(), Sampler()
    run = open_run(Run(scheduler))
    run.held(rule).state["sample"] = torch.ones(1)
    there = [weakref.ref(rule), weakref.ref(scheduler), weakref.ref(run.held(rule).state["sample"])]
    del rule, scheduler
    assert [ref() for ref in there] == [None] * 3 and run.is_forsaken()
    open_run(Run())
    assert run.over


@dataclass(frozen=True)
class Answer:
    sample: torch.Tensor
    extra: object = None


class Keys:
    """Stands for a cache of keys and values."""

    def __init__(self):
        self.layers = [{"keys": torch.ones(2)}]


class Strict(UserDict):
    """A mapping whose constructor takes what it likes."""

    def __init__(self, *, sample):
        super().__init__()
        self.data["sample"] = sample


@each(
    "made",
    [
        lambda t: t,
        lambda t: (t, None),
        lambda t: {"sample": t, 3: "text"},
        lambda t: OrderedDict(a=t, b=[t]),
        lambda t: MappingProxyType({"a": t}),
        lambda t: Strict(sample=t),
        lambda t: Answer(t, {"mode": "x"}),
        lambda t: Transformer2DModelOutput(sample=t),
        lambda t: defaultdict(list, a=t),
    ],
)
def test_outputs_of_any_structure_are_mixed(made):
    memory = Memory(2)
    for at, value in ((1.0, 1.0), (2.0, 3.0)):
        memory.keep(at, made(torch.full((2,), value)))
    filled = memory.fill(Taylor(1).weights(memory.at, 3.0))
    assert type(filled) is type(made(torch.ones(2))) and memory.meet([]) is None
    assert all(torch.equal(t, torch.full((2,), 5.0)) for t in tensors(filled)) and tensors(filled)
    assert structure(filled) == structure(made(torch.ones(2)))


@each(
    ("outputs", "why"),
    [
        ([(torch.ones(2), Keys())], "holds a Keys"),
        ([Answer(torch.ones(2), Keys())] * 2, "holds a Keys"),
        ([{"sample": torch.ones(2), "step": n} for n in range(2)], "changes with the step"),
        ([(torch.ones(2), torch.tensor(n)) for n in range(2)], "changes with the step"),
        ([(torch.ones(2), torch.ones(n, 2)) for n in range(2)], "changes with the step"),
        ([{"a": torch.ones(2)}, {"b": torch.ones(2)}], "changes with the step"),
    ],
)
def test_state_and_what_changes_with_the_step_is_computed(outputs, why):
    memory = Memory(3)
    assert memory.meet(["shape"]) == "nothing is kept yet"
    for at, output in enumerate(outputs):
        memory.keep(float(at), output)
    assert why in memory.meet(["shape"])


def test_integers_in_an_output_are_not_mixed():
    memory = Memory(2)
    for at in (1.0, 2.0):
        memory.keep(at, (torch.full((2,), at), torch.tensor([7])))
    assert memory.fill([2.0, -1.0])[1].tolist() == [7]
