"""How much a unit matters: by weights, or by weights and what a small change of them does to the output."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from gearshift.core.model import evaluating
from gearshift.models.prunable_groups import Group, turned
from gearshift.training.trainable import learning

WITH_GRADIENTS = ("TaylorImportance", "HessianImportance")
Slopes = dict[str, tuple[torch.Tensor, torch.Tensor]]


def scores(group: Group, root: nn.Module, kind: str, slopes: Slopes, generator: torch.Generator) -> torch.Tensor:
    """One number for each unit, float64 [units]; larger is more important.

    Magnitude is the sum of squared weights; LAMP (Lee et al. 2020, arXiv 2010.07611) relates it to that of all units
    that are no smaller; Taylor (Molchanov et al. 2019, arXiv 1906.10771) is the change of the loss to first order,
    Hessian that of second order, with squared gradients for the curvature.

    Args:
        slopes: mean absolute and mean squared gradients by layer path; needed by Taylor and Hessian.
    """
    if kind == "RandomImportance":
        return torch.rand(group.units, generator=generator, dtype=torch.float64)
    total = torch.zeros(group.units, dtype=torch.float64)
    for side, rows in [(s, True) for s in group.outputs] + [(s, False) for s in group.inputs]:
        layer: Any = root.get_submodule(side.path)
        if layer.weight is None:  # a norm that only keeps statistics
            continue
        each = _by_unit(layer, _valued(layer.weight, side.path, kind, slopes), rows)
        for map_ in side.maps:
            total += each[map_].sum(1)
    if kind == "LAMPImportance":
        ranked = total.sort(descending=True)
        sums = ranked.values.cumsum(0)
        total = torch.empty_like(total).scatter_(0, ranked.indices, ranked.values / sums)
    return total


def slopes_of(root: nn.Module, paths: Iterable[str], losses: Iterable[torch.Tensor]) -> Slopes:
    """Of some layers' weights: the product with the gradient, its absolute value and its square, means over losses."""
    layers: dict[str, Any] = {path: root.get_submodule(path) for path in dict.fromkeys(paths)}
    layers = {path: layer for path, layer in layers.items() if layer.weight is not None}
    first = {path: torch.zeros_like(layer.weight, dtype=torch.float32) for path, layer in layers.items()}
    second = {path: torch.zeros_like(value) for path, value in first.items()}
    count = 0
    with learning([layer.weight for layer in layers.values()], root), evaluating(root), torch.enable_grad():
        for loss in losses:
            loss.backward()
            count += 1
            for path, layer in layers.items():
                if layer.weight.grad is not None:
                    product = (layer.weight.grad * layer.weight).detach().float()
                    first[path] += product.abs()
                    second[path] += product.square()
                    layer.weight.grad = None
    return {path: (first[path] / max(count, 1), second[path] / max(count, 1)) for path in layers}


def units_to_keep(values: list[torch.Tensor], groups: list[Group], share: float, globally: bool) -> list[torch.Tensor]:
    """Which units of each group stay, ascending; at least one of each, in multiples of what the group asks for.

    Args:
        share: of the units that goes, of each group, or with `globally` of all groups together (scores over their
            group's mean decide then).
    """
    counts = [round(g.units * (1 - share)) for g in groups]
    if globally and groups:
        relative = [v / v.mean().clamp_min(1e-30) for v in values]
        ranked = torch.cat(relative).sort().values
        going = min(round(share * len(ranked)), len(ranked) - 1)
        counts = [int((v >= ranked[going]).sum()) for v in relative]
    found = []
    for value, group, count in zip(values, groups, counts, strict=True):
        most = max(group.multiple, min(group.units, -(-count // group.multiple) * group.multiple), 1)
        found.append(value.topk(most).indices.sort().values)
    return found


def projections(output: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random projection of an output: the mean of its squared gradients is the curvature of the squared error."""
    drawn = torch.randn(output.shape, generator=generator).to(output)
    return (output.float() * drawn.float()).sum() / output.numel() ** 0.5


def taken(items: Iterable[Any], count: int) -> list[Any]:
    """The first few of some items."""
    return list(itertools.islice(items, count))


def _valued(weight: torch.Tensor, path: str, kind: str, slopes: Slopes) -> torch.Tensor:
    if kind == "TaylorImportance":
        return slopes[path][0]
    if kind == "HessianImportance":
        return slopes[path][1]
    return weight.detach().float().square()


def _by_unit(layer: nn.Module, values: torch.Tensor, rows: bool) -> torch.Tensor:
    """Sums of values over each output row, or each input column, float64."""
    axis = int(rows) if turned(layer) else int(not rows)
    if values.ndim == 1:
        return values.double().cpu()
    return values.double().movedim(axis, 0).flatten(1).sum(1).cpu()
