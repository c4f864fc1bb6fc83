"""The guard: a run that goes another way than those rehearsed computes more steps; any other is as it was."""

import json
import threading

import numpy as np
import pytest
import torch
from support.each import each
from support.tiny import build

import gearshift as gs
from gearshift.planner.criterion import Criterion, band_of, surprises
from gearshift.planner.plan import Plan
from gearshift.planner.recording import Recording
from gearshift.steps.decision import GUARDED, Action
from gearshift.steps.guard import Guard
from gearshift.steps.predict import Taylor
from gearshift.steps.run import Run
from gearshift.steps.schedule import Schedule

COMPUTED = (0, 1, 6, 11)


def plan(bound, gears=None):
    """12 steps, four computed; the errors of their predictions are usual up to a bound."""
    band = {} if bound is None else dict.fromkeys(COMPUTED[1:], bound)
    return Plan("12", 12, Schedule(COMPUTED, band=band), "target 3x", gears=gears)


def computed(pipe):
    return gs.status(pipe).last_run["auto"].steps(Action.COMPUTE)


@each("name", ["sd", "dit", "flux", "wan"])
def test_runs_inside_of_the_band_are_bit_equal_and_others_compute_more(name):
    tiny = build(name)
    plan(None).apply(tiny.pipe)
    plain = tiny.run(steps=12)
    gs.restore(tiny.pipe)
    plan(1e9).apply(tiny.pipe)
    assert torch.equal(tiny.run(steps=12), plain) and computed(tiny.pipe) == list(COMPUTED)
    assert "guard" not in str(gs.status(tiny.pipe).last_run["auto"])
    gs.restore(tiny.pipe)
    plan(1e-9).apply(tiny.pipe)
    guarded = tiny.run(steps=12)
    assert computed(tiny.pipe) == [0, 1, 4, 6, 11] and not torch.equal(guarded, plain)
    assert "guard: 1 extra step at 4" in str(gs.status(tiny.pipe))
    assert torch.equal(tiny.run(steps=12), guarded)
    gs.restore(tiny.pipe)
    plan(1e-9).apply(tiny.pipe, guard=False)
    assert torch.equal(tiny.run(steps=12), plain)


def test_a_prompt_unlike_those_rehearsed_costs_steps():
    """Embeddings of twenty times the size are nothing like what was rehearsed; those rehearsed stay as they were."""
    tiny = build("sd")
    call = {**tiny.parts.call(2), "num_inference_steps": 24, "output_type": "latent", "return_dict": False}
    found = gs.plan(tiny.pipe, speed=3.0, data=[call])
    assert set(found.schedule.band) == {p for p in found.schedule.computed[1:] if p < 12}
    found.apply(tiny.pipe, guard=False)
    usual = tiny.run(steps=24, batch=2, seed=3)
    gs.restore(tiny.pipe)
    found.apply(tiny.pipe)
    assert torch.equal(tiny.run(steps=24, batch=2, seed=3), usual)
    tiny.run(steps=24, prompt_embeds=20 * tiny.parts.call(1)["prompt_embeds"])
    added = [d.step for d in gs.status(tiny.pipe).last_run["auto"] if d.reason == GUARDED]
    assert added and not set(added) & set(found.schedule.computed)
    assert f"guard: {len(added)} extra step" in str(gs.status(tiny.pipe))


def test_bounded_and_said_in_plain_words():
    schedule = Schedule(tuple(range(0, 60, 5)), band=dict.fromkeys(range(5, 60, 5), 0.1))
    guard, run = Guard.of(schedule, Taylor(1), 2), Run(marked_by_caller=True)
    added = []
    for position in range(60):
        run.position = run.step = position
        if guard.begin(position):
            added.append(position)
        guard.see(run, torch.full((2, 3), (-1.0) ** (position // 5)), torch.zeros(2, 3))
    assert added == [8, 13, 18, 23]


def test_the_guard_and_planning_see_the_same_errors():
    """What planning records of a run is what the guard compares in it: projected errors are those of whole latents."""
    chance = torch.Generator().manual_seed(0)
    outputs, samples = torch.randn(2, 8, 3, 4, 8, 8, generator=chance)
    schedule = Schedule((0, 1, 3, 7), {3: ((0.5,) * 16, (0.2,) * 16, (-0.1,) * 16)}, band={1: 1.0, 3: 1.0, 7: 1.0})
    guard, run, recording, seen = Guard.of(schedule, Taylor(1), 2), Run(marked_by_caller=True), Recording(), {}
    run.place([float(x) for x in range(8)])
    for position in range(8):
        run.position = run.step = position
        guard.begin(position)
        if position in (1, 3, 7):
            predicted = guard._predicted(run, samples[position])
            off = (predicted - outputs[position]).flatten(1).norm(dim=1)
            seen[position] = (off / outputs[position].flatten(1).norm(dim=1)).numpy()
        guard.see(run, outputs[position], samples[position])
        recording.note(run, outputs[position], samples[position], (samples[(position + 1) % 8],))
    found = surprises(recording, schedule, Taylor(1), 2)
    assert set(found) == {1, 3}  # only what is early
    for position, errors in found.items():
        np.testing.assert_allclose(errors, seen[position], rtol=1e-4)


def test_threads_do_not_share_a_guard():
    """One thread's runs leave the band, and the other's, with a plan of its own, do not."""
    quiet, loud = build("dit"), build("dit")
    plan(1e9).apply(quiet.pipe)
    plan(1e-9).apply(loud.pipe)
    alone = {tiny.pipe: tiny.run(steps=12) for tiny in (quiet, loud)}
    together = {}

    def work(tiny):
        together[tiny.pipe] = [tiny.run(steps=12) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(tiny,)) for tiny in (quiet, loud)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert all(torch.equal(run, alone[pipe]) for pipe, runs in together.items() for run in runs)


def test_extra_steps_go_with_gears_and_with_what_is_saved(tmp_path):
    from gearshift.precision import Precision
    from gearshift.precision.schedule import PrecisionSchedule

    tiny = build("dit")
    gears = PrecisionSchedule("joint", (Precision.INT8,) * 6 + (Precision.FP32,) * 6)
    whole = plan(1e-9, gears)
    again = Plan.load(whole.save(tmp_path / "plan.json"))
    assert again == whole
    again.apply(tiny.pipe)
    guarded = tiny.run(steps=12)
    assert computed(tiny.pipe) == [0, 1, 4, 6, 11]
    gs.save(tiny.pipe, tmp_path / "folder")
    loaded = gs.load(tmp_path / "folder")
    assert torch.equal(tiny.run(steps=12, pipe=loaded), guarded) and "1 extra step at 4" in str(gs.status(loaded))
    data = json.loads((tmp_path / "plan.json").read_text())
    del data["schedule"]["band"], data["worst"], data["samples"]
    (tmp_path / "old.json").write_text(json.dumps(data))
    gs.restore(tiny.pipe)
    Plan.load(tmp_path / "old.json").apply(tiny.pipe)
    tiny.run(steps=12)
    assert computed(tiny.pipe) == list(COMPUTED)


@pytest.mark.compiled
def test_a_guarded_plan_compiles_into_one_graph():
    torch._dynamo.reset()
    eager, compiled = build("dit"), build("dit")
    plan(1e-9).apply(eager.pipe)
    plan(1e-9).apply(compiled.pipe)
    gs.optimize(compiled.pipe, "torch_compile")
    torch.testing.assert_close(compiled.run(steps=12), eager.run(steps=12), rtol=2e-2, atol=2e-3)
    assert computed(compiled.pipe) == computed(eager.pipe) == [0, 1, 4, 6, 11]
    torch._dynamo.reset()


def test_the_worst_sample_counts_as_much_as_the_mean():
    whole, most = Criterion(), Criterion(quantile=0.75)
    steady, cliff = [0.01] * 8, [0.003] * 7 + [0.5]
    assert whole(steady) == pytest.approx(0.01) and whole(cliff) > whole(steady)
    assert most(cliff) < most(steady) and whole.worst(cliff) == 0.5 and most.worst(cliff) == 0.003
    assert whole([0.1, float("nan")]) != whole([0.1, 0.1])


def test_the_band_is_made_of_what_runs_had_in_common():
    chance = np.random.default_rng(0)
    usual = [{3: 0.1 * np.exp(0.3 * chance.standard_normal(8))} for _ in range(4)]
    (bound,) = band_of(usual).values()
    assert 0.1 < bound < 0.3
    assert band_of([{3: np.array([np.inf])}]) == {}
