"""Fashion-MNIST in eight colors with captions: the data that the zoo's models learn and are judged on."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from ..core.errors import BadValue, BrokenFolder

FOLDER = "/usr/share/datasets/fashion-mnist"
GARMENTS = ("tshirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
RGB = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 0.8, 0.0),
    "blue": (0.1, 0.2, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "purple": (0.65, 0.0, 0.85),
    "orange": (1.0, 0.5, 0.0),
    "cyan": (0.0, 1.0, 1.0),
    "white": (1.0, 1.0, 1.0),
}
COLORS = tuple(RGB)
TEMPLATES = (
    "a photo of a {color} {garment}",
    "a picture of a {color} {garment}",
    "a {color} {garment}",
    "one {garment} in {color}",
)


class Prompt(NamedTuple):
    """A prompt, what it asks for (indices into GARMENTS and COLORS), and the seed to draw it with."""

    text: str
    garment: int
    color: int
    seed: int = 0


def caption(garment: int, color: int, template: int = 0) -> str:
    """The sentence for a garment in a color."""
    return TEMPLATES[template].format(garment=GARMENTS[garment], color=COLORS[color])


def prompts() -> list[Prompt]:
    """'a photo of a {color} {garment}' for all 80 pairs, garment by garment; seeds count from 0."""
    pairs = [(g, c) for g in range(len(GARMENTS)) for c in range(len(COLORS))]
    return [Prompt(caption(g, c), g, c, seed) for seed, (g, c) in enumerate(pairs)]


def prompt_set(part: Literal["search", "report"], count: int = 40) -> list[Prompt]:
    """Prompts with seeds: plans are found on 'search' and reported on 'report', which share neither prompts nor seeds.

    The 80 pairs are split like a checkerboard, so that both parts have every garment and every color. A count above
    40 repeats the pairs with new seeds; smaller counts are spread over the garments.
    """
    if part not in ("search", "report"):
        raise BadValue(f"The part of the prompts must be 'search' or 'report', not {part!r}.")
    parity = ("search", "report").index(part)
    rows = len(COLORS) // 2
    half = [p for p in prompts() if (p.garment + p.color) % 2 == parity]
    spread = [half[rows * g + (g + shift) % rows] for shift in range(rows) for g in range(len(GARMENTS))]
    return [spread[i % len(spread)]._replace(seed=100_000 * (1 + parity) + i) for i in range(count)]


def fashion_mnist(part: Literal["train", "test"], folder: str | Path = FOLDER) -> tuple[torch.Tensor, torch.Tensor]:
    """Fashion-MNIST's gray images, uint8 [n, 28, 28], and labels, int64 [n]; n is 60000 or, for 'test', 10000.

    Raises:
        BrokenFolder: the folder has no Fashion-MNIST.
    """
    prefix = Path(folder) / {"train": "train", "test": "t10k"}[part]
    try:
        images = gzip.decompress(Path(f"{prefix}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress(Path(f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    except FileNotFoundError:
        raise BrokenFolder(
            f"Fashion-MNIST is not in {folder}: install Debian's package dataset-fashion-mnist, "
            "or name the folder that has its four .gz files."
        ) from None
    gray = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    return torch.from_numpy(gray.copy()), torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))


def colored(gray: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
    """Gray times color on black, padded: uint8 [n, 28, 28] and int64 [n] -> float32 [n, 3, 32, 32] in [-1, 1]."""
    rgb = torch.tensor([RGB[name] for name in COLORS])[colors]
    light = torch.nn.functional.pad(gray.float() / 255, (2, 2, 2, 2))
    return light[:, None] * rgb[:, :, None, None] * 2 - 1


def held_out(count: int = 10_000, folder: str | Path = FOLDER) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Test images in colors that take turns: float32 [n, 3, 32, 32], garments int64 [n], colors int64 [n]."""
    gray, garments = fashion_mnist("test", folder)
    colors = torch.arange(len(gray)) % len(COLORS)
    return colored(gray[:count], colors[:count]), garments[:count], colors[:count]
