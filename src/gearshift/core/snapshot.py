"""Snapshot: the layers, weights, attributes and settings of a model, held by reference, so that all can be put back."""

from __future__ import annotations

import types
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PLAIN = {type(None), bool, int, float, complex, str, bytes, range, slice}  # these lead nowhere, and are many
CODE = (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType)
CONTAINERS = (OrderedDict, dict, list, deque, set)  # their own methods are used: subclasses may refuse changes
NEAR = 2  # objects of other libraries that are followed in a row: a hook registry, and the hooks in it
LARGE = 10_000  # entries of another library's container above which it is a vocabulary or the like


class Snapshot:
    """What belongs to a model now: its modules, their attributes and containers, parameters, and our own records.

    References are held and nothing is copied: a weight that is replaced meanwhile (`parameter.data = ...`, another
    layer, another device) stays in memory as long as the snapshot. Values that are written into a tensor in place are
    not seen; `target.Written` gives a parameter other storage before that. Putting back may be done again.
    """

    def __init__(self, *roots: Any) -> None:
        self._objects: list[tuple[Any, type, dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._tensors: list[tuple[Tensor, Tensor | None, bool, Tensor | None]] = []
        self._reached: dict[int, tuple[int, Any]] = {}
        waiting = [(root, NEAR) for root in roots]
        while waiting:
            waiting += self._look(*waiting.pop())

    def back(self) -> None:
        """Put everything back."""
        for container, held in self._containers:
            _refill(container, held)
        for thing, cls, held in self._objects:
            if type(thing) is not cls:
                thing.__class__ = cls
            _refill(vars(thing), held)
        for tensor, data, needs_gradient, gradient in self._tensors:
            if data is not None and _moved(tensor, data):
                tensor.data = data
            if tensor.requires_grad != needs_gradient:
                tensor.requires_grad_(needs_gradient)
            if tensor.is_leaf and tensor.grad is not gradient:
                tensor.grad = gradient

    def _look(self, value: Any, near: int) -> Iterable[tuple[Any, int]]:
        """Hold one value; gives what it leads to."""
        import torch

        if isinstance(value, CODE):
            return ()
        before, _ = self._reached.get(id(value), (-1, None))
        if before >= near:
            return ()
        self._reached[id(value)] = near, value
        if isinstance(value, torch.Tensor):
            if before < 0:
                self._hold_tensor(value)
            return ()
        if isinstance(value, (*CONTAINERS, tuple)):
            return self._contents(value, near, before < 0)
        own = isinstance(value, torch.nn.Module) or type(value).__module__.partition(".")[0] == "gearshift"
        # what shows the attributes of something else has a proxy there, list[int] for one
        if not isinstance(getattr(value, "__dict__", None), dict) or (before >= 0 if own else near == 0):
            return ()
        held = dict(vars(value))
        if before < 1:  # else it is held, and only what lies behind it is new
            self._objects.append((value, type(value), held))
        return _leading(held.values(), NEAR if own else near - 1)

    def _contents(self, container: Any, near: int, new: bool) -> Iterable[tuple[Any, int]]:
        if len(container) > LARGE and near < NEAR:
            return ()
        held = dict(container) if isinstance(container, dict) else list(container)
        if new and isinstance(container, CONTAINERS):
            self._containers.append((container, held))
        return _leading(held.values() if isinstance(held, dict) else held, near)

    def _hold_tensor(self, tensor: Tensor) -> None:
        import torch

        plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
        gradient = tensor.grad if tensor.is_leaf else None
        self._tensors.append((tensor, tensor.data if plain else None, tensor.requires_grad, gradient))


def _leading(values: Iterable[Any], near: int) -> list[tuple[Any, int]]:
    return [(value, near) for value in values if type(value) not in PLAIN]


def _refill(container: Any, held: Any) -> None:
    """Make a container hold what it held, in the same order."""
    kind: Any = next(kind for kind in CONTAINERS if isinstance(container, kind))
    if isinstance(held, dict):
        same = _alike(list(container), list(held)) and _alike(list(container.values()), list(held.values()))
    else:
        same = container == set(held) if kind is set else _alike(list(container), held)
    if same:
        return
    kind.clear(container)
    (kind.extend if kind in (list, deque) else kind.update)(container, held)


def _alike(now: list[Any], before: list[Any]) -> bool:
    return len(now) == len(before) and all(
        a is b or (isinstance(a, str) and a == b) for a, b in zip(now, before, strict=True)
    )


def _moved(tensor: Tensor, data: Tensor) -> bool:
    """Whether a tensor lies elsewhere than it did, or is read in another way."""
    alike = (tensor.shape, tensor.dtype, tensor.device) == (data.shape, data.dtype, data.device)
    if not alike or tensor.layout != data.layout:
        return True
    strided = str(tensor.layout) == "torch.strided"
    return strided and (tensor.data_ptr() != data.data_ptr() or tensor.stride() != data.stride())
