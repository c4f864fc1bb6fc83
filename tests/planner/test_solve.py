"""On a denoiser that is linear in the latent the surrogate is exact, and the programme finds the true minimum."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gearshift.planner.recording import Recording
from gearshift.planner.solve import _costs, programme, search
from gearshift.planner.surrogate import Surrogate
from gearshift.steps.predict import Copy, Taylor

STEPS = 9
FEEDBACK = -0.4
X = [float(p) + 0.1 * p**1.3 for p in range(STEPS)]


def at(x):
    return SimpleNamespace(x=x, scheduler=SimpleNamespace(config={"prediction_type": "sample"}))


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
            recording.note(at(X[p]), output, sample, (after,))
        sample, before = after, output
    return sample


@pytest.fixture(scope="module")
def surrogate():
    recording = Recording()
    run(range(STEPS), Copy(), recording)
    return Surrogate.of(recording, [FEEDBACK] * STEPS)


@pytest.mark.parametrize("predictor", [Copy(), Taylor(1), Taylor(2)], ids=str)
@pytest.mark.parametrize("computed", [[0, 4], [0, 1, 5, 8], [0, 2, 3, 4, 7]])
def test_the_surrogate_tells_the_true_error(surrogate, predictor, computed):
    exact, got = run(range(STEPS), predictor), run(computed, predictor)
    assert surrogate.error(computed, predictor) == pytest.approx(float((got - exact).norm() / exact.norm()), rel=1e-6)


def independent(surrogate, computed, lines):
    costs, last, before, total = _costs(surrogate, lines), computed[0], 0, 0.0
    for following in [*computed[1:], STEPS]:
        total += costs[before, last, following]
        before, last = last, following
    return total


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_the_programme_finds_the_minimum(surrogate, count, lines):
    found = programme(surrogate, count, lines)
    every = ([0, *rest] for rest in itertools.combinations(range(1, STEPS), count - 1))
    least = min(independent(surrogate, schedule, lines) for schedule in every)
    assert len(found) == count
    assert independent(surrogate, found, lines) == pytest.approx(least, rel=1e-9)


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
