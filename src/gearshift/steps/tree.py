"""The tensors inside a module's output: a tensor, a tuple, a list, a dict or an output object of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


def tensors(value: Any) -> list[torch.Tensor]:
    """The tensors of an output, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in tensors(v)]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in tensors(v)]
    return []


def replaced(value: Any, new: list[torch.Tensor]) -> Any:
    """The same structure around other tensors; `new` is used up from its front."""
    return mapped(value, lambda _: new.pop(0))


def mapped(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same structure with a function's values in the tensors' places."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return type(value)(**{k: mapped(v, function) for k, v in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(v, function) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(v, function) for v in value)
    return value


def signature(args: tuple, kwargs: dict[str, Any]) -> list[Any]:
    """Shapes, dtypes and devices of the tensors among a call's arguments."""
    found: list[Any] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            found += (value.shape, value.dtype, value.device)
        elif isinstance(value, (tuple, list, dict)):
            found.append([(t.shape, t.dtype, t.device) for t in tensors(value)])
    return found
