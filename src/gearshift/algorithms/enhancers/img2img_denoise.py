"""A short second pass over the images."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from gearshift.algorithms.enhancers import enhancer_facts
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.param import param
from gearshift.models.calls import Hook, Hooked

STEPS = 50  # of a pipeline that says nothing of its own default
ONLY_ONCE = ("height", "width", "latents", "image", "strength", "output_type", "return_dict", "timesteps", "sigmas")


class Img2imgDenoise(Algorithm):
    """Refine the images by the last steps of an image-to-image run of the same pipeline.

    The second pass shares all weights (SDEdit, Meng et al. 2021, arXiv 2108.01073); what skips steps or shifts
    precision acts on it too. However small the strength, one step at the least is run; with strength 0 nothing is.
    """

    facts = enhancer_facts()
    strength: float = param(0.02, between=(0.0, 1.0), help="share of the noise schedule that the second pass runs")

    def check_model(self, model: Any, context: Context) -> list[str]:
        from gearshift.models.image_to_image import image_to_image_class

        sibling = image_to_image_class(model)
        if sibling is None:
            return [f"{self.name}: diffusers has no image-to-image pipeline for {type(model).__name__}."]
        lacking = {"image", "strength", "num_inference_steps"} - set(inspect.signature(sibling.__call__).parameters)
        if lacking:
            return [
                f"{self.name}: {sibling.__name__} has no {' and no '.join(sorted(lacking))}, which a second pass needs."
            ]
        return []

    def apply(self, model: Any, context: Context) -> None:
        if not self.strength:
            context.note(f"{self.name} does nothing at strength 0.")
            return
        context.change(Hooked(model, Second(self.strength)))


class Second(Hook):
    """Takes a pipeline's images through its image-to-image sibling, at the size that they have."""

    name = "img2img_denoise"

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def after(self, pipe: Any, images: Any, given: Mapping[str, Any]) -> Any:
        from gearshift.models.image_to_image import image_to_image

        sibling = image_to_image(pipe)
        known = inspect.signature(type(sibling).__call__).parameters
        call = {k: v for k, v in _each(given).items() if k in known and k not in ONLY_ONCE}
        call |= {name: side for name, side in zip(("height", "width"), _size(images), strict=True) if name in known}
        steps = call.get("num_inference_steps") or known["num_inference_steps"].default or STEPS
        call["num_inference_steps"] = max(int(steps), math.ceil(1 / self.strength + 1e-9))
        return sibling(
            **call,
            image=images,
            strength=self.strength,
            output_type=_kind(images),
            return_dict=False,
        )[0]


def _kind(images: Any) -> str:
    """What diffusers calls this kind of images: 'pt', 'np' or 'pil'."""
    import numpy as np
    import torch

    return "pt" if isinstance(images, torch.Tensor) else "np" if isinstance(images, np.ndarray) else "pil"


def _size(images: Any) -> tuple[int, int]:
    """Height and width of images of any kind."""
    kind = _kind(images)
    if kind == "pil":
        return images[0].size[::-1]
    return tuple(images.shape[-2:] if kind == "pt" else images.shape[-3:-1])


def _each(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with one prompt for each image, where several images were made of each prompt."""
    import torch

    count = int(given.get("num_images_per_prompt") or 1)
    found = dict(given)
    if count == 1:
        return found
    for name, value in given.items():
        if "prompt" not in name or name == "num_images_per_prompt":
            continue
        if isinstance(value, str):
            found[name] = [value] * count
        elif isinstance(value, (list, tuple)):
            found[name] = [item for item in value for _ in range(count)]
        elif isinstance(value, torch.Tensor):
            found[name] = value.repeat_interleave(count, 0)
    return {**found, "num_images_per_prompt": 1}
