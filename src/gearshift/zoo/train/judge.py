"""Train the judge on Fashion-MNIST in random colors, and store what real held-out images look like to it."""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from ..data import COLORS, colored, fashion_mnist, held_out
from ..judge import FOLDER, Judge, feature_moments, frechet
from .loop import fit, one_thread

BATCH = 128


def batch(gray: torch.Tensor, garments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random images in random colors, half of them mirrored, shifted by up to a pixel, a little brighter or darker."""
    chosen = torch.randint(len(gray), (BATCH,))
    colors = torch.randint(len(COLORS), (BATCH,))
    images = colored(gray[chosen], colors)
    images = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, images, images.flip(3))
    images = images.roll(tuple(torch.randint(-1, 2, (2,)).tolist()), (2, 3))
    light = (images + 1) * torch.empty(BATCH, 1, 1, 1).uniform_(0.85, 1.0) - 1
    return light + 0.02 * torch.randn_like(light), garments[chosen], colors


def main(steps: int = 1800) -> None:
    """Train, print the figures reached, write weights and reference statistics."""
    one_thread()
    torch.manual_seed(0)
    judge = Judge().train()
    gray, labels = fashion_mnist("train")

    def loss(_: int) -> torch.Tensor:
        images, garments, colors = batch(gray, labels)
        by_garment, by_color = judge(images)
        return F.cross_entropy(by_garment, garments, label_smoothing=0.05) + 0.3 * F.cross_entropy(by_color, colors)

    fit(judge, loss, steps)
    judge.eval().half().float()
    FOLDER.mkdir(parents=True, exist_ok=True)
    halves = {n: v.half() if v.is_floating_point() else v for n, v in judge.state_dict().items()}
    save_file(halves, FOLDER / "model.safetensors")
    images, garments, colors = held_out()
    features = judge.features(images)
    mean, covariance = feature_moments(features)
    save_file({"mean": mean, "covariance": covariance}, FOLDER / "reference.safetensors")
    print("held-out accuracy, garment and color:", judge.accuracy(images, garments, colors))
    shuffled = features[torch.randperm(len(features))]
    print("Frechet, 400 real against 9600 other real:", frechet(shuffled[:400], shuffled[400:]))
    print("parameters:", sum(p.numel() for p in judge.parameters()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
