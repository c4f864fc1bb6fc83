"""Linear layers of whichever class as nn.Linear: transformers' Conv1D (GPT-2) writes its weight [in, out]."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn


def linear_types() -> tuple[type, ...]:
    """Classes of linear layers; transformers' own only once something has imported it."""
    known = sys.modules.get("transformers.pytorch_utils")
    return (nn.Linear, known.Conv1D) if known else (nn.Linear,)


def is_linear(module: Any) -> bool:
    """Whether a module is a linear layer."""
    return isinstance(module, linear_types())


def matrix(layer: Any) -> torch.Tensor:
    """A linear layer's weight as [out, in]."""
    return layer.weight if isinstance(layer, nn.Linear) else layer.weight.T


def as_linear(layer: Any) -> Any:
    """A linear layer of any class as an nn.Linear, to make a layer of few bits from; anything else as it is.

    A Conv1D's weight is copied.
    """
    if type(layer) is nn.Linear or not is_linear(layer):
        return layer
    weight = layer.weight
    if not isinstance(layer, nn.Linear):
        weight = nn.Parameter(weight.detach().T.contiguous(), requires_grad=weight.requires_grad)
    channels, width = weight.shape
    linear = nn.Linear(width, channels, layer.bias is not None, device="meta")
    linear.weight = weight
    if layer.bias is not None:
        linear.bias = layer.bias
    return linear.train(layer.training)


def in_place_of(layer: Any, quantized: Any) -> Any:
    """What stands in a layer's place for the layer of few bits that was made from `as_linear` of it."""
    if isinstance(layer, nn.Linear) or not is_linear(layer):
        return quantized
    from gearshift.layers.conv1d import QuantizedConv1D

    return QuantizedConv1D(quantized)


def inside(quantized: Any) -> Any:
    """The layer of few bits that `in_place_of` was given."""
    return quantized.linear if type(quantized).__name__ == "QuantizedConv1D" else quantized
