"""What the two latent models train on: the autoencoder's latents of every training image in two random colors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .. import path
from ..data import COLORS, colored, fashion_mnist


def autoencoder() -> nn.Module:
    """The trained autoencoder in fp32, without a trace of the folder that it was read from."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(path("text-to-image", must_exist=False) / "vae")
    vae.register_to_config(_name_or_path="text-to-image/vae")
    return vae


@torch.no_grad()
def encoded(count: int = 40_000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scaled latent means float32 [n, 4, 8, 8] of colored training images, garments int64 [n], colors int64 [n]."""
    vae: Any = autoencoder()
    gray, garments = fashion_mnist("train")
    gray, garments = gray[:count], garments[:count]
    colors = torch.randint(len(COLORS), (count,), generator=torch.Generator().manual_seed(1))
    parts = zip(gray.split(500), colors.split(500), strict=True)
    means = [vae.encode(colored(some, tints)).latent_dist.mode() for some, tints in parts]
    return torch.cat(means) * vae.config.scaling_factor, garments, colors


def scheduler() -> object:
    """DDIM as both models use it: v-prediction on the squared cosine schedule, trailing timesteps, nothing clipped."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def noised(clean: torch.Tensor, alphas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, timesteps (one from each of n equal strata, int64 [n]) and the v that is to be predicted."""
    count = len(clean)
    times = ((torch.randperm(count) + torch.rand(count)) / count * len(alphas)).long().clamp(max=len(alphas) - 1)
    alpha, sigma = alphas[times].sqrt()[:, None, None, None], (1 - alphas[times]).sqrt()[:, None, None, None]
    noise = torch.randn_like(clean)
    return alpha * clean + sigma * noise, times, alpha * noise - sigma * clean


@torch.no_grad()
def judged(generate: Callable[[torch.Tensor], torch.Tensor], count: int = 400) -> None:
    """Print accuracies and Frechet distance of generated images, beside those of as many real ones.

    Args:
        generate: makes images in [-1, 1], [n, 3, 32, 32], for indices of pairs (garment * 8 + color), int64 [n].
        count: number of images, in batches of 80 with every pair once.
    """
    from ..data import held_out
    from ..judge import Judge

    judge = Judge.load()
    pairs = torch.arange(80)
    images = torch.cat([generate(pairs) for _ in range(count // 80)])
    wanted = pairs.repeat(count // 80)
    print("garment, color:", judge.accuracy(images, wanted // len(COLORS), wanted % len(COLORS)))
    print("Frechet to real:", judge.distance(images), "real to real:", judge.distance(held_out(count)[0]))
