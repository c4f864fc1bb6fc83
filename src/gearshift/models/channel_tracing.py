"""Channels that can be taken out of any model with convolutions, found by tracing one call of it.

Torch-Pruning (Fang et al. 2023, arXiv 2301.12900) follows the graph that autograd leaves from layer to layer. It takes
operations that it does not know for element-wise ones, so every group that it finds is tried out on a copy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from gearshift.core.errors import BadValue, WrongModel, told
from gearshift.core.extras import need
from gearshift.core.record import record_of
from gearshift.models.prunable_groups import BATCH_NORMS, CONVOLUTIONS, Group, Side, place, shrink, state, staying

SIZE = 64  # pixels of an image whose size no configuration gives
Run = Callable[[], list[torch.Tensor]]


def fits(root: nn.Module) -> bool:
    """Whether there are convolutions to look for."""
    return any(isinstance(module, CONVOLUTIONS) for module in root.modules())


def traced_channels(root: nn.Module, data: Any = None) -> list[Group]:
    """The channels that go through convolutions, batch norms and linear layers; the module is left as it is.

    Groups are left out that reach the module's output, that no layer reads, and that go through grouped or transposed
    convolutions, norms over channels, single parameters or anything else that does not let them go without a trace.

    Raises:
        BadValue: if there is nothing to call the module with.
        MissingExtra: without the package.
        WrongModel: if the call or its tracing fails.
    """
    args, keywords = _doubled(_inputs(root, data))
    package = need("torch_pruning", "pruning", f"Tracing the channels of {type(root).__name__}")
    try:
        copy = _copy(root)

        def run() -> list[torch.Tensor]:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return [t for t in tree_leaves(copy(*args, **keywords)) if isinstance(t, torch.Tensor)]

        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            found = list(_found(package, copy, run))
    except Exception as error:
        reason = told(error)
        raise WrongModel(f"{type(root).__name__} could not be traced to find its channels: {reason}") from error
    return [group for group in found if _goes_without_a_trace(copy, group, run)]


def _inputs(root: nn.Module, data: Any) -> tuple[tuple, dict[str, Any]]:
    """What to call the module with: the first sample, or an image that its configuration describes."""
    given = next(iter(data), None) if data is not None else None
    if isinstance(given, Mapping):
        return (), dict(given)
    if given is not None:
        return (given,), {}
    config = getattr(root, "config", None)
    count, size = getattr(config, "num_channels", None), getattr(config, "image_size", None) or SIZE
    if not isinstance(count, int):
        raise BadValue(
            f"The channels of {type(root).__name__} are found by tracing a call, which needs `data`: a list whose "
            "first item is what the model takes, or a dict of its arguments."
        )
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return (torch.rand(1, count, *sides, generator=torch.Generator().manual_seed(0)),), {}


def _doubled(inputs: Any) -> Any:
    """The same inputs on the CPU, with floating-point numbers in double precision."""

    def double(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.detach().cpu().double() if value.is_floating_point() else value.detach().cpu()

    return tree_map(double, inputs)


def _copy(root: nn.Module) -> nn.Module:
    """A copy to trace and try out: on the CPU, in double precision, no weight all zero (that hides what it reads)."""
    copy = deepcopy(root, {id(record_of(root)): None}).cpu().double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in copy.parameters():
        parameter.requires_grad_(parameter.numel() > 1)  # scalars have no channels that could be traced
        if not parameter.any():
            parameter.data.normal_(generator=generator)
    return copy


def _found(package: Any, copy: nn.Module, run: Run) -> Iterator[Group]:
    """The groups of the package that consist of layers that can be shrunk."""

    def outputs(*_: Any) -> list[torch.Tensor]:
        return [t for t in run() if t.grad_fn is not None]

    graph = package.DependencyGraph()
    graph.build_dependency(copy, example_inputs=(), forward_fn=outputs, verbose=False)
    paths = {module: path for path, module in copy.named_modules()}
    for found in graph.get_all_groups():
        sides: tuple[list[Side], list[Side]] = ([], [])
        units = len(found[0].idxs)
        for item in found:
            layer = item.dep.target.module
            if layer in paths and not _passes(layer):
                map_ = _map(units, item.idxs, item.root_idxs)
                if map_ is None or not _shrinks(layer):
                    break
                sides[not graph.is_out_channel_pruning_fn(item.dep.handler)].append(Side(paths[layer], [map_]))
            elif isinstance(layer, nn.Parameter):
                break
        else:
            if sides[1] and units > 1:
                yield Group(sides[0][0].path, "channels", units, *sides)


def _map(units: int, places: Iterable[int], owners: Iterable[int | None]) -> torch.Tensor | None:
    """Which places belong to each unit, int64 [units, n]; None if not each has as many."""
    owned: dict[int | None, list[int]] = {unit: [] for unit in range(units)}
    for spot, owner in zip(places, owners, strict=True):
        owned.setdefault(owner, []).append(spot)
    counts = {len(spots) for spots in owned.values()}
    if len(owned) != units or len(counts) != 1 or counts == {0}:
        return None
    return torch.tensor([sorted(spots) for spots in owned.values()])


def _passes(layer: Any) -> bool:
    """Whether a layer takes any number of channels as it is."""
    scalar = isinstance(layer, nn.PReLU) and layer.num_parameters == 1
    return scalar or (isinstance(layer, BATCH_NORMS) and not state(layer))


def _shrinks(layer: Any) -> bool:
    whole = isinstance(layer, CONVOLUTIONS) and layer.groups == 1
    return whole or isinstance(layer, (nn.Linear, nn.PReLU, *BATCH_NORMS))


@torch.no_grad()
def _goes_without_a_trace(copy: nn.Module, group: Group, run: Run) -> bool:
    """Whether the outputs are the same without half of the units as if their readers only multiplied them by nought."""
    kept = torch.randperm(group.units, generator=torch.Generator().manual_seed(0))[: group.units // 2].sort().values
    layers: dict[str, Any] = {side.path: copy.get_submodule(side.path) for side in (*group.outputs, *group.inputs)}
    before = {path: state(layer) for path, layer in layers.items()}
    try:
        left = staying(copy, [(group, kept)])
        for side in group.inputs:
            weight = torch.zeros_like(layers[side.path].weight)
            columns = left[side.path, False]
            weight[:, columns] = layers[side.path].weight[:, columns]
            layers[side.path].weight = nn.Parameter(weight)
        silent = run()
        for (path, rows), stays in left.items():
            shrink(layers[path], stays if rows else None, None if rows else stays)
        without = run()
    except Exception:
        return False
    finally:
        for path, layer in layers.items():
            place(layer, before[path])
    return len(silent) == len(without) and all(map(_close, silent, without))


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    scale = float(one.abs().max()) if one.numel() and one.is_floating_point() else 0.0
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=1e-5 * scale)
