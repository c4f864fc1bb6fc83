"""Train a diffusion transformer (Peebles and Xie 2023) for the 80 pairs of garment and color, on the same latents."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from .. import load, path
from ..data import COLORS, GARMENTS
from .latents import autoencoder, encoded, judged, noised, scheduler
from .loop import fit, one_thread

BATCH = 96
DROP_LABEL = 0.1
NOTHING = 1000
GUIDANCE = 4.0


def build() -> nn.Module:
    """An untrained DiT: 16 tokens, 8 blocks of width 192 that begin as the identity; label 1000 means none."""
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=8,
        num_attention_heads=6,
        attention_head_dim=32,
        num_embeds_ada_norm=NOTHING,
    )
    for block in model.transformer_blocks:
        nn.init.zeros_(block.norm1.linear.weight)
        nn.init.zeros_(block.norm1.linear.bias)
        block.norm1.emb.class_embedder.embedding_table.weight.register_hook(share)
    return model


def share(gradient: torch.Tensor) -> torch.Tensor:
    """Let pairs learn from each other: a pair's row moves with all rows of its garment and all rows of its color."""
    count = len(GARMENTS) * len(COLORS)
    pairs = gradient[:count].view(len(GARMENTS), len(COLORS), -1)
    shared = pairs.sum(0, keepdim=True) + pairs.sum(1, keepdim=True)
    return torch.cat([shared.flatten(0, 1), gradient[count:]])


def assemble(model: nn.Module, root: Path) -> None:
    """Write a DiTPipeline's folder in fp16, with the text-to-image model's autoencoder and labels like 'red bag'."""
    from diffusers import DiTPipeline

    pairs = [f"{color} {garment}" for garment in GARMENTS for color in COLORS]
    labels = {str(index): pair for index, pair in enumerate(pairs)}
    pipeline = DiTPipeline(model.half(), autoencoder().half(), scheduler(), id2label=labels)
    pipeline.register_to_config(id2label=labels)
    pipeline.save_pretrained(root, safe_serialization=True)


def main(steps: int = 600) -> None:
    """Train, write the pipeline's folder, print the figures reached."""
    one_thread()
    torch.manual_seed(0)
    model = build().eval()
    latents, garments, colors = encoded()
    alphas = scheduler().alphas_cumprod  # type: ignore[attr-defined]

    def loss(_: int) -> torch.Tensor:
        chosen = torch.randint(len(latents), (BATCH,))
        noisy, times, target = noised(latents[chosen], alphas)
        labels = garments[chosen] * len(COLORS) + colors[chosen]
        labels[torch.rand(BATCH) < DROP_LABEL] = NOTHING
        return F.mse_loss(model(noisy, timestep=times, class_labels=labels).sample, target)

    fit(model, loss, steps)
    assemble(model, path("dit", must_exist=False))
    report()


def report(guidance: float = GUIDANCE) -> None:
    """Print what the judge says of 400 images at 50 steps."""
    pipeline = load("dit")
    generator = torch.Generator().manual_seed(7)

    def generate(pairs: torch.Tensor) -> torch.Tensor:
        options = {"num_inference_steps": 50, "guidance_scale": guidance, "generator": generator}
        made = pipeline(class_labels=pairs.tolist(), output_type="np", **options).images
        return torch.from_numpy(made).permute(0, 3, 1, 2) * 2 - 1

    judged(generate)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
