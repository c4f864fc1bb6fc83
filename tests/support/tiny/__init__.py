"""Tiny random-weight diffusers pipelines, built from configs with no download: real classes, toy sizes.

`build("flux").run(steps=6)` gives the same latents each time, with the guidance that the pipeline has by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline

from . import images, language, newer, newer_videos, variants, videos
from .language import TinyLanguage
from .parts import Parts

BUILDERS = {**images.BUILDERS, **videos.BUILDERS}
MORE = {**newer.BUILDERS, **newer_videos.BUILDERS, **variants.BUILDERS}  # for sweeps over many pipelines


@dataclass
class Tiny:
    """A tiny pipeline and how to call it."""

    name: str
    pipe: DiffusionPipeline
    denoiser: str
    parts: Parts

    def run(
        self,
        steps: int = 6,
        batch: int = 1,
        seed: int = 0,
        guidance: float | None = None,
        pipe: DiffusionPipeline | None = None,
        **overrides: Any,
    ) -> torch.Tensor:
        """Latents (images for DiT) of one seeded run; `guidance` None is the pipeline's usual guidance, 1 is none.

        The prompts' embeddings depend on `batch` and not on `seed`, which draws the starting noise. `pipe` runs
        another pipeline of the same kind, a `from_pipe` copy for one. `overrides` go to the pipeline's call.
        """
        pipe = pipe or self.pipe
        pipe.set_progress_bar_config(disable=True)
        call = self.parts.call(batch)
        if guidance is not None:
            call[self.parts.guidance] = guidance + self.parts.guidance_offset
        call |= {"num_inference_steps": steps, "generator": torch.Generator().manual_seed(seed), "return_dict": False}
        call = {k: v.to(pipe.dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in call.items()}
        with self.parts.prepared(pipe):
            output = pipe(**(call | overrides))[0]
        return torch.as_tensor(output).float().contiguous()


def names() -> list[str]:
    """The pipelines that tests run one by one; `build` knows those of `MORE` and `language.BUILDERS` besides."""
    return list(BUILDERS)


def build(name: str, seed: int = 0) -> Any:
    """A fresh tiny pipeline or language model, its weights depending on `name` and `seed` alone.

    Global random state is left alone.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name in language.BUILDERS:
            model = language.BUILDERS[name]()
            randomize(model, seed)
            return TinyLanguage(name, model)
        parts = (BUILDERS | MORE)[name]()
        modules = [part for part in parts.pipe.components.values() if isinstance(part, torch.nn.Module)]
        for n, module in enumerate(modules):
            randomize(module, seed + n)
    return Tiny(name, parts.pipe, parts.denoiser, parts)


@torch.no_grad()
def randomize(module: torch.nn.Module, seed: int) -> None:
    """Fill matrices and kernels with fan-in scaled noise: none is zero or left uninitialized, so all inputs count."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.ndim >= 2:
            fan_in = parameter.numel() / parameter.shape[0]
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    module.eval().requires_grad_(False)
