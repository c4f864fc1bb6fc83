"""Metrics of images: closeness to the original's with the same noise, and how well they fit their prompts."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from gearshift.core.boundary import reading
from gearshift.core.errors import BadValue
from gearshift.core.extras import need
from gearshift.core.facts import Kind
from gearshift.evaluate.examples import Example
from gearshift.evaluate.metric import metric
from gearshift.evaluate.metrics import psnr_each, sqnr, ssim_each
from gearshift.evaluate.subjects import Answer

IMAGES = frozenset({Kind.DIFFUSION})
EQUAL = 100.0  # dB, from which images or latents count as equal


@metric("psnr", "dB", "higher", kinds=IMAGES, compares=True, format=".1f", floor=30.0, most=EQUAL)
def _psnr(example: Example, answer: Answer, original: Answer) -> list[float]:
    """Peak signal-to-noise ratio to the original's images, same noise."""
    return psnr_each(*_pair(answer, original)).tolist()


@metric("ssim", "", "higher", kinds=IMAGES, compares=True, format=".3f", floor=0.9)
def _ssim(example: Example, answer: Answer, original: Answer) -> list[float]:
    """Structural similarity to the original's images, same noise; 1 for equal ones."""
    return ssim_each(*_pair(answer, original)).tolist()


@metric("sqnr", "dB", "higher", kinds={Kind.DIFFUSION, Kind.OTHER}, compares=True, format=".1f", floor=15.0, most=EQUAL)
def _sqnr(example: Example, answer: Answer, original: Answer) -> list[float]:
    """Signal over error of the final latents, or of a module's output, to the original's."""
    ours, theirs = answer.latents, original.latents
    if ours is None or theirs is None:
        raise BadValue("the model hands out no latents")
    if ours.shape != theirs.shape:
        raise BadValue(f"its latents are {tuple(ours.shape)}, the original's {tuple(theirs.shape)}")
    found = (
        [sqnr(b, a) for a, b in zip(ours, theirs, strict=True)] if ours.ndim and len(ours) == len(example.names) else []
    )
    return found or [sqnr(theirs, ours)] * len(example.names)


@metric(
    "lpips",
    "",
    "lower",
    kinds=IMAGES,
    compares=True,
    format=".4f",
    floor=0.1,
    packages=("lpips", "torchvision"),
    extra="lpips",
    usual=False,
    weights="alex",
)
def _lpips(example: Example, answer: Answer, original: Answer, weights: str = "alex") -> list[float]:
    """Perceptual distance to the original's images (Zhang et al. 2018); weights: 'alex', 'vgg', 'squeeze'."""
    ours, theirs = (images * 2 - 1 for images in _pair(answer, original))
    with torch.no_grad():
        return _lpips_network(weights)(ours, theirs).flatten().tolist()


@metric(
    "clip",
    "",
    "higher",
    kinds=IMAGES,
    format=".2f",
    packages=("transformers",),
    extra="transformers",
    usual=False,
    weights="openai/clip-vit-base-patch32",
)
def _clip(
    example: Example, answer: Answer, original: Answer | None, weights: str = "openai/clip-vit-base-patch32"
) -> list[float]:
    """How well images fit their prompts: 100 times the cosine of CLIP's embeddings (Hessel et al. 2021)."""
    prompts = example.call.get("prompt")
    if prompts is None or answer.images is None:
        raise BadValue("the examples have no prompts")
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    each = len(answer.images) // len(texts)
    model, processor = _clip_model(weights)
    pixels = [(i.permute(1, 2, 0) * 255).round().byte().numpy() for i in answer.images]
    given = processor(
        text=[t for t in texts for _ in range(each)], images=pixels, return_tensors="pt", padding=True, truncation=True
    )
    with torch.no_grad():
        found = model(**given)
    cosine = torch.nn.functional.cosine_similarity(found.image_embeds, found.text_embeds)
    return (100 * cosine.clamp(min=0)).tolist()


@cache
def _lpips_network(net: str) -> Any:
    made = need("lpips", "lpips", "The metric 'lpips'")
    with reading(net, "weights of LPIPS", BadValue):
        return made.LPIPS(net=net, verbose=False).eval()


@cache
def _clip_model(weights: str) -> tuple[Any, Any]:
    from transformers import CLIPModel, CLIPProcessor

    with reading(weights, "a CLIP model", BadValue):
        safe: dict[str, Any] = {"trust_remote_code": False}
        model = CLIPModel.from_pretrained(weights, use_safetensors=True, **safe)
        return model.eval(), CLIPProcessor.from_pretrained(weights, **safe)


def _pair(answer: Answer, original: Answer) -> tuple[Tensor, Tensor]:
    if answer.images is None or original.images is None:
        raise BadValue("the model made no images in three colors")
    if answer.images.shape != original.images.shape:
        sizes = [f"{i.shape[-2]} x {i.shape[-1]}" for i in (answer.images, original.images)]
        raise BadValue(f"its images are {sizes[0]} pixels, the original's {sizes[1]}")
    return answer.images, original.images
