"""How good final samples are in themselves, for lack of a judge: whether they look like the model's own, as a crowd."""

from __future__ import annotations

import torch

from gearshift.planner.recording import Recording


def unlike(run: Recording, reference: Recording) -> float:
    """How far the spectrum of a run's final samples is from that of fully computed ones: RMS of log power ratios.

    No image is compared with its twin, so that another image that is as good costs nothing, while blur (power lost at
    high frequencies), noise (power gained there) and washed-out color (power lost at frequency zero) do. Latents'
    power falls off in the same way in all images that one model draws well.
    """
    assert run.sample is not None and reference.sample is not None
    ratio = _log_power(run.sample) - _log_power(reference.sample)
    return float(ratio.square().mean().sqrt())


def _log_power(sample: torch.Tensor) -> torch.Tensor:
    """Mean log power over the batch, by channel and frequency; tokens [n, tokens, channels] have one axis of places."""
    places = (1,) if sample.ndim == 3 else (-2, -1)
    power = torch.fft.fftn(sample.detach().float().cpu(), dim=places).abs().square()
    return power.mean(0).clamp_min(1e-12).log()
