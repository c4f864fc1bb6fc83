"""The same prompts under each recipe, side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from gearshift.core.errors import BadValue, MissingExtra
from gearshift.evaluate.metrics import psnr, to_tensor

Image = np.ndarray[Any, Any]
SMALL = 256


@dataclass(frozen=True)
class Gallery:
    """Images of one set of prompts and seeds.

    Attributes:
        captions: one per prompt.
        images: by row name, one H x W x 3 uint8 array per caption; the first row is what the others are compared with.
    """

    captions: Sequence[str]
    images: Mapping[str, Sequence[Image]]

    def __post_init__(self) -> None:
        for name, images in self.images.items():
            if len(images) != len(self.captions):
                raise BadValue(
                    f"{name!r} has {len(images)} images for {len(self.captions)} captions; give one for each."
                )
            for image in images:
                if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                    raise BadValue(
                        f"An image of {name!r} must be H x W x 3 of uint8; got shape {image.shape} of {image.dtype}."
                    )


def gallery(shown: Gallery) -> str:
    """One card per prompt, with each image's PSNR against the first row's."""
    cards = []
    for i, caption in enumerate(shown.captions):
        pictures = {name: images[i] for name, images in shown.images.items()}
        first = next(iter(pictures.values()), None)
        figures = "".join(_figure(name, caption, image, first) for name, image in pictures.items())
        cards.append(f'<section class="card"><h3>{escape(caption)}</h3><div class="prompt">{figures}</div></section>')
    lead = next(iter(shown.images), "")
    under = f'<p class="soft">dB: PSNR of each picture against {escape(lead)}; higher is closer.</p>'
    return under + "".join(cards)


def _figure(name: str, caption: str, image: Image, first: Image | None) -> str:
    height, width = image.shape[:2]
    small = ' class="small"' if max(height, width) <= SMALL else ""
    return (
        f'<figure><img{small} src="data:image/png;base64,{_png(image)}" width="{width}" height="{height}"'
        f' loading="lazy" alt="{escape(f"{caption}, by {name}")}">'
        f"<figcaption>{escape(name)}<small>{_closeness(image, first)}</small></figcaption></figure>"
    )


def _closeness(image: Image, first: Image | None) -> str:
    if first is None or image is first:
        return "reference"
    if image.shape != first.shape:
        return "another size"
    decibels = psnr(to_tensor([first]), to_tensor([image]))
    return "identical" if decibels == float("inf") else f"{decibels:.1f} dB"


def _png(image: Image) -> str:
    try:
        from PIL import Image as Pillow
    except ImportError:
        raise MissingExtra("A gallery needs the package pillow: pip install 'gearshift[diffusers]'") from None
    data = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(image)).save(data, "PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode("ascii")
