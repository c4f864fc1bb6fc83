"""The tensors inside a module's output: a tensor, a tuple, a list, a dict, a dataclass or an output object of them.

Anything else is a leaf. Leaves that hold tensors themselves, as caches of keys and values do, are state: they belong to
the call that gave them.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from enum import Enum
from typing import Any

import torch

PLAIN = (type(None), bool, int, float, complex, str, bytes, Enum, torch.dtype, torch.device, torch.Size, torch.layout)
DEPTH = 5  # of parts and attributes that are looked through for tensors


def tensors(value: Any) -> list[torch.Tensor]:
    """The tensors of an output, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, PLAIN):
        return []
    return [t for _, v in children(value) for t in tensors(v)]


def with_tensors(value: Any, new: list[torch.Tensor]) -> Any:
    """The same structure around other tensors; `new` is used up from its front."""
    return mapped(value, lambda _: new.pop(0))


def mapped(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """The same structure with a function's values in the tensors' places."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, PLAIN):
        return value
    return rebuilt(value, [mapped(v, function) for _, v in children(value)])


def rebuilt(value: Any, new: list[Any]) -> Any:
    """A structure like this one around other parts, in order; the value itself if it has none."""
    if isinstance(value, Mapping):
        names = list(value)
        if type(value) is dict:
            return dict(zip(names, new, strict=True))
        if not isinstance(value, MutableMapping):
            return type(value)(dict(zip(names, new, strict=True)))  # type: ignore[call-arg]
        made = copy.copy(value)  # its constructor may take anything
        for name, part in zip(names, new, strict=True):
            made[name] = part
        return made
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*new)
    if isinstance(value, (tuple, list)):
        return type(value)(new)
    if new:
        value = copy.copy(value)
        for (name, _), part in zip(children(value), new, strict=True):
            object.__setattr__(value, name, part)
    return value


def structure(value: Any) -> Any:
    """What two outputs must have alike to be mixed, besides their tensors: types, names and all other leaves."""
    if isinstance(value, torch.Tensor):
        return torch.Tensor
    if isinstance(value, PLAIN):
        return value
    inside = children(value)
    if inside or isinstance(value, (Mapping, tuple, list)):
        return (type(value), *((name, structure(part)) for name, part in inside))
    return value


def alike(a: Any, b: Any) -> bool:
    """Whether two structures are equal; what cannot be compared is not."""
    try:
        return bool(a == b)
    except (ValueError, TypeError, RuntimeError):
        return False


def state_in(value: Any) -> str | None:
    """The class of the first leaf that is state; None if there is none."""
    if isinstance(value, (torch.Tensor, PLAIN)):
        return None
    inside = children(value)
    if inside or isinstance(value, (Mapping, tuple, list)):
        return next((found for _, part in inside if (found := state_in(part))), None)
    return type(value).__name__ if _holds_tensors(value, DEPTH) else None


def signature(args: tuple, kwargs: dict[str, Any]) -> list[Any]:
    """Shapes, dtypes and devices of the tensors among a call's arguments, and what else says how it is to be made."""
    found: list[Any] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            found += (value.shape, value.dtype, value.device)
        elif isinstance(value, (str, bool)):
            found.append(value)
        elif not isinstance(value, PLAIN):
            found.append([(t.shape, t.dtype, t.device) for t in tensors(value)])
    return found


def children(value: Any) -> list[tuple[Any, Any]]:
    """The named parts of a structure; none of a leaf."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and "cache" not in type(value).__name__.lower():
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if hasattr(value, f.name)]
    return []


def _holds_tensors(value: Any, depth: int) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, (PLAIN, type)) or callable(value) or not depth:
        return False
    inside = [part for _, part in children(value)]
    if not inside:
        slots = [getattr(value, name, None) for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
        inside = [*vars(value).values(), *slots] if hasattr(value, "__dict__") else slots
    return any(_holds_tensors(part, depth - 1) for part in inside)
