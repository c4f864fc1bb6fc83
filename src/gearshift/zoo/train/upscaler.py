"""Train the small x2 upscaler on garments: their images at half size, and as they are."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from ...models.upscaler import Upscaler
from ..data import COLORS, colored, fashion_mnist, held_out
from .loop import fit, one_thread

BATCH = 32
FILE = Path(__file__).parents[1] / "models" / "upscaler" / "model.safetensors"


def halved(images: torch.Tensor) -> torch.Tensor:
    """Images [n, 3, h, w] at half size, antialiased."""
    small = F.interpolate(images, scale_factor=0.5, mode="bicubic", antialias=True, align_corners=False)
    return small.clamp(0, 1)


def psnr(made: torch.Tensor, exact: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1], averaged over the images."""
    squared = (made.clamp(0, 1) - exact).square().flatten(1).mean(1).clamp_min(1e-10)
    return float((-10 * squared.log10()).mean())


@torch.no_grad()
def judged(network: Upscaler, count: int = 1000) -> tuple[float, float]:
    """PSNR in dB of the network and of bicubic interpolation, on images that it was not trained on."""
    exact = (held_out(count)[0] + 1) / 2
    small = halved(exact)
    bicubic = F.interpolate(small, scale_factor=2, mode="bicubic", align_corners=False)
    return psnr(network.enlarge(small), exact), psnr(bicubic, exact)


def main(steps: int = 2500) -> None:
    """Train, write the weights, print the figures."""
    from safetensors.torch import save_file

    one_thread()
    torch.manual_seed(0)
    network = Upscaler(scale=2, width=24, growth=12, blocks=2).train()
    gray, _ = fashion_mnist("train")

    def loss(_: int) -> torch.Tensor:
        chosen = torch.randint(len(gray), (BATCH,))
        exact = (colored(gray[chosen], torch.randint(len(COLORS), (BATCH,))) + 1) / 2
        exact = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, exact, exact.flip(3))
        return F.l1_loss(network(halved(exact)), exact)

    fit(network, loss, steps)
    network.eval().half().float()
    FILE.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: v.half().contiguous() for n, v in network.state_dict().items()}, FILE)
    ours, bicubic = judged(network)
    print(f"PSNR {ours:.2f} dB, bicubic {bicubic:.2f} dB, parameters {sum(p.numel() for p in network.parameters())}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
