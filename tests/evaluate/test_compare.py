"""Pipelines side by side: each sees every batch, in turn, and is measured against the original."""

import math
from types import SimpleNamespace

import pytest
import torch

from gearshift.evaluate.compare import Outcome, compare, figures, text_to_image


def test_every_call_gets_every_batch_and_another_one_begins_each_time():
    order, done = [], []

    def images(name, value):
        def call(batch):
            order.append((batch, name))
            return torch.full((2, 3, 16, 16), value)

        return call

    outcomes = compare({"original": images("original", 0.5), "fast": images("fast", 0.6)}, 3, lambda: done.append(1))
    assert order == [
        (n, name) for n in range(3) for name in (["original", "fast"] if n % 2 == 0 else ["fast", "original"])
    ]
    assert len(done) == 6 and all(o.images.shape == (6, 3, 16, 16) and len(o.seconds) == 3 for o in outcomes.values())
    assert figures(outcomes["original"], outcomes["original"])["psnr"] is None
    assert figures(outcomes["fast"], outcomes["original"])["psnr"] == pytest.approx(20.0, abs=1e-3)


def test_speed_is_the_median_of_the_batches_ratios_and_time_is_that_of_an_image():
    parts = [torch.zeros(2, 3, 16, 16)] * 3
    original, fast = Outcome([4.0, 6.0, 9.0], parts), Outcome([2.0, 2.0, 9.0], parts)
    made = figures(fast, original)
    assert made["speedup"] == 2.0 and made["seconds"] == 1.0
    assert made["psnr"] == math.inf and made["ssim"] == pytest.approx(1.0)


def test_each_prompt_has_a_generator_of_its_own_seed():
    def pipe(prompt, generator, output_type, **call):
        assert output_type == "pt" and call == {"num_inference_steps": 2}
        drawn = [torch.rand(3, 4, 4, generator=g) for g in generator]
        return SimpleNamespace(images=torch.stack(drawn) + len(prompt[0]))

    prompts, seeds = ["a", "bb", "cc"], [5, 6, 5]
    run = text_to_image(pipe, prompts, seeds, 2, num_inference_steps=2)
    first, second = run(0), run(1)
    assert first.shape == (2, 3, 4, 4) and second.shape == (1, 3, 4, 4)
    torch.testing.assert_close(first[0] - 1, second[0] - 2)
    assert not torch.equal(first[0], first[1])
