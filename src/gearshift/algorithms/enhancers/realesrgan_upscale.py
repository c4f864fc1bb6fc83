"""Larger images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gearshift.algorithms.enhancers import enhancer_facts
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Slot
from gearshift.core.folders import scratch
from gearshift.core.tensors import write_tensors
from gearshift.models.calls import Hook, Hooked

SOURCE = "GEARSHIFT_UPSCALER"  # environment variable: a file, or 'owner/name:file' on the hub
SHIPPED = Path(__file__).parents[2] / "zoo" / "models" / "upscaler" / "model.safetensors"
WEIGHTS = "upscaler.safetensors"


class RealesrganUpscale(Algorithm):
    """Enlarge the pipeline's images with a Real-ESRGAN generator, in tiles that blend into each other.

    The environment variable GEARSHIFT_UPSCALER names the weights: a file as Real-ESRGAN releases them (x4, x2), the
    same as safetensors, or 'owner/name:file' on the hub. Without it a small x2 network is used that was trained on the
    zoo's garments alone: it is for trying this out. A saved folder keeps the weights.
    """

    facts = enhancer_facts(Slot.IMAGE_SIZE, after=frozenset({"img2img_denoise"}))

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.models.upscaler import read_upscaler

        source = context.files.get(WEIGHTS) or os.environ.get(SOURCE) or SHIPPED
        network = read_upscaler(source)
        if source == SHIPPED:
            context.note(f"The network that ships knows garments only; {SOURCE} names the file of another.")
        path = Path(source) if Path(source).suffix == ".safetensors" else _written(network)
        context.keep_file(WEIGHTS, path)
        context.measured(scale=network.scale)
        context.change(Hooked(model, Larger(network)))


class Larger(Hook):
    """Takes images of any kind through an upscaler, on the device that the pipeline is on."""

    name = "realesrgan_upscale"

    def __init__(self, network: Any) -> None:
        self.network = network

    def after(self, pipe: Any, images: Any, given: Mapping[str, Any]) -> Any:
        import numpy as np
        import torch

        if isinstance(images, torch.Tensor):
            return self._larger(images, pipe).to(images.dtype)
        if isinstance(images, np.ndarray):
            made = self._larger(torch.from_numpy(images).movedim(-1, -3), pipe).movedim(-3, -1)
            return made.numpy().astype(images.dtype)
        return [self._larger_picture(image, pipe) for image in images]

    def _larger_picture(self, image: Any, pipe: Any) -> Any:
        """A PIL image; gray, 16 bits and opacity stay, a palette gives way to colors."""
        import numpy as np
        import torch
        from PIL import Image

        deep = image.mode.startswith("I")  # 16 bits; PNG files of them open as 32
        values = np.asarray(image if deep else image.convert(_mode(image)), dtype=np.float32)
        most = 2**16 - 1 if deep else 2**8 - 1
        pixels = torch.from_numpy(np.atleast_3d(values).clip(0, most) / most).movedim(-1, 0)
        made = self._larger(pixels[None], pipe)[0].movedim(0, -1).numpy()
        whole = (made * most).round().astype(np.uint16 if deep else np.uint8)
        return Image.fromarray(whole[..., 0] if whole.shape[-1] == 1 else whole)

    def _larger(self, images: Any, pipe: Any) -> Any:
        device = pipe.device if pipe.device.type != "meta" else "cpu"
        return self.network.to(device).enlarge(images.float().to(device)).to(images.device)


def _mode(image: Any) -> str:
    """The mode that an image is enlarged in: gray or color, with opacity if it has some."""
    gray = image.mode in ("1", "L", "LA", "La")
    opacity = "transparency" in image.info or image.getbands()[-1] in ("A", "a")
    return ("L" if gray else "RGB") + "A" * opacity


def _written(network: Any) -> Path:
    """The weights as safetensors, in a file that lasts as long as the process."""
    path = scratch() / WEIGHTS
    write_tensors(network.state_dict(), path)
    return path
