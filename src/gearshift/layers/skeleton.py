"""Empty int8 layers for a state dict to be loaded into."""

from __future__ import annotations

from torch import nn

from gearshift.layers.int8 import Int8Linear
from gearshift.layers.int8_conv import Int8Conv2d


def int8_skeleton(layer: nn.Linear | nn.Conv2d, unsigned: bool) -> Int8Linear | Int8Conv2d:
    """The int8 layer of a float layer's sizes and type, without storage."""
    has_bias, dtype = layer.bias is not None, layer.weight.dtype
    if isinstance(layer, nn.Linear):
        return Int8Linear(layer.in_features, layer.out_features, has_bias, "meta", dtype, unsigned).eval()
    sizes = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
    return Int8Conv2d(*sizes, has_bias, "meta", dtype, unsigned).eval()
