"""Says which garment in which color an image shows, and how far a set of images is from real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .data import COLORS, GARMENTS

FOLDER = Path(__file__).parent / "models" / "judge"
FEATURES = 64


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.SiLU())


class Judge(nn.Module):
    """A small CNN with two heads, for images in [-1, 1]: [n, 3, 32, 32], or gray [n, 1, 28 or 32, 28 or 32].

    Gray images are judged as white ones. All methods work in evaluation mode and in batches of 500.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _layer(3, 32, 2), _layer(32, 32), _layer(32, 64, 2), _layer(64, 64), _layer(64, 128, 2), _layer(128, 128)
        )
        self.neck = nn.Linear(128, FEATURES)
        self.garment = nn.Linear(FEATURES, len(GARMENTS))
        self.color = nn.Linear(FEATURES, len(COLORS))

    @classmethod
    def load(cls, folder: str | Path = FOLDER) -> Judge:
        """The judge that ships with the package, fp32 on the CPU, in evaluation mode."""
        from safetensors.torch import load_file

        judge = cls()
        judge.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return judge.eval().requires_grad_(False)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Features float32 [n, 64] of images float32 [n, 3, 32, 32]."""
        return nn.functional.silu(self.neck(self.body(images).mean((2, 3))))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits for garments [n, 10] and colors [n, 8]."""
        features = self.embed(images)
        return self.garment(features), self.color(features)

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features float32 [n, 64], whose distribution `frechet` compares."""
        return torch.cat([self.embed(batch) for batch in as_judged(images).split(500)])

    @torch.no_grad()
    def guess(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest garment and color of each image, int64 [n] each."""
        features = self.features(images)
        return self.garment(features).argmax(1), self.color(features).argmax(1)

    def accuracy(
        self, images: torch.Tensor, garments: torch.Tensor | Sequence[int], colors: torch.Tensor | Sequence[int]
    ) -> tuple[float, float]:
        """Share of images that show the garment, and share that show the color, that they were meant to."""
        garment, color = self.guess(images)
        hits = (garment == torch.as_tensor(garments)), (color == torch.as_tensor(colors))
        return hits[0].float().mean().item(), hits[1].float().mean().item()

    def distance(self, images: torch.Tensor) -> float:
        """Frechet distance from these images to 10,000 real ones that no model of the zoo was trained on."""
        mean, covariance = reference_moments()
        return _between(*feature_moments(self.features(images)), mean, covariance)


def garment(images: torch.Tensor, call: Mapping[str, Any]) -> list[float]:
    """100 for each image in [0, 1] that shows the garment its call asks for, else 0; a metric for `gs.evaluate`."""
    wanted, _ = asked(call)
    return (100.0 * (_judge().guess(images * 2 - 1)[0] == torch.tensor(wanted))).tolist()


def color(images: torch.Tensor, call: Mapping[str, Any]) -> list[float]:
    """100 for each image in [0, 1] that shows the color its call asks for, else 0; a metric for `gs.evaluate`."""
    _, wanted = asked(call)
    return (100.0 * (_judge().guess(images * 2 - 1)[1] == torch.tensor(wanted))).tolist()


garment.unit = color.unit = "% right"  # type: ignore[attr-defined]


def asked(call: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Garments and colors, as indices, that a call of one of the zoo's pipelines asks for by prompts or labels."""
    if "class_labels" in call:
        labels = [divmod(int(label), len(COLORS)) for label in call["class_labels"]]
        return [g for g, _ in labels], [c for _, c in labels]
    prompts = [call["prompt"]] if isinstance(call["prompt"], str) else call["prompt"]
    words = [prompt.split() for prompt in prompts]
    found = [(next(w for w in said if w in GARMENTS), next(w for w in said if w in COLORS)) for said in words]
    return [GARMENTS.index(g) for g, _ in found], [COLORS.index(c) for _, c in found]


@cache
def _judge() -> Judge:
    return Judge.load()


def as_judged(images: torch.Tensor) -> torch.Tensor:
    """Images as the judge wants them: three channels, 32x32, float32, black where padded."""
    side = (32 - images.shape[-1]) // 2
    padded = nn.functional.pad(images.float(), (side,) * 4, value=-1.0)
    return padded.expand(-1, 3, -1, -1)


def reference_moments(folder: str | Path = FOLDER) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [64] and covariance [64, 64], float64, of the features of the 10,000 held-out images in eight colors."""
    from safetensors.torch import load_file

    stored = load_file(Path(folder) / "reference.safetensors")
    return stored["mean"], stored["covariance"]


def feature_moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of features [n, d], float64."""
    return features.double().mean(0), torch.cov(features.double().T)


def frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    """Frechet distance between two sets of features [n, d] (Heusel et al. 2017); small sets read higher."""
    return _between(*feature_moments(a), *feature_moments(b))


def _between(mean_a: torch.Tensor, cov_a: torch.Tensor, mean_b: torch.Tensor, cov_b: torch.Tensor) -> float:
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(distance.item(), 0.0)
