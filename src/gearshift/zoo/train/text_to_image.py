"""Train the text-to-image model: a small Stable Diffusion whose text encoder learns along with the U-Net."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from .. import load, path
from ..data import COLORS, GARMENTS, TEMPLATES, caption, prompts
from .latents import autoencoder, encoded, judged, noised, scheduler
from .loop import fit, one_thread

BATCH = 48
DROP_CAPTION = 0.1
LENGTH = 12
WIDTH = 128
GUIDANCE = 4.5


def tokenizer(folder: Path) -> object:
    """A CLIPTokenizer that knows the words of the captions, each as one token; saved in old and new layouts."""
    from transformers import CLIPTokenizer

    sentences = " ".join((*TEMPLATES, *COLORS, *GARMENTS)).replace("{color}", "").replace("{garment}", "")
    words = sorted(set(sentences.split()), key=lambda word: (-len(word), word))
    letters = sorted(set("".join(words)))
    known = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in words:
        *pieces, last = [*word[:-1], word[-1] + "</w>"]
        for count in range(1, len(pieces) + 1):
            pair = ("".join(pieces[:count]), pieces[count] if count < len(pieces) else last)
            merges += [] if pair in merges else [pair]
            known += [] if "".join(pair) in known else ["".join(pair)]
    vocabulary = {token: index for index, token in enumerate(known)}
    made = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)
    split = [word for word in words if len(made(word).input_ids) != 3]
    if split:
        raise ValueError(f"These words are not one token each: {', '.join(split)}.")
    made.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, indent=0))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    return made


def build(vocabulary: int) -> nn.ModuleDict:
    """Untrained U-Net (64 and 128 channels, cross attention at both sizes) and CLIP text encoder (2 layers of 128)."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    text = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return nn.ModuleDict({"unet": unet, "text_encoder": CLIPTextModel(text)})


def token_table(words: object) -> torch.Tensor:
    """Token ids of every caption, int64 [10 garments, 8 colors, 4 templates, 12], and last of the empty one."""
    every = [caption(g, c, t) for g in range(len(GARMENTS)) for c in range(len(COLORS)) for t in range(len(TEMPLATES))]
    options = {"padding": "max_length", "truncation": True, "max_length": LENGTH, "return_tensors": "pt"}
    return words([*every, ""], **options).input_ids  # type: ignore[operator]


def assemble(models: nn.ModuleDict, words: object, root: Path) -> None:
    """Write the whole pipeline's folder in fp16 around the autoencoder that is already there."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=autoencoder().half(),
        tokenizer=words,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **models.half(),
    )
    pipeline.save_pretrained(root, safe_serialization=True)


def main(steps: int = 1000) -> None:
    """Train, write the pipeline's folder, print the figures reached."""
    one_thread()
    root = path("text-to-image", must_exist=False)
    words = tokenizer(root / "tokenizer")
    torch.manual_seed(0)
    models = build(len(words))  # type: ignore[arg-type]
    latents, garments, colors = encoded()
    captions = token_table(words)
    alphas = scheduler().alphas_cumprod  # type: ignore[attr-defined]

    def loss(_: int) -> torch.Tensor:
        chosen = torch.randint(len(latents), (BATCH,))
        noisy, times, target = noised(latents[chosen], alphas)
        template = torch.randint(len(TEMPLATES), (BATCH,))
        rows = (garments[chosen] * len(COLORS) + colors[chosen]) * len(TEMPLATES) + template
        rows[torch.rand(BATCH) < DROP_CAPTION] = len(captions) - 1
        states = models["text_encoder"](captions[rows])[0]
        return F.mse_loss(models["unet"](noisy, times, states).sample, target)

    fit(models, loss, steps)
    assemble(models, words, root)
    report()


def report(guidance: float = GUIDANCE) -> None:
    """Print what the judge says of 400 images at 50 steps."""
    pipeline = load("text-to-image")
    texts = [prompt.text for prompt in prompts()]
    generator = torch.Generator().manual_seed(7)

    def generate(pairs: torch.Tensor) -> torch.Tensor:
        asked = [texts[pair] for pair in pairs]
        made = pipeline(asked, num_inference_steps=50, guidance_scale=guidance, generator=generator, output_type="pt")
        return made.images * 2 - 1

    judged(generate)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
