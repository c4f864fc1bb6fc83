"""Which parameters are trained: norms, biases and heads in place (PERP, Zimmer et al. 2023, arXiv 2312.15230)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def norms_and_biases(module: nn.Module, gain: float = 1.0) -> dict[nn.Parameter, float]:
    """Weights of normalization layers and biases of all layers, with the factors of their learning rates.

    Args:
        gain: the factor of the weights'.
    """
    found: dict[nn.Parameter, float] = {}
    for part in module.modules():
        norm = "norm" in type(part).__name__.lower()
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.is_floating_point() and (name == "bias" or (norm and parameter.ndim <= 1)):
                found[parameter] = 1.0 if name == "bias" else gain
    return found


def head(model: Any, shared: bool) -> list[nn.Parameter]:
    """The output head of a language model; none where it is no float layer.

    Args:
        shared: also where it is the embedding's weight too.
    """
    get = getattr(model, "get_output_embeddings", None)
    layer = get() if get else None
    weight = layer._parameters.get("weight") if isinstance(layer, nn.Module) else None
    if weight is None or not weight.is_floating_point():
        return []
    return [weight] if shared or weight is not model.get_input_embeddings().weight else []


@contextmanager
def learning(parameters: Iterable[nn.Parameter], *models: nn.Module) -> Iterator[None]:
    """Let exactly these parameters of some models have gradients for the length of a block, which starts without any.

    What required gradients before, and the gradients that were there, are as before afterwards.
    """
    chosen = list(parameters)
    everything = dict.fromkeys([*(p for model in models for p in model.parameters()), *chosen])
    before = [(p, p.requires_grad, p.grad) for p in everything]
    try:
        for parameter in everything:
            parameter.requires_grad_(False)
            parameter.grad = None
        for parameter in chosen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient


def linears(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Linear layers of any number format, by path."""
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            yield path, layer
