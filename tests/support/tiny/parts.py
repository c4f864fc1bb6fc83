"""What a builder returns, and the pieces that several builders share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline

TEXT_DIM, TOKENS = 32, 8


@dataclass
class Parts:
    """A pipeline, its denoiser's name, the arguments of a call for a batch size, and its guidance argument.

    Every call, one of a loaded pipeline too, is made within `prepared`.
    """

    pipe: DiffusionPipeline
    denoiser: str
    call: Callable[[int], dict[str, Any]]
    guidance: str = "guidance_scale"
    guidance_offset: float = 0.0
    prepared: Callable[[Any], AbstractContextManager[None]] = nullcontext


def text(batch: int, *shape: int, seed: int = 1) -> torch.Tensor:
    """Embeddings of `batch` prompts; a prompt's embedding does not depend on how many there are."""
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + n)) for n in range(batch)]
    return torch.stack(rows)


def prompts(batch: int, *shape: int, mask: str | None = None, pooled: int | None = None) -> dict[str, torch.Tensor]:
    """Embeddings of prompts and of negative prompts, with masks (under `prompt_<mask>`) and pooled ones where asked."""
    shape = shape or (TOKENS, TEXT_DIM)
    found = {"prompt_embeds": text(batch, *shape), "negative_prompt_embeds": text(batch, *shape, seed=2)}
    if pooled:
        found["pooled_prompt_embeds"] = text(batch, pooled, seed=3)
        found["negative_pooled_prompt_embeds"] = text(batch, pooled, seed=4)
    if mask:
        ones = torch.ones(batch, shape[0], dtype=torch.bool)
        found |= {f"prompt_{mask}": ones, f"negative_prompt_{mask}": ones.clone()}
    return found


def vae(channels: int = 4, levels: int = 2) -> AutoencoderKL:
    """An image autoencoder that halves each side between its levels."""
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=channels,
        norm_num_groups=4,
        shift_factor=0.0,
    ).eval()
