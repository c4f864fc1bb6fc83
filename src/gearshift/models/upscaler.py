"""ESRGAN's generator (Wang et al. 2018, arXiv 1809.00219; Real-ESRGAN 2021, arXiv 2107.10833), and tiles for it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gearshift.core.errors import BadValue, BrokenFolder, told
from gearshift.core.extras import need
from gearshift.core.tensors import read_tensors

SLOPE = 0.2
SHRUNK = 0.2  # what a residual branch is scaled by
STRIDE = 4  # tiles begin at multiples of it, as folding needs
BORDER = 16  # pixels that an image is continued by, so that the network does not see its edge


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees the outputs of all before it."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for i in range(1, 6):
            outputs = width if i == 5 else growth
            setattr(self, f"conv{i}", nn.Conv2d(width + (i - 1) * growth, outputs, 3, 1, 1))

    conv5: nn.Conv2d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = [x]
        for i in range(1, 5):
            seen.append(F.leaky_relu(getattr(self, f"conv{i}")(torch.cat(seen, 1)), SLOPE))
        return x + SHRUNK * self.conv5(torch.cat(seen, 1))


class ResidualDense(nn.Module):
    """Three dense blocks with a residual around them (RRDB)."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(width, growth) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + SHRUNK * self.rdb3(self.rdb2(self.rdb1(x)))


class Upscaler(nn.Module):
    """Images [n, 3, h, w] in [0, 1] to [n, 3, scale * h, scale * w]; sides of any length.

    The network enlarges four times; for a smaller scale its input is folded into more channels first.
    """

    def __init__(self, scale: int = 4, width: int = 64, growth: int = 32, blocks: int = 23) -> None:
        super().__init__()
        self.scale, self.fold = scale, 4 // scale
        self.conv_first = nn.Conv2d(3 * self.fold**2, width, 3, 1, 1)
        self.body = nn.Sequential(*(ResidualDense(width, growth) for _ in range(blocks)))
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (nn.Conv2d(width, width, 3, 1, 1) for _ in "body")
        self.conv_last = nn.Conv2d(width, 3, 3, 1, 1)

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor], source: str) -> Upscaler:
        """The network that a state dict fits, its sizes told by the tensors; names as in Real-ESRGAN's files.

        Raises:
            BrokenFolder: if it is no such state dict.
        """
        found = dict(state.get("params_ema") or state.get("params") or state)
        blocks = {int(m[1]) for name in found if (m := re.match(r"body\.(\d+)\.rdb1\.", name))}
        try:
            width, channels = found["conv_first.weight"].shape[:2]
            growth = found["body.0.rdb1.conv1.weight"].shape[0]
            scale = {3: 4, 12: 2, 48: 1}[channels]
            made = cls(scale, width, growth, len(blocks))
            made.load_state_dict(found)
        except (KeyError, RuntimeError, AttributeError) as error:
            reason = told(error)
            raise BrokenFolder(f"{source} does not hold the weights of a Real-ESRGAN generator: {reason}") from None
        return made.float().eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % self.fold, 0, -height % self.fold), mode="replicate")
        features = self.conv_first(F.pixel_unshuffle(padded, self.fold))
        features = features + self.conv_body(self.body(features))
        for enlarge in (self.conv_up1, self.conv_up2):
            features = F.leaky_relu(enlarge(F.interpolate(features, scale_factor=2, mode="nearest")), SLOPE)
        made = self.conv_last(F.leaky_relu(self.conv_hr(features), SLOPE))
        return made[..., : height * self.scale, : width * self.scale]

    @torch.no_grad()
    def enlarge(self, images: torch.Tensor, tile: int = 256, overlap: int = 64) -> torch.Tensor:
        """Images in [0, 1] enlarged one by one, in tiles that blend into each other, so that memory stays bounded.

        Args:
            images: [n, channels, h, w]: 3 of color or 1 of gray, and one of opacity behind them if there is a 4th or
                2nd. The network enlarges colors; opacity is interpolated, so that what is opaque stays so.
            tile, overlap: in pixels of the input, multiples of 4; neighbors share `overlap` of them.

        Raises:
            BadValue: for more channels.
        """
        channels = images.shape[1]
        if not 1 <= channels <= 4:
            raise BadValue(f"Images to enlarge have 1 to 4 channels (gray, color, opacity). Got {channels} instead.")
        colors = images[:, : channels - 1 + channels % 2]
        made = self._enlarged(colors.expand(-1, 3, -1, -1), tile, overlap)
        made = made.mean(1, keepdim=True) if channels < 3 else made
        if channels % 2:
            return made
        opacity = F.interpolate(images[:, -1:], scale_factor=self.scale, mode="bicubic").clamp(0, 1)
        return torch.cat([made, opacity], 1)

    def _enlarged(self, images: torch.Tensor, tile: int, overlap: int) -> torch.Tensor:
        """Colors [n, 3, h, w]."""
        height, width = images.shape[-2:]
        more = (BORDER, BORDER + -width % STRIDE, BORDER, BORDER + -height % STRIDE)
        padded = F.pad(images, more, mode="replicate")
        made = torch.cat([self._tiled(image[None], tile, overlap) for image in padded]).clamp(0, 1)
        edge = BORDER * self.scale
        return made[..., edge : edge + height * self.scale, edge : edge + width * self.scale]

    def _tiled(self, image: torch.Tensor, tile: int, overlap: int) -> torch.Tensor:
        height, width = image.shape[-2:]
        if height <= tile and width <= tile:
            return self(image)
        total = image.new_zeros(1, 3, height * self.scale, width * self.scale)
        weight = image.new_zeros(1, 1, height * self.scale, width * self.scale)
        for top in _starts(height, tile, overlap):
            for left in _starts(width, tile, overlap):
                made = self(image[..., top : top + tile, left : left + tile])
                rows = _ramp(made.shape[-2], overlap * self.scale, top > 0, top + tile < height).to(image)
                columns = _ramp(made.shape[-1], overlap * self.scale, left > 0, left + tile < width).to(image)
                share = rows[:, None] * columns[None, :]
                place = (
                    ...,
                    slice(top * self.scale, top * self.scale + made.shape[-2]),
                    slice(left * self.scale, left * self.scale + made.shape[-1]),
                )
                total[place] += made * share
                weight[place] += share
        return total / weight


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin, the last one at the end."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def _ramp(length: int, overlap: int, before: bool, after: bool) -> torch.Tensor:
    """Weights of a tile along one side: next to none at an edge that a neighbor has inside, and rising from there."""
    found = torch.ones(length)
    margin = 3 * overlap // 8
    rise = ((torch.arange(overlap) - margin + 0.5) / (overlap - 2 * margin)).clamp(1e-6, 1)
    if before:
        found[:overlap] = rise
    if after:
        found[-overlap:] = torch.minimum(found[-overlap:], rise.flip(0))
    return found


def read_upscaler(source: str | os.PathLike[str]) -> Upscaler:
    """The network of a file: safetensors, or a released .pth, of which nothing but tensors is read.

    Args:
        source: a path, or 'owner/name:file' on the Hugging Face hub.

    Raises:
        BrokenFolder: if there is no such file, or it holds something else.
    """
    path = Path(source)
    if not path.is_file() and ":" in str(source):
        path = Path(_from_hub(str(source)))
    if not path.is_file():
        raise BrokenFolder(f"{source} is not there: an upscaler is a .safetensors or .pth file, or 'owner/name:file'.")
    if path.suffix == ".safetensors":
        return Upscaler.of(read_tensors(path), str(path))
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BrokenFolder(f"{path} cannot be read as tensors: {told(error)}") from None
    return Upscaler.of(state, str(path))


def _from_hub(source: str) -> str:
    repo, _, file = source.partition(":")
    hub = need("huggingface_hub", "diffusers", "Fetching an upscaler")
    try:
        return hub.hf_hub_download(repo, file)
    except Exception as error:
        raise BrokenFolder(f"{source} could not be fetched: {told(error)}") from None
