"""Values of attributes as text that is equal where they mean the same, in other processes too."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from gearshift.steps.chain import Link

PLAIN = (str, bytes, int, complex, type(None), Enum, range, slice, torch.dtype, torch.device, torch.Size, torch.layout)
ORIGIN = {"_name_or_path", "name_or_path", "_commit_hash", "_diffusers_version", "transformers_version"}
ORIGIN |= {"_use_default_values", "_class_name"}  # where a configuration came from, which changes nothing
DEPTH = 6  # objects in objects that are looked into
DIGITS = 12  # of floats: adapters scale by a number and divide by it again


class AttributeTexts:
    """Makes the texts, and gathers what they were made of.

    Attributes:
        tables: what holds values that can be replaced: dicts' keys and values, lists.
        tensors: the tensors met on the way.
    """

    def __init__(self) -> None:
        self.tables: list[Iterable[Any]] = []
        self.tensors: list[torch.Tensor] = []
        self._known: dict[int, tuple[Any, str]] = {}

    def of(self, value: Any, depth: int = DEPTH) -> str:
        """The text of one value."""
        if isinstance(value, PLAIN):
            return repr(value)
        if isinstance(value, float):
            return f"{value:.{DIGITS}g}"
        if id(value) not in self._known:
            self._known[id(value)] = (value, "...")  # it may hold itself
            self._known[id(value)] = (value, self._made(value, depth - 1))
        return self._known[id(value)][1]

    def _made(self, value: Any, depth: int) -> str:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, (nn.Module, Link)) or depth < 0:
            return type(value).__qualname__
        if isinstance(value, dict):
            self.tables += [value.keys(), value.values()]
            return f"{{{', '.join(self._items(value, depth))}}}"
        if isinstance(value, (list, tuple, deque)):
            self.tables.append(value)
            return f"[{', '.join(self.of(v, depth) for v in value)}]"
        if isinstance(value, (set, frozenset)):
            self.tables.append(value)
            return f"{{{', '.join(sorted(self.of(v, depth) for v in value))}}}"
        if isinstance(value, type):
            return self._class(value, depth)
        return self._callable(value, depth) or self._object(value, depth)

    def _tensor(self, value: torch.Tensor) -> str:
        self.tensors.append(value)
        return f"{type(value).__name__} {tuple(value.shape)} {value.dtype} {value.device.type}"

    def _class(self, value: type, depth: int) -> str:
        name = f"{value.__module__}.{value.__qualname__}"
        if "<locals>" in name or value.__module__ == "__main__":  # another one may have this name
            return f"{name} {[self.of(v, depth) for v in vars(value).values() if isinstance(v, FunctionType)]}"
        return name

    def _callable(self, value: Any, depth: int) -> str:
        if isinstance(value, partial):
            return self.of([value.func, value.args, value.keywords], depth)
        if isinstance(value, MethodType):
            return self.of([value.__func__, value.__self__], depth)
        if isinstance(value, BuiltinFunctionType):
            return value.__qualname__
        if isinstance(value, FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
            return f"{value.__qualname__} {_code(value.__code__)} {self.of([value.__defaults__, cells], depth)}"
        return ""

    def _object(self, value: Any, depth: int) -> str:
        held = getattr(value, "__dict__", None)
        if not isinstance(held, dict):
            return self.of(type(value), depth)
        self.tables.append(held.values())
        return f"{self.of(type(value), depth)} {', '.join(self._items(held, depth))}"

    def _items(self, held: dict[Any, Any], depth: int) -> Iterator[str]:
        for key, value in held.items():
            if not (isinstance(key, str) and key in ORIGIN):
                yield f"{self.of(key, depth)}: {self.of(value, depth)}"


def _code(code: CodeType) -> str:
    constants = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
