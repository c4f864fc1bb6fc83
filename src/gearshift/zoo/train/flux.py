"""Train a small Flux: double and single blocks, flow matching, guidance as a number that the model is given."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .. import load, path, required_arguments
from ..data import COLORS, TEMPLATES, prompts
from .latents import autoencoder, encoded, judged
from .loop import fit, one_thread
from .text_to_image import DROP_CAPTION, WIDTH, token_table, tokenizer

BATCH = 64
GUIDANCE = 3.5
MOST_GUIDANCE = 6.0


def build(vocabulary: int) -> nn.ModuleDict:
    """Untrained transformer (2 double and 4 single blocks of width 192) and T5 encoder (2 layers of 128)."""
    from diffusers import FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=6,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    for name, layer in transformer.named_modules():
        if ".norm" in name and name.endswith(".linear"):  # blocks begin as the identity
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    text = T5Config(
        vocab_size=vocabulary,
        d_model=WIDTH,
        d_kv=WIDTH // 4,
        d_ff=2 * WIDTH,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=1,
        eos_token_id=1,
    )
    return nn.ModuleDict({"transformer": transformer, "text_encoder_2": T5EncoderModel(text)})


def scheduler() -> object:
    """Euler steps of flow matching, with the shift of the noise schedule that Flux has."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


class Velocity:
    """What the models answer to packed latents, as the pipeline calls them.

    Attributes:
        pooled: CLIP's summary of every caption, float32 [captions, width].
        ids: tokens of every caption, int64 [captions, length].
        places: row and column of every latent token, float32 [tokens, 3].
    """

    def __init__(self, pooled: torch.Tensor, ids: torch.Tensor, places: torch.Tensor) -> None:
        self.pooled, self.ids, self.places = pooled, ids, places

    def __call__(
        self, models: nn.ModuleDict, noisy: torch.Tensor, sigma: torch.Tensor, rows: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        """Velocity [n, tokens, 16] for captions `rows`, int64 [n]."""
        return models["transformer"](
            noisy,
            timestep=sigma,
            guidance=scale,
            pooled_projections=self.pooled[rows],
            encoder_hidden_states=models["text_encoder_2"](self.ids[rows])[0],
            txt_ids=torch.zeros(self.ids.shape[1], 3),
            img_ids=self.places,
        ).sample


def batch(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, the noise's share (one from each of n equal strata, [n]) and the velocity from image to noise."""
    count = len(latents)
    sigma = (torch.randperm(count) + torch.rand(count)) / count
    noise = torch.randn_like(latents)
    return torch.lerp(latents, noise, sigma[:, None, None]), sigma, noise - latents


def summaries(ids: torch.Tensor) -> torch.Tensor:
    """The text-to-image model's CLIP, asked for its pooled output."""
    with torch.no_grad():
        return torch.cat([load("text-to-image").text_encoder(some).pooler_output for some in ids.split(80)])


def assemble(models: nn.ModuleDict, words: object, root: Path) -> None:
    """Write a FluxPipeline's folder in fp16; CLIP and autoencoder are the text-to-image model's."""
    from diffusers import FluxPipeline

    vae: Any = autoencoder().half()
    vae.register_to_config(shift_factor=0.0)
    clip = load("text-to-image").text_encoder.half()
    clip.config._name_or_path = "text-to-image/text_encoder"
    pipeline = FluxPipeline(scheduler(), vae, clip, words, tokenizer_2=words, **models.half())
    pipeline.save_pretrained(root, safe_serialization=True)


def main(steps: int = 700, distilling: int = 250) -> None:
    """Train with guidance 1, then teach the model what guidance does, from itself; write the folder, print figures."""
    from diffusers import FluxPipeline

    one_thread()
    root = path("flux", must_exist=False)
    words = tokenizer(root / "tokenizer")
    torch.manual_seed(0)
    models, ids = build(len(words)), token_table(words)  # type: ignore[arg-type]
    latents, garments, colors = encoded()
    packed = FluxPipeline._pack_latents(latents, len(latents), 4, 8, 8)
    places = FluxPipeline._prepare_latent_image_ids(1, 4, 4, torch.device("cpu"), torch.float32)
    velocity, nothing = Velocity(summaries(ids), ids, places), len(ids) - 1

    def captioned(chosen: torch.Tensor) -> torch.Tensor:
        pair = garments[chosen] * len(COLORS) + colors[chosen]
        return pair * len(TEMPLATES) + torch.randint(len(TEMPLATES), (len(chosen),))

    def loss(_: int) -> torch.Tensor:
        chosen = torch.randint(len(packed), (BATCH,))
        noisy, sigma, target = batch(packed[chosen])
        rows = captioned(chosen)
        rows[torch.rand(BATCH) < DROP_CAPTION] = nothing
        return F.mse_loss(velocity(models, noisy, sigma, rows, torch.ones(BATCH)), target)

    fit(models, loss, steps)
    teacher = copy.deepcopy(models).requires_grad_(False)

    def distillation(_: int) -> torch.Tensor:
        chosen = torch.randint(len(packed), (BATCH,))
        noisy, sigma = batch(packed[chosen])[:2]
        rows, one = captioned(chosen), torch.ones(BATCH)
        guidance = 1 + torch.rand(BATCH) * (MOST_GUIDANCE - 1)
        with torch.no_grad():
            without = velocity(teacher, noisy, sigma, torch.full_like(rows, nothing), one)
            target = torch.lerp(without, velocity(teacher, noisy, sigma, rows, one), guidance[:, None, None])
        return F.mse_loss(velocity(models, noisy, sigma, rows, guidance), target)

    fit(models, distillation, distilling)
    assemble(models, words, root)
    report()


def report(guidance: float = GUIDANCE) -> None:
    """Print what the judge says of 400 images at 50 steps."""
    pipeline = load("flux")
    texts = [prompt.text for prompt in prompts()]
    generator = torch.Generator().manual_seed(7)

    def generate(pairs: torch.Tensor) -> torch.Tensor:
        asked = [texts[pair] for pair in pairs]
        options = {"num_inference_steps": 50, "guidance_scale": guidance, "generator": generator, "output_type": "pt"}
        return pipeline(asked, **options, **required_arguments("flux")).images * 2 - 1

    judged(generate)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
