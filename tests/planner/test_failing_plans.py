"""Whatever goes wrong with planning, sampling goes on, and what is no number never wins."""

import numpy as np
import pytest
import torch
from support.runs import filled
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import GearshiftWarning
from gearshift.planner import step_search
from gearshift.planner.fit import grouped
from gearshift.planner.gear_rehearsal import assign
from gearshift.planner.recording import Recording
from gearshift.planner.solve import output_costs, programme, search, solve, sure
from gearshift.planner.surrogate import Surrogate
from gearshift.steps.predict import Copy, Taylor
from gearshift.steps.run import Run
from gearshift.steps.trigger import Drift


@pytest.mark.parametrize(
    ("recipe", "error"),
    [
        ("auto", ZeroDivisionError),
        ("taylor_auto", np.linalg.LinAlgError),
        ("auto", IndexError),
        ("taylor_auto", MemoryError),
    ],
)
def test_a_planner_that_fails_warns_once_and_sampling_goes_on(monkeypatch, recipe, error):
    tiny, calls = build("dit"), []
    plain = tiny.run(steps=8)

    def fails(*args):
        calls.append(args)
        raise error("no plan")

    monkeypatch.setattr(step_search, "guess", fails)
    gs.optimize(tiny.pipe, recipe)
    with pytest.warns(GearshiftWarning, match=f"No plan could be made .*{error.__name__}: no plan"):
        assert torch.equal(tiny.run(steps=8), plain)
    assert tiny.run(steps=8).isfinite().all() and filled(tiny.pipe) == [1, 3, 5, 7] and len(calls) == 1


def test_a_denoiser_that_gives_no_numbers_fails_nothing():
    tiny = build("dit")
    hook = tiny.pipe.transformer.register_forward_hook(lambda m, a, out: type(out)(out[0] * float("nan")))
    gs.optimize(tiny.pipe, "taylor_auto")
    with pytest.warns(GearshiftWarning, match="No plan could be made"):
        tiny.run(steps=8, output_type="np")
    tiny.run(steps=8)
    hook.remove()


def surrogate(x, steps=8):
    chance = np.random.default_rng(0)
    outputs, ones = chance.normal(size=(steps, 6)).cumsum(0), np.ones(steps)
    samples = chance.normal(size=(steps + 1, 6))
    return Surrogate(outputs, samples, x, ones, -0.1 * ones, 0 * ones, 0.1 * ones, 1.0)


@pytest.mark.parametrize(
    "x",
    [[3.0, 2.0, 2.0, 1.0, 1.0, 0.0, 0.0, -1.0], [1.0] * 8, [2.0, 2.0 + 1e-9, 1.0, 1.0, 1.0, 0.5, 0.5, 0.4]],
)
def test_equal_coordinates_cost_what_repeating_costs(x):
    seen = surrogate(x)
    costs = output_costs(seen, lines=True)
    assert not np.isnan(costs).any()
    repeating = output_costs(seen, lines=False)
    equal = [(i - 1, i) for i in range(1, 8) if abs(x[i - 1] - x[i]) < 1e-6]
    assert equal and all(np.allclose(costs[pair], repeating[pair]) for pair in equal)
    found = solve(seen, 4, Taylor(1), moves=100)
    assert len(found) == 4 and found[0] == 0 and np.isfinite(seen.error(found, Taylor(1)))


def test_of_outputs_at_one_coordinate_the_newest_counts():
    assert Taylor(1).weights([2.0, 2.0], 1.0) == [1.0, 0.0]
    assert Taylor(2).weights([2.0, 2.0, 3.0], 1.0) == [2.0, 0.0, -1.0]
    assert Taylor(1).weights([2.0, 3.0], 1.0) == [2.0, -1.0]


def test_what_is_not_a_number_never_wins():
    assert sure(float("nan")) == np.inf and sure(1.0) == 1.0
    costs = output_costs(surrogate(list(np.linspace(3, -3, 8))), lines=True)
    best = programme(costs, 4)
    spoiled = np.where(np.isfinite(costs), costs, np.nan)
    assert programme(spoiled, 4) == best

    class Odd(Surrogate):
        def error(self, computed, predictor):
            return float("nan") if len(computed) == 3 and 5 in computed else 1.0 / (1 + sum(computed))

    odd = Odd(**vars(surrogate([0.0] * 8)))
    assert 5 not in search(odd, [0, 1, 5], Copy(), 200, 0)
    errors = np.zeros((2, 4, 3))
    errors[0, 1] = np.nan
    assert assign(errors, np.array([0.5, 1.0]), 0.7)[1] == 1


def test_weights_of_what_tells_nothing_are_the_prior():
    prior = np.array([1.0, 0.0])
    zero, nothing = np.zeros((2, 1, 5)), np.full((2, 1, 5), np.nan)
    for columns in (zero, nothing, np.ones((2, 1, 5))):
        found = grouped(columns, np.ones((1, 5)), prior, np.ones(1))
        assert np.isfinite(found).all()
    assert np.allclose(grouped(nothing, np.ones((1, 5)), prior, np.ones(1)).ravel(), prior)


def test_distances_that_are_no_numbers_are_the_worst():
    from gearshift.planner.criterion import Criterion

    criterion = Criterion(lambda run, reference: float("nan"))
    assert criterion(criterion.errors(Recording(), Recording())) == np.inf


@pytest.mark.parametrize("sample", [None, {"x": 1}, torch.full((1, 4), float("nan"))])
def test_latents_that_tell_nothing_are_computed(sample):
    run, state = Run(), {}
    for _ in range(3):
        run.sample = sample
        assert Drift(0.1, 4).reason_to_compute(run, state)
        run.tick()
