"""Which parameters are trained: norms, biases and heads in place (PERP, Zimmer et al. 2023, arXiv 2312.15230)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
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


@dataclass(eq=False)
class Trained:
    """Parameters whose values were trained in place; the ones before are kept, they are few."""

    parameters: list[nn.Parameter]
    before: list[torch.Tensor] = field(default_factory=list)
    after: list[torch.Tensor] = field(default_factory=list)

    def lay(self) -> None:
        if not self.before:
            self.before = [p.detach().clone() for p in self.parameters]
        _write(self.parameters, self.after)

    def lift(self) -> None:
        self.after = [p.detach().clone() for p in self.parameters]
        _write(self.parameters, self.before)

    def why_not(self) -> None:
        return None


@dataclass(eq=False)
class Merged:
    """A low-rank update added to a float weight in place."""

    layer: nn.Linear
    update: torch.Tensor
    original: torch.Tensor | None
    by: str

    def lay(self) -> None:
        weight = self.layer.weight
        self.layer.weight.data = (weight.detach().float() + self.update.to(weight.device)).to(weight.dtype)

    def lift(self) -> None:
        assert self.original is not None
        self.layer.weight.data = self.original.to(self.layer.weight.device)

    def why_not(self) -> str | None:
        if self.original is not None:
            return None
        return f"{self.by} merged what it trained into weights that were not kept; keep_original=True would keep them."


def trainable(parameters: list[nn.Parameter], *models: nn.Module) -> Callable[[], None]:
    """Let exactly these parameters of some models have gradients; what is returned puts it back as it was."""
    before = [(p, p.requires_grad) for model in models for p in model.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)

    def back() -> None:
        for parameter, required in before:
            parameter.requires_grad_(required)
        for parameter in parameters:
            parameter.grad = None

    return back


def linears(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Linear layers of any number format, by path."""
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            yield path, layer


def _write(parameters: list[nn.Parameter], values: list[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=False):
        parameter.data.copy_(value)
