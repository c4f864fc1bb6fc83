"""Sites: the places in a denoiser where gates go. Each function gives lists of modules that share one output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gearshift.models import diffusers as models
from gearshift.models.denoiser import Denoiser, Kind


def backbone(module: Any, row: Denoiser) -> list[list[Any]]:
    """The whole denoiser."""
    return [[module]]


def block_stack(module: Any, row: Denoiser) -> list[list[Any]]:
    """Each stack of repeated blocks as one; a U-Net's blocks, which differ from each other, one by one."""
    if row.unet:
        return [[block] for block in unet_blocks(module)]
    return [list(module.get_submodule(path)) for path in row.blocks]


def block(module: Any, row: Denoiser) -> list[list[Any]]:
    """Each repeated transformer block by itself."""
    return [[b] for path in row.blocks for b in module.get_submodule(path)]


def attention(kind: Kind) -> Callable[[Any, Denoiser], list[list[Any]]]:
    """The site of each attention module of one kind by itself."""

    def site(module: Any, row: Denoiser) -> list[list[Any]]:
        return [[m] for m in models.attention_modules(module, row, kind).values()]

    site.__name__ = f"{kind}_attention"
    return site


def deep_features(module: Any, row: Denoiser) -> list[list[Any]]:
    """All of a U-Net but its outermost blocks."""
    return [[module.get_submodule(path)] for path in models.deep_feature_paths(module)]


def unet_blocks(module: Any) -> list[Any]:
    """A U-Net's blocks in the order they run."""
    middle = [module.mid_block] if getattr(module, "mid_block", None) is not None else []
    return [*module.down_blocks, *middle, *module.up_blocks]
