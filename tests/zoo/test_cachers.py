"""Cachers on trained models: what random weights cannot show."""

import pytest
import torch
from support.runs import filled

import gearshift as gs
from gearshift import zoo

CALLS = {"text-to-image": {"prompt": "a photo of a red sneaker"}, "dit": {"class_labels": [3]}}


def images(pipe, name):
    call = CALLS[name] | {"generator": torch.Generator().manual_seed(1), "guidance_scale": 4.0, "output_type": "np"}
    return torch.as_tensor(pipe(num_inference_steps=50, **call).images).double()


@pytest.mark.parametrize("name", CALLS)
def test_the_default_drift_skips_half_and_stays_close(name):
    pipe = zoo.load(name)
    pipe.set_progress_bar_config(disable=True)
    plain = images(pipe, name)
    gs.optimize(pipe, "adaptive")
    output = images(pipe, name)
    assert 20 <= len(filled(pipe)) <= 40
    assert -10 * torch.log10((output - plain).pow(2).mean()) > 26
    filled_here = filled(pipe)
    gs.restore(pipe)
    gs.optimize(pipe, "adaptive(threshold=0.003)")
    images(pipe, name)
    assert 0 < len(filled(pipe)) < len(filled_here)
