"""Train the autoencoder 3x32x32 -> 4x8x8 that the zoo's latent models share."""

from __future__ import annotations

import sys
from typing import Any

import torch

from .. import path
from ..data import COLORS, colored, fashion_mnist, held_out
from ..judge import Judge, frechet
from .loop import fit, one_thread, write

BATCH = 16


def build() -> torch.nn.Module:
    """An untrained AutoencoderKL without attention; channels in multiples of 16."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=32,
    )


def batch(gray: torch.Tensor, size: int = BATCH) -> torch.Tensor:
    """Random images in random colors, half of them mirrored."""
    images = colored(gray[torch.randint(len(gray), (size,))], torch.randint(len(COLORS), (size,)))
    return torch.where(torch.rand(size, 1, 1, 1) < 0.5, images, images.flip(3))


def distance(made: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """L1 and L2 of the pixels and L1 of their slopes, which keeps edges and textures."""
    error = made - images
    slopes = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + error.square().mean() + 0.5 * slopes


def main(steps: int = 1000, more: int = 2000) -> None:
    """Train both halves, then the decoder alone; print the figures reached, write the weights."""
    one_thread()
    torch.manual_seed(0)
    vae: Any = build()
    gray, _ = fashion_mnist("train")

    def loss(_: int) -> torch.Tensor:
        images = batch(gray)
        posterior = vae.encode(images).latent_dist
        return distance(vae.decode(posterior.sample()).sample, images) + 1e-4 * posterior.kl().mean() / 256

    fit(vae, loss, steps)
    with torch.no_grad():
        latents = torch.cat([vae.encode(batch(gray, 500)).latent_dist.sample() for _ in range(4)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    sharpen(vae, gray, more)
    write(vae, path("text-to-image", must_exist=False) / "vae")
    report(vae)


def sharpen(vae: Any, gray: torch.Tensor, steps: int) -> None:
    """Train the decoder alone: the latents, and so what the latent models learn, stay as they are."""

    def loss(_: int) -> torch.Tensor:
        images = batch(gray)
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.sample()
        return distance(vae.decode(latents).sample, images)

    fit(torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]), loss, steps, seed=1)


@torch.no_grad()
def report(vae: Any) -> None:
    """Print PSNR, the judge's accuracy and the Frechet distance of 2000 rebuilt held-out images."""
    judge = Judge.load()
    images, garments, colors = held_out(2000)
    made = torch.cat([vae.decode(vae.encode(some).latent_dist.mode()).sample for some in images.split(500)])
    print(f"PSNR {10 * torch.log10(4 / (made.clamp(-1, 1) - images).square().mean()):.2f} dB")
    print("judge, rebuilt:", judge.accuracy(made, garments, colors), "real:", judge.accuracy(images, garments, colors))
    print("Frechet, rebuilt to the same real images:", frechet(judge.features(made), judge.features(images)))
    print("scaling factor:", vae.config.scaling_factor)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
