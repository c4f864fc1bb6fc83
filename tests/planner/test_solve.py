"""On a denoiser that is linear in the latent the surrogate is exact, and the programme finds the true minimum."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.each import each

from gearshift.planner.fit import Fitting
from gearshift.planner.recording import Recording
from gearshift.planner.solve import output_costs, programme, search, span_costs
from gearshift.planner.surrogate import Surrogate
from gearshift.steps.predict import Copy, Taylor

STEPS = 9
FEEDBACK = -0.4
X = [float(p) + 0.1 * p**1.3 for p in range(STEPS)]


def at(x):
    return SimpleNamespace(
        noise_coordinate=x, position=0, scheduler=SimpleNamespace(config={"prediction_type": "sample"})
    )


def denoise(p, sample):
    wave = torch.arange(40.0)
    return FEEDBACK * sample + torch.sin(0.5 * p + wave) + 0.2 * torch.cos(1.7 * p * p + wave)


def run(computed, predictor, recording=None):
    sample, kept, before = torch.linspace(-1, 1, 40).double(), [], torch.zeros(40).double()
    for p in range(STEPS):
        if p in computed or not kept:
            output = denoise(p, sample)
            kept = [(X[p], output), *kept][: predictor.depth]
        else:
            weights = predictor.weights([x for x, _ in kept], X[p])
            output = sum(w * o for w, (_, o) in zip(weights, kept, strict=False))
        after = (0.97 - 0.01 * p) * sample + (0.1 + 0.02 * p) * output - 0.03 * before
        if recording is not None:
            recording.note(at(X[p]), output[None], sample[None], (after[None],))
        sample, before = after, output
    return sample


@pytest.fixture(scope="module")
def surrogate():
    recording = Recording()
    run(range(STEPS), Copy(), recording)
    return Surrogate.of(recording, [FEEDBACK] * STEPS)


@each("predictor", [Copy(), Taylor(1), Taylor(2)])
@each("computed", [[0, 4], [0, 1, 5, 8], [0, 2, 3, 4, 7]])
def test_the_surrogate_tells_the_true_error(surrogate, predictor, computed):
    exact, got = run(range(STEPS), predictor), run(computed, predictor)
    assert surrogate.error(computed, predictor) == pytest.approx(float((got - exact).norm() / exact.norm()), rel=1e-6)


COSTS = {
    "repeat": lambda surrogate: output_costs(surrogate, lines=False),
    "line": lambda surrogate: output_costs(surrogate, lines=True),
    "fitted": span_costs,
}


def independent(costs, computed):
    last, before, total = computed[0], 0, 0.0
    for following in [*computed[1:], STEPS]:
        total += costs[before, last, following]
        before, last = last, following
    return total


@each("kind", COSTS)
@each("count", [2, 3, 5, 8])
def test_the_programme_finds_the_minimum(surrogate, count, kind):
    costs = COSTS[kind](surrogate)
    found = programme(costs, count)
    every = ([0, *rest] for rest in itertools.combinations(range(1, STEPS), count - 1))
    least = min(independent(costs, schedule) for schedule in every)
    assert len(found) == count
    assert independent(costs, found) == pytest.approx(least, rel=1e-9)


def test_what_fitted_weights_cannot_reach_is_the_least_squares_residual(surrogate):
    costs = span_costs(surrogate)
    outputs, samples = surrogate.outputs, surrogate.samples
    span = np.stack([samples[4], outputs[4], outputs[2]], axis=1)
    left = samples[7] - span @ np.linalg.lstsq(span, samples[7], rcond=None)[0]
    assert costs[2, 4, 7] == pytest.approx((left @ left) * surrogate.amplification()[7] ** 2, rel=1e-5)
    assert costs[2, 4, 5] == 0 and np.isinf(costs[4, 2, 7])


def rehearse(computed, fitted):
    """Relative error of the final sample with weights fitted in the run, or on the line."""
    reference = Recording()
    exact = run(range(STEPS), Copy(), reference)
    sampler = Surrogate.of(reference, [0.0] * STEPS)
    fitting, sample, kept, before = Fitting(reference=reference, sampler=sampler), None, [], torch.zeros(40).double()
    sample = torch.linspace(-1, 1, 40).double()
    for p in range(STEPS):
        here = SimpleNamespace(position=p, noise_coordinate=X[p], sample=2 * sample, scheduler=at(0).scheduler)
        coordinates = [x for x, _ in kept]
        if p in computed:
            output = denoise(p, sample)
            kept = [(X[p], output), *kept][:3]
        else:
            weights = fitting.fit(here, coordinates, 1.0) if fitted else Taylor(1).weights(coordinates[:2], X[p])
            columns = [o for _, o in kept] + ([here.sample] if fitted else [])
            output = sum(w * c for w, c in zip(weights, columns, strict=False))
        after = (0.97 - 0.01 * p) * sample + (0.1 + 0.02 * p) * output - 0.03 * before
        fitting.note(here, output[None], sample[None], (after[None],))
        sample, before = after, output
    return float((sample - exact).norm() / exact.norm())


@pytest.mark.parametrize("computed", [(0, 2, 5, 8), (0, 3, 6), (0, 1, 2, 4, 7)])
def test_weights_fitted_in_the_run_keep_it_nearer_to_the_reference(computed):
    assert rehearse(computed, fitted=True) < 0.7 * rehearse(computed, fitted=False)


def test_the_search_never_makes_it_worse_and_keeps_the_count(surrogate):
    start = [0, 1, 2, 3]
    found = search(surrogate, start, Taylor(1), moves=300, seed=1)
    assert len(found) == 4 and found[0] == 0
    assert surrogate.error(found, Taylor(1)) < surrogate.error(start, Taylor(1))


def test_projection_keeps_lengths():
    recording = Recording()
    torch.manual_seed(0)
    outputs = [torch.randn(3, 4, 32, 32) for _ in range(4)]
    for p, output in enumerate(outputs):
        recording.note(at(float(p)), output, output, (output,))
    projected = np.stack(recording.outputs)
    true = torch.stack([o.flatten() for o in outputs]).double().numpy()
    ratio = np.linalg.norm(projected, axis=1) / np.linalg.norm(true, axis=1)
    assert np.abs(ratio - 1).max() < 0.1
