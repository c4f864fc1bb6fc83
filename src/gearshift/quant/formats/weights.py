"""A weight in any format: what all of them answer."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gearshift.quant.formats import gaussian_grid, grouped, int8
from gearshift.quant.formats.float8 import Float8, widened
from gearshift.quant.formats.gaussian_grid import Pairs
from gearshift.quant.formats.grouped import Grouped
from gearshift.quant.formats.int8 import Quantized

Weight = Quantized | Grouped | Float8 | Pairs
FORMATS: dict[str, type[Weight]] = {"int8": Quantized, "grouped": Grouped, "float8": Float8, "pairs": Pairs}


def dequantize(weight: Weight, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The float weight [out, in] that the bits stand for."""
    if isinstance(weight, Quantized):
        return int8.dequantize(weight, dtype)
    if isinstance(weight, Grouped):
        return grouped.dequantize(weight, dtype)
    if isinstance(weight, Float8):
        return widened(*weight).to(dtype)
    return gaussian_grid.numbers(*weight, dtype)


def in_features_of(weight: Weight) -> int:
    """How many inputs it has."""
    if isinstance(weight, Grouped):
        return weight.width
    return weight.codes.shape[1] * 8 // weight.bits if isinstance(weight, Pairs) else weight.values.shape[1]


def bits(weight: Weight) -> int:
    """Of each number."""
    return 8 if isinstance(weight, Quantized | Float8) else weight.bits


def group(weight: Weight) -> int:
    """How many inputs share a scale."""
    if isinstance(weight, Grouped):
        return weight.group
    return in_features_of(weight) // weight.scale.shape[1] if isinstance(weight, Pairs) else in_features_of(weight)


def channel_runs(weight: Weight, most: int) -> Iterator[Weight]:
    """Runs of output channels, of about so many numbers each."""
    out = weight[0].shape[0]
    step = max(1, most // max(in_features_of(weight), 1))
    if step >= out:
        yield weight
        return
    by_channel = [name for name, part in weight._asdict().items() if isinstance(part, torch.Tensor) and name != "table"]
    for first in range(0, out, step):
        yield weight._replace(**{name: getattr(weight, name)[first : first + step] for name in by_channel})
