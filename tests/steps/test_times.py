"""A denoiser's time argument, however it is made of the scheduler's: runs are located and steps are filled in."""

import math

import diffusers
import pytest
import torch
from support.each import each
from support.runs import filled

import gearshift as gs
from gearshift.steps.gate import gate_of
from gearshift.steps.run import current
from gearshift.steps.times import ScheduleStep, TimestepMapping, Way

STEPS = 10
WAYS = {
    "timestep": lambda t, sigma: t,
    "share": lambda t, sigma: t / 1000,
    "rising share": lambda t, sigma: 1 - t / 1000,
    "rising": lambda t, sigma: 1000 - t,
    "sigma": lambda t, sigma: sigma,
    "rising sigma": lambda t, sigma: 1 - sigma,
    "EDM": lambda t, sigma: torch.tensor(math.log(max(float(sigma), 1e-6)) / 4),
    "unheard of": lambda t, sigma: torch.sqrt(t / 7 + 3),
    "none": lambda t, sigma: None,
}
SCHEDULERS = {
    "DDIM": lambda: diffusers.DDIMScheduler(),
    "Euler": lambda: diffusers.EulerDiscreteScheduler(),
    "EDM": lambda: diffusers.EDMEulerScheduler(),
    "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
    "shifted flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
}


class Own(torch.nn.Module):
    """A denoiser that no table knows."""

    def __init__(self):
        super().__init__()
        self.line, self.calls = torch.nn.Linear(6, 6), 0

    def forward(self, hidden_states, timestep=None):
        self.calls += 1
        return torch.tanh(self.line(hidden_states) / 50)


def own():
    torch.manual_seed(0)
    return Own().eval()


def sample(net, scheduler, way, skipped=0, steps=STEPS, argument=lambda v: v):
    """A sampling loop, perhaps from a later step on, as image to image begins."""
    scheduler.set_timesteps(steps)
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    sigmas = getattr(scheduler, "sigmas", None)
    with torch.no_grad():
        for i, t in list(enumerate(scheduler.timesteps))[skipped:]:
            value = way(t, t / 1000 if sigmas is None else sigmas[i])
            output = net(x, None if value is None else argument(value))
            x = scheduler.step(output, t, x).prev_sample
    return x


RECIPES = ["taylor", "adaptive(threshold=0.2)", "auto", "taylor_auto"]


@each("kind", SCHEDULERS)
@each("way", WAYS)
def test_runs_of_any_denoiser_are_filled_in(kind, way):
    turn = list(SCHEDULERS).index(kind) + list(WAYS).index(way)
    for recipe in ("periodic", RECIPES[turn % len(RECIPES)]):  # each with every scheduler and every way of time
        net, scheduler = own(), SCHEDULERS[kind]()
        plain = sample(net, scheduler, WAYS[way])
        gs.optimize(net, recipe)
        seen = []
        for _ in range(3):
            net.calls = 0
            got = sample(net, scheduler, WAYS[way])
            (log,) = gs.status(net).last_run.values()
            # a time that nothing explains: the scheduler's first step opens the very first run
            assert len(log.table) >= STEPS - (not seen) and log.total == STEPS, (recipe, way)
            assert net.calls == STEPS - len(filled(net)), (recipe, way)
            seen.append((got, filled(net)))
        assert seen[1][1] and seen[1][1] == seen[2][1] and torch.equal(seen[1][0], seen[2][0]), (recipe, way)
        assert (got - plain).norm() / plain.norm() < 0.5 and current() is None, (recipe, way)


@each("way", ["timestep", "share", "rising share", "rising"])
@each("kind", ["DDIM", "flow"])
def test_a_run_that_begins_later_is_located(way, kind):
    net, scheduler = own(), SCHEDULERS[kind]()
    gs.optimize(net, "periodic")
    for _ in range(2):
        sample(net, scheduler, WAYS[way], skipped=4)
        (log,) = gs.status(net).last_run.values()
        assert log.total == STEPS - 4 and filled(net) == [3, 5]


@pytest.mark.parametrize("way", ["unheard of", "none"])
def test_the_first_step_tells_the_place_where_the_denoiser_does_not(way):
    net, scheduler = own(), SCHEDULERS["DDIM"]()
    gs.optimize(net, "auto")
    [sample(net, scheduler, WAYS[way], skipped=4) for _ in range(3)]
    (key,) = gs.core.record.record_of(net).applied[0].saved["schedules"]
    assert "from 4" in key and filled(net)


@each(
    "argument",
    [float, lambda v: v.expand(2), lambda v: v.to(torch.bfloat16), lambda v: torch.stack([v, v * 0]), lambda v: [v]],
)
def test_the_argument_may_be_a_number_rounded_or_one_for_each_sample(argument):
    net, scheduler = own(), SCHEDULERS["shifted flow"]()
    gs.optimize(net, "periodic")
    for _ in range(2):
        sample(net, scheduler, WAYS["share"], argument=argument)
        assert filled(net) == [3, 5, 7, 9]


def test_a_call_inside_of_the_loop_for_another_timestep_is_computed():
    net, scheduler = own(), SCHEDULERS["DDIM"]()
    probe, inside = torch.ones(2, 6), []
    exact = net(probe)
    gs.optimize(net, "periodic(start_step=1, cache_interval=4)")
    sample(net, scheduler, WAYS["timestep"])
    scheduler.set_timesteps(STEPS)
    x = torch.ones(2, 6)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t), t, x).prev_sample
            inside.append(net(probe, torch.tensor(3.0)))
    assert all(torch.equal(output, exact) for output in inside) and filled(net) == [2, 3, 4, 6, 7, 8]


def test_a_loop_that_sets_no_timesteps_again_is_a_run_from_its_first_step_on():
    net, scheduler = own(), SCHEDULERS["DDIM"]()
    gs.optimize(net, "periodic")
    sample(net, scheduler, WAYS["timestep"])
    x = torch.ones(2, 6)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t), t, x).prev_sample
    assert filled(net) and current() is None


def test_a_loop_of_training_is_no_run():
    net, noise_scheduler = own(), diffusers.DDPMScheduler()
    gs.optimize(net, "periodic(start_step=0)")
    x = torch.ones(2, 6)
    exact = [net(x, torch.tensor(t)) for t in (999, 500, 400, 300, 200)]
    with torch.no_grad():
        for t, output in zip((999, 500, 400, 300, 200), exact, strict=True):
            noisy = noise_scheduler.add_noise(x, x * 0, torch.tensor([t]))
            assert torch.equal(net(noisy / noisy * x, torch.tensor(t)), output)
    assert current() is None and not gs.status(net).last_run


def test_a_reading_is_found_and_kept():
    places = [ScheduleStep(t, t / 100, 1000.0) for t in (990.0, 700.0, 400.0, 100.0)]
    reading = TimestepMapping()
    assert reading.find((0.01,), places) == 0 and reading.ways == (Way("share", -1.0, 1.0),)
    assert reading.agrees((0.3,), places[1], first=False) and reading.sure
    assert not reading.agrees((0.9,), places[1], first=False)
    assert reading.find((0.6,), places) == 2 and reading.sure
    told = TimestepMapping(Way("timestep", 2.0))
    assert told.find((800.0,), places) == 2
    assert told.find((0.7,), places) == 1  # the row is not right here
    assert told.find((123.4,), places) is None and told.agrees((5.0,), places[0], first=True)


def test_the_gate_of_a_copy_reads_for_itself():
    import copy
    import pickle

    net, scheduler = own(), SCHEDULERS["flow"]()
    gs.optimize(net, "periodic")
    sample(net, scheduler, WAYS["rising share"])
    twin = pickle.loads(pickle.dumps(copy.deepcopy(gate_of(net).reading)))
    assert twin == gate_of(net).reading and twin.sure


@pytest.mark.parametrize("together", [True, False])
def test_two_schedulers_that_are_set_before_either_runs(together):
    """Two stages one after the other, or two schedulers that step side by side for one denoiser."""
    net, one, two = own(), SCHEDULERS["DDIM"](), SCHEDULERS["flow"]()
    gs.optimize(net, "periodic")
    [sample(net, scheduler, WAYS["timestep"]) for scheduler in (one, two)]

    def stage(scheduler, x, other=None):
        with torch.no_grad():
            for i, t in enumerate(scheduler.timesteps):
                output = net(x, t)
                x = scheduler.step(output, t, x).prev_sample
                if other is not None:
                    other.step(output, other.timesteps[i], x)
        return x

    for _ in range(2):
        one.set_timesteps(STEPS)
        two.set_timesteps(STEPS)
        net.calls = 0
        stage(one, torch.ones(2, 6), two if together else None)
        assert net.calls < STEPS and filled(net)
        if not together:
            net.calls = 0
            stage(two, torch.ones(2, 6))
            assert net.calls < STEPS and filled(net)
        assert current() is None
