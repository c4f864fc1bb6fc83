"""`gearshift.plan` and the planned cachers: what is asked for is got, and the plan is a thing that can be kept."""

import copy

import pytest
import torch
from support.interrupting import apart, look
from support.timed import gears
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import BadRecipe, BadValue, BrokenFolder
from gearshift.measure.calls import Turns
from gearshift.planner.joint_rehearsal import JointRehearsals
from gearshift.planner.plan import Plan
from gearshift.planner.quality import unlike
from gearshift.planner.recording import Recording
from gearshift.steps.decision import Action, Decision, RunLog
from gearshift.steps.schedule import Schedule


def call(tiny, steps=12):
    return {**tiny.parts.call(1), "num_inference_steps": steps, "return_dict": False}


@pytest.fixture(scope="module")
def planned():
    tiny = build("dit")
    plain = tiny.run(steps=12)
    return tiny, plain, gs.plan(tiny.pipe, speed=2.0, data=[call(tiny)])


def test_planning_leaves_the_pipe_as_it_was(planned):
    tiny, plain, plan = planned
    assert torch.equal(tiny.run(steps=12), plain) and not gs.status(tiny.pipe).applied
    assert plan.schedule.computed[0] == 0 and 2 <= len(plan.schedule.computed) < 12
    assert plan.quality == pytest.approx(-20 * torch.tensor(plan.error).log10().item(), rel=1e-4)
    filled = set(range(12)) - set(plan.schedule.computed)
    assert set(plan.schedule.weights) == {*filled, *plan.schedule.computed[1:]}  # the computed ones for the guard


def test_a_plan_applies_and_comes_off(planned, tmp_path):
    tiny, plain, plan = planned
    plan.apply(tiny.pipe)
    cached = tiny.run(steps=12)
    (log,) = gs.status(tiny.pipe).last_run.values()
    assert tuple(log.steps(Action.COMPUTE)) == plan.schedule.computed and not torch.equal(cached, plain)
    gs.save(tiny.pipe, tmp_path / "folder")
    assert torch.equal(tiny.run(steps=12, pipe=gs.load(tmp_path / "folder")), cached)
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=12), plain)


def test_the_target_stays_as_it_was_said(planned, tmp_path):
    tiny, _, plan = planned
    told = f"target 2x: {len(plan.schedule.computed)} of 12 steps computed"
    assert str(plan).startswith(told) and repr(plan).startswith(
        f"<Plan {told}, {plan.quality:.1f} dB (worst of {plan.samples} samples"
    )
    plan.apply(tiny.pipe)
    assert told in str(gs.status(tiny.pipe))
    gs.save(tiny.pipe, tmp_path / "folder")
    assert told in (tmp_path / "folder" / "gearshift.json").read_text()
    loaded = gs.load(tmp_path / "folder")
    assert told in str(gs.status(loaded)) and gs.status(loaded).applied[0]["params"]["speed_factor"] == 0.5
    gs.restore(tiny.pipe)


def test_what_is_printed_of_plans_and_runs_is_bounded():
    plan = Plan("k", 1000, Schedule(tuple(range(0, 1000, 7)), {p: (1.0,) * 3 for p in range(1, 1000)}), "target 2x")
    assert len(str(plan)) < 400 and len(repr(plan)) < 80 and len(plan.line) == 1000
    log = RunLog("periodic", "backbone")
    for step in range(1000):
        log.note(Decision(step, "backbone", 0, Action.REUSE if step % 2 else Action.COMPUTE))
    status = gs.core.status.Status([], 0, {"periodic": log})
    assert len(str(log)) < 300 and len(repr(log)) < 300 and len(repr(status)) < 200
    assert "reused: 500 of 1000" in str(log)


def test_the_positions_of_image_to_image_are_told_rightly(tmp_path):
    from diffusers import StableDiffusionImg2ImgPipeline

    tiny = build("sd")
    pipe = StableDiffusionImg2ImgPipeline.from_pipe(tiny.pipe)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    given = {**call(tiny, 20), "image": image, "strength": 0.6}
    [given.pop(name) for name in ("height", "width") if name in given]
    plan = gs.plan(pipe, speed=2.0, data=[given])
    assert (plan.start, plan.steps) == (8, 12) and plan.schedule.computed[0] == 8
    assert len(plan.line) == 12 and plan.line.count("#") == len(plan.schedule.computed)
    again = Plan.load(plan.save(tmp_path / "plan.json"))
    assert again == plan
    short = plan.resampled(6)
    assert short.start == 0 and short.schedule.computed[0] == 0 and len(short.line) == 6
    again.apply(pipe)
    pipe(**given)
    (log,) = gs.status(pipe).last_run.values()
    assert [8 + step for step in log.steps(Action.COMPUTE)] == list(plan.schedule.computed)


@pytest.mark.parametrize("wanted", [{"speed": 100}, {"speed": 6.5}, {"memory": 1000}])
def test_a_target_that_no_plan_reaches_is_refused(wanted):
    tiny = build("dit")
    with pytest.raises(BadValue, match=r"cannot be reached in a call of 12 steps: .* at most"):
        gs.plan(tiny.pipe, data=[{**tiny.parts.call(1), "num_inference_steps": 12, "output_type": "np"}], **wanted)
    assert not gs.status(tiny.pipe).applied


def test_turns_tell_the_medians_and_what_cannot_be():
    from gearshift.measure.calls import in_turns

    def calls(*seconds):
        found = iter(seconds)
        return lambda: next(found)

    steady = in_turns(calls(2.0, 9.0, 2.0, 2.0, 2.0, 2.0), calls(1.0, 1.0, 1.0, 1.0, 1.0, 1.0), 0.4)
    assert steady.fraction == 0.5 and steady.spread == 3.5 and steady.is_explained and len(steady.full) == 6
    assert len(in_turns(calls(2.0, 2.0, 2.1), calls(1.0, 1.0, 1.0), 0.4).full) == 3
    odd = in_turns(calls(*[8.0] * 6), calls(*[1.0] * 6), 0.4)
    assert not odd.is_explained and len(odd.full) == 6
    plan = Plan("k", 10, Schedule((0, 2, 5, 8)), "target 2x", error=0.01, fraction=0.125, least=0.4, spread=0.5)
    assert "2.50x at most" in str(plan) and "uneven" in str(plan)


def test_a_plan_is_saved_loaded_printed_and_plotted(planned, tmp_path):
    _, _, plan = planned
    again = Plan.load(plan.save(tmp_path / "plan.json"))
    assert again.schedule == plan.schedule and again.key == plan.key and str(again) == str(plan)
    assert f"{len(plan.schedule.computed)} of 12" in str(plan) and "#" in str(plan)
    assert plan.plot(tmp_path / "plan.png").stat().st_size > 1000
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(BrokenFolder, match=r"other\.json"):
        Plan.load(tmp_path / "other.json")


def test_a_resampled_plan_keeps_its_share_and_its_shape(planned):
    tiny, _, _ = planned
    plan = Plan("k", 50, Schedule((0, 1, 2, 4, 8, 16, 24, 32, 40, 46, 48, 49)), "asked")
    short = plan.resampled(28)
    assert short.schedule.computed[0] == 0 and short.schedule.computed[-1] == 27
    assert len(short.schedule.computed) == 7 and "not measured" in str(short)
    short.apply(tiny.pipe)
    tiny.run(steps=28)
    (log,) = gs.status(tiny.pipe).last_run.values()
    assert tuple(log.steps(Action.COMPUTE)) == short.schedule.computed
    gs.restore(tiny.pipe)


def test_a_quality_is_kept_with_as_few_steps_as_it_takes():
    tiny = build("dit")
    loose, tight = (gs.plan(tiny.pipe, quality=dB, data=[call(tiny)]) for dB in (15, 60))
    assert loose.quality > 14 and len(loose.schedule.computed) <= len(tight.schedule.computed)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "needs one of speed"),
        ({"speed": 2, "quality": 30}, "needs one of speed"),
        ({"speed": 0.5}, "1 to 1000000"),
        ({"memory": "4"}, "1 to 1000000"),
    ],
)
def test_a_plan_for_nothing_sensible_is_refused(wanted, message):
    tiny = build("dit")
    with pytest.raises(BadValue, match=message):
        gs.plan(tiny.pipe, data=[call(tiny)], **wanted)


def test_a_plan_beside_another_cacher_is_refused(planned):
    tiny, _, plan = planned
    gs.optimize(tiny.pipe, "periodic")
    with pytest.raises(BadRecipe):
        gs.follow(tiny.pipe, plan)
    gs.restore(tiny.pipe)


@pytest.mark.parametrize("settings", ["cache_mode=default", "cache_mode=taylor", "objective=quality"])
def test_the_planned_cacher_repeats_or_extrapolates(settings):
    tiny = build("flux")
    plain = tiny.run(steps=12)
    gs.optimize(tiny.pipe, f"auto(speed_factor=0.5, {settings})", data=[call(tiny)])
    figures = gs.status(tiny.pipe).applied[0]["figures"]
    assert figures["planning_runs"] > 3 and 0 < figures["relative_error_of_the_latent"] < 1
    assert not torch.equal(tiny.run(steps=12), plain)


def test_statistics_do_not_mind_another_order_but_do_mind_noise():
    runs = [Recording(), Recording(), Recording()]
    sample = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for run, value in zip(runs, (sample, sample.flip(0), sample + 0.5 * torch.randn(8, 4, 8, 8)), strict=True):
        run.sample = value
    assert unlike(runs[1], runs[0]) < 1e-5 < 0.05 < unlike(runs[2], runs[0])


def test_a_loop_of_the_callers_own_is_planned():
    """The adapter of the README: a denoiser and a loop that gearshift has never seen."""

    class Mine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.line = 0, torch.nn.Linear(6, 6)

        def forward(self, x, t):
            self.calls += 1
            return torch.tanh(self.line(x)) * (1 + t)

    torch.manual_seed(0)
    denoiser, noise = Mine().eval(), torch.randn(2, 6)
    times = [1 - k / 20 for k in range(20)]

    def sample():
        x = noise
        with torch.no_grad(), gs.sampling(times) as run:
            for t in times:
                before, output = x, denoiser(x, t)
                x = before - 0.05 * output
                run.tick(output, before, x)
        return x

    plain = sample()
    fresh = copy.deepcopy(denoiser)
    gs.optimize(denoiser, {"auto": {"custom_model": True, "cache_mode": "taylor", "speed_factor": 0.5}})
    assert torch.equal(sample(), plain)
    denoiser.calls = 0
    planned = sample()
    assert denoiser.calls < 20 and 0 < (planned - plain).norm() / plain.norm() < 0.05
    gs.restore(denoiser)
    assert torch.equal(sample(), plain) and fresh.calls == 20


def test_a_plan_for_memory_joins_steps_and_gears(tmp_path):
    tiny = build("dit")
    call = {**tiny.parts.call(1), "num_inference_steps": 12, "output_type": "np"}
    plain = tiny.run(steps=12)
    plan = gs.plan(tiny.pipe, memory=4.0, data=[call])
    assert torch.equal(tiny.run(steps=12), plain) and not gs.status(tiny.pipe).applied
    assert plan.memory <= 0.25 + 1e-9 and plan.gears is not None and set(plan.line) <= set("#84.")
    again = gs.Plan.load(plan.save(tmp_path / "plan.json"))
    assert again == plan and "less memory-time" in str(again)
    again.apply(tiny.pipe)
    cached = tiny.run(steps=12)
    logs = gs.status(tiny.pipe).last_run
    assert [d.precision for d in logs["adaptive_precision"]] == [p.name for p in plan.gears.precisions]
    assert logs["auto"].steps(Action.COMPUTE) == list(plan.schedule.computed)
    gs.save(tiny.pipe, tmp_path / "folder")
    assert torch.equal(tiny.run(steps=12, pipe=gs.load(tmp_path / "folder")), cached)
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=12), plain)
    shorter = plan.resampled(6)
    assert shorter.gears.total_steps == 6 and shorter.memory is None


def test_a_plan_for_speed_takes_gears_only_where_they_are_faster(monkeypatch):
    from gearshift.precision import Precision, gear_install

    tiny, times = build("dit"), {}
    call = {**tiny.parts.call(1), "num_inference_steps": 8, "output_type": "np"}
    times.update(gears(2.0, 1.5))
    monkeypatch.setattr(gear_install, "measured_times", lambda model, data: times)
    assert gs.plan(tiny.pipe, speed=2.0, data=[call]).gears is None
    times.update(gears(2.0, 0.4))
    monkeypatch.setattr(JointRehearsals, "gain", lambda *_: Turns(0.1, [1.0, 1.0], [0.8, 0.8]))
    plan = gs.plan(tiny.pipe, speed=2.0, data=[call])
    assert Precision.INT4 not in plan.gears.precisions and "8" in plan.line


@pytest.mark.parametrize("planned", [[1.1, 1.1], [0.7, 1.0]])
def test_gears_that_earn_nothing_in_whole_calls_are_left_out(monkeypatch, planned):
    from gearshift.planner import joint_search
    from gearshift.precision import gear_install

    tiny, said = build("dit"), []
    call = {**tiny.parts.call(1), "num_inference_steps": 8, "output_type": "np"}
    monkeypatch.setattr(gear_install, "measured_times", lambda model, data: gears(2.0, 0.4))
    monkeypatch.setattr(JointRehearsals, "gain", lambda *_: Turns(0.1, [1.0, 1.0], planned))
    monkeypatch.setattr(joint_search, "progress_line", said.append)
    before = look(tiny.pipe)
    plan = gs.plan(tiny.pipe, speed=2.0, data=[call])
    assert plan.gears is None and len(plan.schedule.computed) < 8
    assert any("gearshift leaves low gears out: the same steps took" in sentence for sentence in said)
    assert not apart(before, look(tiny.pipe))


def test_a_plan_for_quality_takes_gears_where_they_are_faster(monkeypatch):
    from gearshift.precision import gear_install

    tiny, times = build("dit"), {}
    call = {**tiny.parts.call(1), "num_inference_steps": 8, "output_type": "np"}
    times.update(gears(2.0, 0.3))
    monkeypatch.setattr(gear_install, "measured_times", lambda model, data: times)
    monkeypatch.setattr(JointRehearsals, "gain", lambda *_: Turns(0.1, [1.0, 1.0], [0.8, 0.8]))
    plan = gs.plan(tiny.pipe, quality=30.0, data=[call])
    assert plan.error <= 10 ** (-30 / 20) and "8" in plan.line
    exact = gs.plan(tiny.pipe, quality=119.0, data=[call])
    assert exact.line == "#" * 8 and exact.error == 0.0
    times.update(gears(2.0, 1.5))
    assert gs.plan(tiny.pipe, quality=30.0, data=[call]).gears is None
