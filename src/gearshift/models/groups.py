"""Units that can be taken out of a model together: which rows and columns of which layers they own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

Maps = list[torch.Tensor]
QUERIES = ("q_norm", "norm_q", "query_norm", "q_layernorm", "norm_added_q")
KEYS = ("k_norm", "norm_k", "key_norm", "k_layernorm", "norm_added_k")
ADDED = {"add_q_proj": True, "add_k_proj": False, "add_v_proj": False}  # of a second stream: whether it asks


@dataclass
class Side:
    """Rows or columns of one layer. Each map is int64 [units, n]: what belongs to each unit, part after part."""

    path: str
    maps: Maps


@dataclass
class Group:
    """Units that can be taken out together.

    Attributes:
        kind: 'neurons', 'heads', 'head dimensions' or 'channels'.
        units: how many there are.
        outputs, inputs: layers whose output rows, and layers whose input columns, belong to the units; a norm is in
            `outputs` for its first dimension.
        counts: (module path, attribute, factor): an attribute that is factor * units.
        multiple: how many units there must be a multiple of.
        together: how many heads that ask go with each unit.
        size: dimensions of a head; 0 for other kinds.
    """

    path: str
    kind: str
    units: int
    outputs: list[Side]
    inputs: list[Side]
    counts: list[tuple[str, str, int]] = field(default_factory=list)
    multiple: int = 1
    together: int = 1
    size: int = 0


def beside(path: str, attention: nn.Module, count: int, shared: int, size: int) -> tuple[list[Side], list[Side]]:
    """What else the heads of an attention own: norms over all heads, and the projections of a second stream.

    Args:
        count, shared: heads that ask, and heads that are asked.
        size: dimensions of a head.

    Returns:
        More outputs and more inputs of the heads' group.
    """
    together = count // shared
    wide, narrow = spans(shared, together * size), spans(shared, size)
    outputs, inputs = [], []
    for names, heads, map_ in ((QUERIES, count, wide), (KEYS, shared, narrow)):
        for name in names:
            weight = getattr(getattr(attention, name, None), "weight", None)
            if not isinstance(weight, torch.Tensor) or (weight.ndim == 1 and len(weight) == size != heads * size):
                continue
            if weight.shape[0] == heads * size:
                outputs.append(Side(path_below(path, name), [map_]))
            elif weight.ndim > 1 and weight.shape[0] == heads:
                outputs.append(Side(path_below(path, name), [spans(shared, heads // shared)]))
    for name, asks in ADDED.items():
        if isinstance(getattr(attention, name, None), nn.Linear):
            outputs.append(Side(path_below(path, name), [wide if asks else narrow]))
    if isinstance(getattr(attention, "to_add_out", None), nn.Linear):
        inputs.append(Side(path_below(path, "to_add_out"), [wide]))
    return outputs, inputs


def spans(units: int, each: int, offset: int = 0) -> torch.Tensor:
    """The map of units that own so many neighboring rows each."""
    return torch.arange(units * each).view(units, each) + offset


def path_below(path: str, name: str) -> Any:
    """The path of a module below another."""
    return f"{path}.{name}" if path else name
