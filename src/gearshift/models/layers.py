"""Which layers can be replaced, and why others that hold weights are left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gearshift.core.adapters import beneath
from gearshift.core.target import matches
from gearshift.layers.linear_view import matrix

SHARE = 0.01  # of a model's weights, from which on one that is no layer's is named
NEAR = 1e-2  # relative difference of two ways to multiply, in 16 bits


def replaceable(
    root: Any, types: tuple[type, ...], include: tuple[str, ...] = ("*",), exclude: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any, str | None]]:
    """(path, module, None or why it is left) of the layers of these types whose path fits the globs.

    A subclass of nn.Linear is taken like one if its forward is, or answers the same. Adapters' own layers are none.
    """
    for path, module in beneath(root):
        if matches(path, include) and not matches(path, exclude):
            linear = nn.Linear in types and isinstance(module, nn.Linear) and not _ours(module)
            if type(module) in types or linear:
                yield path, module, _reason(module)


def other_weights(
    root: Any, include: tuple[str, ...] = ("*",), exclude: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    """(path, reason) of the modules that multiply by large weights of their own and are no layer of any known kind."""
    least = SHARE * sum(p.numel() for p in root.parameters())
    known = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.EmbeddingBag)
    for path, module in beneath(root):
        fits = matches(path, include) and not matches(path, exclude)
        if not fits or isinstance(module, known) or type(module).__name__ == "Conv1D":
            continue
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim > 1 and weight.is_floating_point() and weight.numel() >= least:
                yield f"{path}.{name}", f"{type(module).__name__} multiplies by a weight of {weight.ndim} dimensions"


def unsound(layer: Any) -> str | None:
    """Why a layer's weight cannot be rounded; None if it can."""
    weight = layer.weight
    if not weight.numel():
        return "its weight is empty"
    if not weight.is_meta and not bool(weight.isfinite().all()):
        return "its weight holds infinities or NaN"
    return None


def _reason(module: Any) -> str | None:
    if isinstance(module, nn.Linear) and type(module) is not nn.Linear:
        name = type(module).__name__
        if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
            return "nn.MultiheadAttention multiplies by its weight without calling it"
        weight = module._parameters.get("weight")
        sizes = (module.out_features, module.in_features)
        if weight is None or not weight.is_floating_point() or weight.shape != sizes:
            return f"{name} keeps its weight in another form than nn.Linear"
        if type(module).forward is not nn.Linear.forward and not _answers_alike(module):
            return f"{name} computes something else than nn.Linear"
    return unsound(module)


@torch.no_grad()
def _answers_alike(module: Any) -> bool:
    """Whether a linear layer's own forward gives x @ weight.T + bias, for drawn inputs with more than one row."""
    weight = matrix(module)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, weight.shape[1], generator=draw).to(weight)
    want = F.linear(x, weight, module.bias)
    try:
        with torch.random.fork_rng(devices=[]):
            given = type(module).forward(module, x)
    except Exception:  # whatever it needs besides an input: it is no linear layer
        return False
    if not isinstance(given, torch.Tensor) or given.shape != want.shape or given.dtype != want.dtype:
        return False
    return bool((given - want).float().norm() <= NEAR * want.float().norm())


def _ours(module: Any) -> bool:
    return type(module).__module__.partition(".")[0] == __name__.partition(".")[0]
