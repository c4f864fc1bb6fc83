"""Layers whose only weight is a nested store: what gears of low precision are cut from, read as the 16-bit weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gearshift.layers.base import QuantizedLayer
from gearshift.quant.formats.nested import Nested, nest

PLANES = ("multiplier", "offset", "coarse", "fine", "rest")


class NestedLayer(QuantizedLayer):
    """An nn.Linear or nn.Conv2d that gave its weight up for the planes of a nested store.

    The planes are buffers that are not in the state dict, which has the 16-bit weight in their place.
    """

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        return planes_of(self).sixteen_bits(dtype)

    def quantize(self, weight: torch.Tensor) -> None:
        put_planes(self, nest(weight))

    def weight_shape(self) -> tuple[int, ...]:
        return _sizes(self)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.read_weight()


class NestedLinear(NestedLayer, nn.Linear):
    """What an nn.Linear becomes."""


class NestedConv2d(NestedLayer, nn.Conv2d):
    """What an nn.Conv2d becomes."""


def give_up_weight(layer: nn.Linear | nn.Conv2d) -> None:
    """Drop a layer's own weight; its planes are there already."""
    weight = layer._parameters.pop("weight")
    layer.__class__ = NestedLinear if isinstance(layer, nn.Linear) else NestedConv2d
    layer.dtype = weight.dtype


def take_weight_back(layer: Any) -> None:
    """Give a layer a weight of its own again, made of the planes, which would be nested to the same planes."""
    weight = layer.read_weight()
    layer.__class__ = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
    for name in ("dtype", "writes", "origin"):
        vars(layer).pop(name, None)
    layer.weight = nn.Parameter(weight, requires_grad=False)


def planes_of(layer: Any) -> Nested:
    """The nested store in a layer's buffers. Its scale is kept by its bits: a change of dtype leaves it alone."""
    held = layer._buffers
    scale = held["gear_scale"].view(torch.float32)
    return Nested(torch.Size(_sizes(layer)), scale, *(held[f"gear_{name}"] for name in PLANES))


def put_planes(layer: nn.Module, store: Nested) -> None:
    """Make the planes of a store a layer's buffers, so that they move with it and are copied with it."""
    layer.register_buffer("gear_scale", store.scale.view(torch.int32), persistent=False)
    for name in PLANES:
        layer.register_buffer(f"gear_{name}", getattr(store, name), persistent=False)


def _sizes(layer: Any) -> tuple[int, ...]:
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return layer.out_channels, layer.in_channels, *layer.kernel_size


def drop_planes(layer: nn.Module) -> None:
    """Take the planes off a layer, and out of the lists of hooks that would bring them back from elsewhere."""
    hook = vars(layer).get("_hf_hook")  # accelerate's, or several in one
    lists = [getattr(one, "original_devices", {}) for one in (hook, *getattr(hook, "hooks", ()))]
    for name in ("gear_scale", *(f"gear_{name}" for name in PLANES)):
        for held in (layer._buffers, *lists):
            held.pop(name, None)
